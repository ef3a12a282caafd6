package daemon_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// freePort is a UDP port that nobody has at the moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	p, err := net.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer p.Close()
	return uint16(p.LocalAddr().(*net.UDPAddr).Port)
}

// Two daemons that need no privilege, on this machine's loopback, each with a guest.
func TestE2EWithoutPrivilegeGuestsReachEachOtherAcrossNodes(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	var hosts [2]*host
	var ports [2]uint16
	for i := range hosts {
		h := newUser(t)
		hosts[i], ports[i] = h, freePort(t)
		h.start()
		require.NoError(t, h.SetLocalNodeID(h.ctx, uint64(i+1)))
		g := globalOf(i + 1)
		g.WGPort = ports[i]
		_, err := h.SetupGlobalOverlay(h.ctx, g)
		require.NoError(t, err)
		h.setupService("web", "shared")
	}
	for i, h := range hosts {
		other := 1 - i
		spec := hosts[other].asPeer(other+1, loopback)
		spec.Endpoint = netip.AddrPortFrom(loopback, ports[other]).String()
		require.NoError(t, h.AddPeer(h.ctx, spec, nil))
	}
	var configs [2]wire.GuestConfig
	var ends [2]guest
	for i, h := range hosts {
		g, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: fmt.Sprint("vm-", i)}, Service: "web"})
		require.NoError(t, err)
		configs[i], ends[i] = g, boot(t, nil, g, loopback)
		for _, of := range hosts {
			require.NoError(t, of.RegisterDNS(of.ctx, wire.RegisterDNS{Name: fmt.Sprint("vm-", i), IP: g.OverlayIP}))
		}
	}
	ends[1].echo(t)
	ctx, cancel := context.WithTimeout(hosts[0].ctx, time.Minute)
	defer cancel()
	s, err := hosts[0].Status(ctx)
	require.NoError(t, err)
	require.Equal(t, "rootless", s.Mode)
	require.NoError(t, ends[0].SetDNS([]netip.AddrPort{netip.AddrPortFrom(s.NodeIP, 53)}))
	conn, err := ends[0].DialContext(ctx, "tcp", fmt.Sprintf("vm-1.%s:%d", zone, echoPort))
	require.NoError(t, err)
	require.NoError(t, echoes(conn))
	conn.Close()

	for _, to := range []netip.Addr{configs[0].OverlayIP, configs[1].OverlayIP} {
		pong, err := hosts[0].Ping(ctx, to)
		require.NoError(t, err, "ping %s", to)
		require.Equal(t, to, pong.IP)
	}

	// What needs the host says that there is none.
	_, err = hosts[0].AttachContainer(ctx, wire.AttachContainer{Handle: wire.LinuxPID{PID: 1}, Service: "web"})
	require.ErrorIs(t, err, client.ErrUnsupported)
	require.Contains(t, err.Error(), "rootless")
	_, err = hosts[0].SetupServiceOverlay(ctx, wire.SetupServiceOverlay{Service: "db", Mode: wire.ModeDedicated})
	require.ErrorIs(t, err, client.ErrUnsupported)
	require.Contains(t, err.Error(), "rootless")

	before := hosts[1].facts()
	hosts[1].stop()
	hosts[1].start()
	require.Equal(t, before.text(), hosts[1].facts().text())
	conn, err = ends[0].DialContext(ctx, "tcp", netip.AddrPortFrom(configs[1].OverlayIP, echoPort).String())
	require.NoError(t, err, "after a restart")
	require.NoError(t, echoes(conn))
	conn.Close()
}
