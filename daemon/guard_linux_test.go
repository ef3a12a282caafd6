package daemon_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// guards are the prefixes that a host has a guard of.
func (h *host) guards() string {
	h.t.Helper()
	var all []string
	for line := range strings.Lines(h.run("ip", "route", "show", "proto", "111") + h.run("ip", "-6", "route", "show", "proto", "111")) {
		fields := strings.Fields(line)
		require.Equal(h.t, "unreachable", fields[0])
		all = append(all, fields[1])
	}
	return strings.Join(all, " ")
}

// What is for a peer must not be seen outside while there is no device to it.
func TestWhatIsForPeersNeverLeavesInTheClear(t *testing.T) {
	h := startHost(t)
	world, _ := outside(t, h)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	c := newContainer(t, "web-0")
	h.attach(c, "web", false)
	fresh := h.listing()
	spec := aPeer
	spec.AllowedIPs = "10.77.0.0/16,fd77::/64,0.0.0.0/0,192.0.2.0/24" // the last has its endpoint
	require.NoError(t, h.AddPeer(h.ctx, spec, nil))
	require.Equal(t, "10.77.0.0/16 fd77::/64", h.guards())

	seen := capture(t, world)
	try := func() {
		for _, to := range []string{"10.77.0.9", "fd77::9"} {
			require.Error(t, c.ping(netip.MustParseAddr(to), "-W", "0.2"))
			require.Error(t, h.ns.Command("ping", "-n", "-c", "1", "-W", "0.2", to).Run())
		}
	}
	try()
	h.run("ip", "link", "delete", h.facts().Status.Interface)
	try() // while it is made anew, or when it was
	h.kill()
	require.Equal(t, "10.77.0.0/16 fd77::/64", h.guards())
	try()
	require.NoError(t, c.ping(netip.MustParseAddr("198.51.100.2")), "the way out is no guard's")
	h.run("ip", "route", "flush", "proto", "111") // what is missing is made, what is left over goes
	h.run("ip", "route", "add", "unreachable", "10.99.0.0/16", "proto", "111", "metric", "1073741824")
	h.start()
	require.Equal(t, "10.77.0.0/16 fd77::/64", h.guards())
	try()
	for _, packet := range seen() {
		_, dst := addresses(packet)
		for _, p := range []string{"10.77.0.0/16", "fd77::/64"} {
			require.False(t, netip.MustParsePrefix(p).Contains(dst), "%s was seen outside", dst)
		}
	}

	require.NoError(t, h.RemoveAllowedIP(h.ctx, spec.PublicKey, "10.77.0.0/16", nil))
	require.Equal(t, "fd77::/64", h.guards())
	// A prefix with an endpoint in it is neither routed nor guarded any more.
	other := peerOf(t)
	other.Endpoint, other.AllowedIPs = "[fd77::1]:51420", "10.78.0.0/16"
	require.NoError(t, h.AddPeer(h.ctx, other, nil))
	require.Equal(t, "10.78.0.0/16", h.guards())
	require.NoError(t, h.RemovePeer(h.ctx, other.PublicKey, nil))
	require.Equal(t, "fd77::/64", h.guards())
	require.NoError(t, h.RemovePeer(h.ctx, spec.PublicKey, nil))
	require.Equal(t, stable(fresh), stable(h.listing()))

	require.NoError(t, h.AddPeer(h.ctx, spec, nil))
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	require.Empty(t, h.guards())
}

func TestCleanupRemovesGuards(t *testing.T) {
	h := startHost(t)
	fresh := h.listing()
	_, err := h.SetupGlobalOverlay(h.ctx, wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16", WGPort: 51420})
	require.NoError(t, err)
	p := peerOf(t)
	p.AllowedIPs = "10.77.0.0/16"
	require.NoError(t, h.AddPeer(h.ctx, p, nil))
	require.Equal(t, "10.77.0.0/16", h.guards())
	h.kill()
	report, err := h.cleanup(false)
	require.NoError(t, err)
	require.Equal(t, 1, report.Guards)
	require.Equal(t, fresh, h.listing())
}
