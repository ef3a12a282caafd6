package daemon_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// from connects from a namespace and wants an echo.
func from(ns *testnet.Namespace, network, to string) error {
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = (&net.Dialer{Timeout: 20 * time.Second}).Dial(network, to) })
	if err != nil {
		return err
	}
	defer conn.Close()
	return echoes(conn)
}

func TestE2EAPublishedPortLeadsToItsContainerFromEverywhere(t *testing.T) {
	h := startHost(t)
	world, _ := outside(t, h)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	h.setupService("api", "shared")
	web, other, api := newContainer(t, "web-0"), newContainer(t, "web-1"), newContainer(t, "api-0")
	h.attach(web, "web", false)
	h.attach(other, "web", false)
	h.attach(api, "api", false)
	web.echo()
	api.echo()

	var published []wire.PublishedPort
	for _, proto := range []wire.Proto{wire.TCP, wire.UDP} {
		for _, six := range []bool{false, true} {
			port, err := h.PublishPort(h.ctx, wire.PublishPort{Proto: proto, HostPort: map[bool]uint16{false: 8080, true: 8086}[six], IP: family(web.at, six), TargetPort: echoPort})
			require.NoError(t, err)
			again, err := h.PublishPort(h.ctx, wire.PublishPort{Proto: proto, HostPort: port.HostPort, IP: family(web.at, six), TargetPort: echoPort})
			require.NoError(t, err)
			require.Equal(t, port, again, "asked twice")
			published = append(published, port)
		}
	}
	picked, err := h.PublishPort(h.ctx, wire.PublishPort{Proto: wire.TCP, IP: family(api.at, false), TargetPort: echoPort})
	require.NoError(t, err)
	require.NotZero(t, picked.HostPort)
	_, err = h.PublishPort(h.ctx, wire.PublishPort{Proto: wire.TCP, HostPort: 8080, IP: family(api.at, false), TargetPort: echoPort})
	require.ErrorIs(t, err, client.ErrConflict, "a port that is another's")

	reachable := func() {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			for _, to := range []string{"198.51.100.1:8080", "[2001:db8:2::1]:8086"} {
				require.NoError(t, from(world, network, to), "from outside, %s %s", network, to)
				require.NoError(t, from(h.ns, network, to), "from the host, %s %s", network, to)
				for _, c := range []*container{web, other, api} {
					require.NoError(t, c.say(network, netip.MustParseAddrPort(to)), "hairpin")
				}
			}
			require.NoError(t, from(h.ns, network, "127.0.0.1:8080"), "from the host's loopback")
		}
		require.NoError(t, from(world, "tcp", fmt.Sprintf("198.51.100.1:%d", picked.HostPort)))
	}
	reachable()
	h.stop()
	require.NoError(t, from(world, "tcp", "198.51.100.1:8080"), "while no daemon runs")
	h.start()
	reachable()
	f := h.verify(web, other, api)
	require.Len(t, f.Ports, 5)

	for _, p := range append(published, picked) {
		require.NoError(t, h.UnpublishPort(h.ctx, wire.UnpublishPort{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort}))
	}
	require.Error(t, from(world, "tcp", "198.51.100.1:8080"))
	require.Empty(t, h.facts().Ports)
}
