package hostnet_test

import (
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAGuardStandsInForAWayThatIsGone(t *testing.T) {
	ns, h, link := newLink(t)
	for _, a := range prefixes("192.0.2.1/24", "2001:db8::1/64") {
		require.NoError(t, h.AddAddr(link.Index, a))
	}
	for _, r := range []string{"default via 192.0.2.9", "default via 2001:db8::9", "10.77.1.0/24 via 192.0.2.9"} {
		run(t, ns, "sh", "-c", "ip route add "+r)
	}
	leaves := func(to string) error {
		_, _, err := h.LookupRoute(netip.MustParseAddr(to), netip.Addr{}, 0)
		return err
	}
	guarded := prefixes("10.77.0.0/16", "fd77::/64")
	for _, p := range guarded {
		require.NoError(t, leaves(p.Addr().Next().String()), "by the default route")
		require.NoError(t, h.AddGuard(p))
		require.NoError(t, h.AddGuard(p), "twice")
		require.ErrorIs(t, leaves(p.Addr().Next().String()), unix.EHOSTUNREACH)
	}
	require.NoError(t, leaves("10.77.1.1"), "a part with a way of its own")
	require.NoError(t, leaves("10.78.0.1"))

	// Any way to the same prefix is better.
	for _, p := range guarded {
		r := hostnet.Route{Dst: p, Index: link.Index}
		require.NoError(t, h.AddRoute(link.Index, p))
		require.NoError(t, leaves(p.Addr().Next().String()))
		require.NoError(t, h.SetRoute(r))
		require.NoError(t, h.DeleteRoute(r))
		require.ErrorIs(t, leaves(p.Addr().Next().String()), unix.EHOSTUNREACH, "what is deleted is the way")
	}
	run(t, ns, "sh", "-c", "ip route add 10.77.0.0/16 via 192.0.2.9 metric 4242")
	require.NoError(t, leaves("10.77.0.1"))
	run(t, ns, "sh", "-c", "ip route del 10.77.0.0/16 via 192.0.2.9 metric 4242")

	run(t, ns, "sh", "-c", "ip route add unreachable 10.79.0.0/16; ip route add unreachable 10.77.0.0/16 metric 7; ip route add unreachable 10.80.0.0/16 metric 1073741824")
	got, err := h.Guards()
	require.NoError(t, err)
	require.ElementsMatch(t, guarded, got)
	for _, p := range guarded {
		require.NoError(t, h.DeleteGuard(p))
		require.NoError(t, h.DeleteGuard(p), "twice")
	}
	got, err = h.Guards()
	require.NoError(t, err)
	require.Empty(t, got)
	require.Subset(t, destinations(ip(t, ns, "route")), []string{"10.77.0.0/16", "10.79.0.0/16", "10.80.0.0/16"}, "those of others")
	require.NoError(t, leaves("fd77::1"))
}
