package hostnet_test

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func route(dst string, index int) hostnet.Route {
	return hostnet.Route{Dst: netip.MustParsePrefix(dst), Index: index}
}

func TestRoutesAreSetReplacedAndDeleted(t *testing.T) {
	ns, h, link := newLink(t)
	for _, a := range prefixes("192.0.2.1/24", "192.0.2.9/24", "2001:db8::1/64", "2001:db8::9/64") {
		require.NoError(t, h.AddAddr(link.Index, a))
	}
	via := func(r hostnet.Route, gateway, src string) hostnet.Route {
		r.Gateway = netip.MustParseAddr(gateway)
		if src != "" {
			r.Src = netip.MustParseAddr(src)
		}
		return r
	}
	want := []hostnet.Route{
		route("0.0.0.0/0", link.Index), route("198.51.100.0/24", link.Index), via(route("203.0.113.1/32", link.Index), "192.0.2.2", "192.0.2.9"),
		route("2001:db8:1::/48", link.Index), via(route("2001:db8:2::/48", link.Index), "2001:db8::2", "2001:db8::9"), via(route("::/0", link.Index), "2001:db8::2", ""),
	}
	for range 2 {
		for _, r := range want {
			require.NoError(t, h.SetRoute(r), "%v", r.Dst)
		}
	}
	got, err := h.Routes(link.Index)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
	require.ElementsMatch(t, []string{"default", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.1"}, destinations(ip(t, ns, "-4", "route")))

	// In the place of the one there is, to the same prefix.
	changed := via(route("198.51.100.0/24", link.Index), "192.0.2.3", "")
	require.NoError(t, h.SetRoute(changed))
	want[1] = changed
	got, err = h.Routes(link.Index)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)

	for _, r := range want {
		require.NoError(t, h.DeleteRoute(r))
		require.NoError(t, h.DeleteRoute(r), "twice")
	}
	got, err = h.Routes(link.Index)
	require.NoError(t, err)
	require.Empty(t, got)
	require.NoError(t, h.SetRoute(want[2]))
	require.NoError(t, h.DeleteRoute(route("203.0.113.1/32", link.Index)), "whatever its gateway")
	got, err = h.Routes(link.Index)
	require.NoError(t, err)
	require.Empty(t, got)

	require.NoError(t, h.DeleteRoute(route("198.51.100.0/24", 1<<20)))
	require.ErrorIs(t, h.SetRoute(route("198.51.100.0/24", 1<<20)), unix.ENODEV)
	require.ErrorIs(t, h.SetRoute(via(route("198.51.100.0/24", link.Index), "203.0.113.7", "")), unix.ENETUNREACH)
}

func TestRoutesOfOthersMakersAreNotReturned(t *testing.T) {
	ns, h, link := newLink(t)
	require.NoError(t, h.AddAddr(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
	for _, r := range []string{"198.51.100.0/24 dev left proto kernel", "198.51.101.0/24 dev left table 100", "198.51.102.0/24 dev left proto ra", "198.51.103.0/24 dev left proto boot"} {
		run(t, ns, "sh", "-c", "ip route add "+r)
	}
	got, err := h.Routes(link.Index)
	require.NoError(t, err)
	require.Equal(t, []hostnet.Route{route("198.51.103.0/24", link.Index)}, got)
}

func TestAddressesAreAddedAndDeletedOnce(t *testing.T) {
	_, h, link := newLink(t)
	want := prefixes("192.0.2.1/24", "192.0.2.2/32", "2001:db8::1/64")
	for range 2 {
		for _, a := range want {
			require.NoError(t, h.AddAddr(link.Index, a))
		}
	}
	require.ErrorIs(t, h.AddAddr(link.Index, netip.MustParsePrefix("2001:db8::1/128")), unix.EEXIST)
	got, err := h.Addrs(link.Index)
	require.NoError(t, err)
	require.Subset(t, got, want)
	for range 2 {
		for _, a := range want {
			require.NoError(t, h.DeleteAddr(link.Index, a))
		}
	}
	got, err = h.Addrs(link.Index)
	require.NoError(t, err)
	require.NotContains(t, got, want[0])
	require.NotContains(t, got, want[2])
	require.NoError(t, h.DeleteAddr(1<<20, want[0]))
}

func TestLinksAreListedChangedAndDeleted(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	run(t, h.Namespace, "ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
	port, err := h.LinkByName("port0")
	require.NoError(t, err)
	require.NoError(t, h.SetAlias(port.Index, "something"))
	require.NoError(t, h.SetMaster(port.Index, bridge.Index))
	port.Alias, port.Master = "something", bridge.Index
	links, err := h.Links()
	require.NoError(t, err)
	require.Contains(t, links, port)
	require.Len(t, links, len(ip(t, h.Namespace, "link")))

	require.NoError(t, h.SetMaster(port.Index, 0))
	require.NoError(t, h.SetAlias(port.Index, ""))
	now, err := h.Link(port.Index)
	require.NoError(t, err)
	require.Zero(t, now.Master)
	require.Empty(t, now.Alias)

	for range 2 {
		require.NoError(t, h.DeleteLink(port.Index))
	}
	_, err = h.LinkByName("port1")
	require.ErrorIs(t, err, unix.ENODEV, "the other end")
	require.ErrorIs(t, h.SetAlias(port.Index, "x"), unix.ENODEV)
	require.ErrorIs(t, h.SetMaster(port.Index, bridge.Index), unix.ENODEV)
}

func TestListingLinksWhileTheyChange(t *testing.T) {
	h := newHost(t)
	run(t, h.Namespace, "sh", "-ec", "for i in $(seq 60); do ip link add steady$i type bridge; done")
	var changing sync.WaitGroup
	defer changing.Wait()
	changing.Go(func() {
		run(t, h.Namespace, "sh", "-c", "for i in $(seq 30); do ip link add fleeting type bridge; ip link del fleeting; done")
	})
	for range 30 {
		links, err := h.Links()
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(links), 61)
	}
}
