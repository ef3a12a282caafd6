package daemon_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A guest is a TCP/IP stack with WireGuard below it.
type guest struct{ *netstack.Stack }

// boot makes a guest of what it was told, in a namespace, or this one if that is
// nil, which reaches the host at an address.
func boot(t *testing.T, ns *testnet.Namespace, g wire.GuestConfig, host netip.Addr) guest {
	t.Helper()
	key, err := overlay.ParsePrivateKey(string(g.PrivateKey))
	require.NoError(t, err)
	require.Equal(t, g.PublicKey, key.Public().String())
	require.Len(t, g.Peers, 1, "a guest's only peer is its node")
	require.NotZero(t, g.Peers[0].Keepalive)
	stack, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(g.OverlayIP, int(g.PrefixLen))}})
	require.NoError(t, err)
	var node *overlay.Node
	run := func() { node, err = overlay.New(overlay.Config{PrivateKey: key, Device: stack.Device()}) }
	if ns != nil {
		ns.Do(run)
	} else {
		run()
	}
	require.NoError(t, err)
	t.Cleanup(func() { node.Close() })
	// Its host rewrites the endpoint's address, which is on the overlay, to where the
	// guest reaches the host.
	at, err := netip.ParseAddrPort(g.Peers[0].Endpoint)
	require.NoError(t, err)
	peer := overlay.Peer{Endpoint: netip.AddrPortFrom(host, at.Port()).String(), Keepalive: time.Duration(g.Peers[0].Keepalive) * time.Second}
	peer.PublicKey, err = overlay.ParsePublicKey(g.Peers[0].PublicKey)
	require.NoError(t, err)
	for text := range strings.SplitSeq(g.Peers[0].AllowedIPs, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		require.NoError(t, err)
		peer.AllowedIPs = append(peer.AllowedIPs, prefix)
	}
	require.NoError(t, node.SetPeer(t.Context(), peer))
	return guest{stack}
}

// echo answers over TCP until the guest is gone.
func (g guest) echo(t *testing.T) {
	t.Helper()
	l, err := g.Listen("tcp", fmt.Sprintf(":%d", echoPort))
	require.NoError(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); io.Copy(conn, conn) }()
		}
	}()
}

func TestE2EGuestsReachContainersAndEachOther(t *testing.T) {
	p := joinHosts(t, false, 1, "web")
	h := p.hosts[0]
	machines := testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(
		testnet.Port{Namespace: h.ns, Name: "vmnet", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.64.1/24")}},
		testnet.Port{Namespace: machines, Name: "en0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.64.2/24")}}))
	server := netip.MustParseAddr("10.200.1.1")
	var guests []guest
	var configs []wire.GuestConfig
	for _, id := range []string{"vm-1", "vm-2"} {
		g, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: id}, Service: "web", DNSServer: server, DNSDomain: zone})
		require.NoError(t, err)
		again, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: id}, Service: "web", DNSServer: server, DNSDomain: zone})
		require.NoError(t, err)
		require.Equal(t, g, again, "asked twice")
		require.Equal(t, server, g.DNSServer)
		require.Equal(t, zone, g.DNSDomain)
		configs = append(configs, g)
		guests = append(guests, boot(t, machines, g, netip.MustParseAddr("192.168.64.1")))
	}
	require.NotEqual(t, configs[0].OverlayIP, configs[1].OverlayIP)
	h.verify(p.containers[0]["web"]...)

	ctx, cancel := context.WithTimeout(h.ctx, time.Minute)
	defer cancel()
	guests[1].echo(t)
	for _, to := range []struct {
		who string
		at  netip.Addr
	}{
		{"another guest", configs[1].OverlayIP},
		{"a container on the other host", family(p.containers[1]["web"][0].at, false)},
		{"a container on the host", family(p.containers[0]["web"][0].at, false)},
	} {
		conn, err := guests[0].DialContext(ctx, "tcp", netip.AddrPortFrom(to.at, echoPort).String())
		require.NoError(t, err, to.who)
		require.NoError(t, echoes(conn), to.who)
		conn.Close()
	}
	// And who wakes a guest up, from either host.
	for i := range p.hosts {
		require.NoError(t, p.containers[i]["web"][0].say("tcp", netip.AddrPortFrom(configs[1].OverlayIP, echoPort)))
	}
	// It asks for names over the overlay.
	require.NoError(t, guests[0].SetDNS([]netip.AddrPort{netip.AddrPortFrom(server, 53)}))
	found, err := guests[0].Resolver().LookupNetIP(ctx, "ip4", p.containers[1]["web"][0].name+"."+zone)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{family(p.containers[1]["web"][0].at, false)}, found)

	require.NoError(t, h.DetachContainer(h.ctx, wire.GuestManaged{ID: "vm-1"}))
	_, err = guests[0].DialContext(shortly(t), "tcp", netip.AddrPortFrom(family(p.containers[0]["web"][0].at, false), echoPort).String())
	require.Error(t, err, "a guest that was detached")
	require.NoError(t, h.DetachContainer(h.ctx, wire.GuestManaged{ID: "vm-2"}))
	h.verify(p.containers[0]["web"]...)
}

// A guest that makes its own key tells nobody the private half.
func TestE2EAGuestMayBringItsOwnKey(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	g, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web", PublicKey: aPeer.PublicKey})
	require.NoError(t, err)
	require.Empty(t, g.PrivateKey)
	require.Equal(t, aPeer.PublicKey, g.PublicKey)
	h.stop()
	h.start()
	again, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web", PublicKey: aPeer.PublicKey})
	require.NoError(t, err)
	require.Equal(t, g, again)
}

func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func echoes(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 5))
	return err
}
