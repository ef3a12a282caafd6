package hostnet_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestContainersOnABridgeReachEachOtherRightAway(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	a, b := startContainer(t), startContainer(t)

	link, err := h.AddVeth(eth0(bridge, a, 0))
	require.NoError(t, err)
	a.run(once("10.200.1.1")...)
	a.run(once("fd00:200:0:1::1")...)
	want := ip(t, h.Namespace, "link", "show", "dev", "ovl-0-s")[0]
	require.Equal(t, hostnet.Link{
		Index: int(want["ifindex"].(float64)), Name: "ovl-0-s", MTU: mtu, Up: true, Kind: "veth",
		Alias: "overlayd:test:eth0:0", Master: bridge.Index, MAC: want["address"].(string),
	}, link)

	_, err = h.AddVeth(eth0(bridge, b, 1))
	require.NoError(t, err)
	b.run(once("fd00:200:0:1::2")...)
	a.run(once("10.200.1.3")...)
	a.run(once("127.0.0.1")...)
	require.NoError(t, h.CheckVeth(eth0(bridge, a, 0)))
	require.NoError(t, h.CheckVeth(eth0(bridge, b, 1)))
}

func TestThirtyContainersReachTheLastOneAsSoonAsItIsThere(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	first := startContainer(t)
	_, err := h.AddVeth(eth0(bridge, first, 0))
	require.NoError(t, err)
	for n := 1; n <= 30; n++ {
		c := startContainer(t)
		v := eth0(bridge, c, n)
		_, err := h.AddVeth(v)
		require.NoError(t, err)
		first.run(once(v.Addrs[n%2].Addr().String())...)
	}
}

func TestARoutedCableReachesTheCluster(t *testing.T) {
	h := newHost(t)
	// The node's address is on another link, as the WireGuard device's is.
	run(t, h.Namespace, "sh", "-ec", "ip link add node type bridge; ip link set node up; ip addr add 10.200.7.1/16 dev node; ip -6 addr add fd00:200:0:7::1/48 dev node nodad; "+untilLocal("fd00:200:0:7::1"))
	run(t, h.Namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.arp_ignore=2")
	bridge := newBridge(t, h)
	a, b := startContainer(t), startContainer(t)
	_, err := h.AddVeth(eth0(bridge, a, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(a, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(b, 1))
	require.NoError(t, err)

	for _, addr := range []string{"10.200.7.1", "fd00:200:0:7::1", "10.200.7.3", "fd00:200:0:7::3"} {
		a.run(append(once(addr), "-I", "eth1")...)
		a.run(once(addr)...)
	}
	require.Contains(t, a.run("ip", "route", "get", "10.200.99.1"), "via 10.200.7.1 dev eth1 src 10.200.7.2")
	require.Contains(t, a.run("ip", "route", "get", "192.0.2.1"), "via 10.200.1.1 dev eth0")
	require.Contains(t, a.run("ip", "-6", "route", "get", "fd00:200:0:99::1"), "via fd00:200:0:7::1 dev eth1")
	run(t, h.Namespace, once("10.200.7.3")...)
	run(t, h.Namespace, once("fd00:200:0:7::3")...)
	require.NoError(t, h.CheckVeth(eth1(a, 0)))
	require.NoError(t, h.CheckVeth(eth1(b, 1)))
}

// TestAnAnswerMayTakeTheOtherCable is of a host that looks where what it forwards
// comes from: one container asks at another's address of the bridge, and is answered
// through the other's routed cable.
func TestAnAnswerMayTakeTheOtherCable(t *testing.T) {
	h := newHost(t)
	run(t, h.Namespace, "sh", "-ec", "ip link add node type bridge; ip link set node up; ip addr add 10.200.7.1/16 dev node")
	run(t, h.Namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
	bridge := newBridge(t, h)
	asked, asks := startContainer(t), startContainer(t)
	asked.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
	_, err := h.AddVeth(eth0(bridge, asked, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(asked, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(asks, 1))
	require.NoError(t, err)
	asks.run(once("10.200.1.2")...)
}

// TestNeighboursLearnWhoHasAnAddressNow has a container be asked by another that knew
// the one before with its address.
func TestNeighboursLearnWhoHasAnAddressNow(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	asks := startContainer(t)
	_, err := h.AddVeth(eth0(bridge, asks, 0))
	require.NoError(t, err)
	for i, has := range [][]string{
		{"10.200.1.3/22", "fd00:200:0:1::3/112"},
		{"10.200.1.3/22", "fd00:200:0:1::4/112"},
		{"10.200.1.4/22", "fd00:200:0:1::3/112"},
		{"fd00:200:0:1::4/112", "10.200.1.3/22"},
		{"fd00:200:0:1::5/112"},
		{"fd00:200:0:1::5/112"},
	} {
		c := startContainer(t)
		v := eth0(bridge, c, 1)
		v.Addrs, v.Gateways = prefixes(has...), nil
		if len(v.Addrs) > 1 {
			v.Announce = addrs("fd00:200:0:1::3", "fd00:200:0:1::4")[i%2 : i%2+1]
		}
		link, err := h.AddVeth(v)
		require.NoError(t, err)
		for _, a := range v.Addrs {
			asks.run(once(a.Addr().String())...)
		}
		require.NoError(t, h.DeleteLink(link.Index))
	}
}

func TestACableIsMadeWholeOrNotAtAll(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	taken := startContainer(t)
	_, err := h.AddVeth(eth0(bridge, taken, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(taken, 0))
	require.NoError(t, err)
	dead := startContainer(t)
	dead.end()
	before := h.listing(t)

	for name, c := range map[string]struct {
		change func(v *hostnet.Veth)
		is     error
		says   string
	}{
		"a name the host has":          {func(v *hostnet.Veth) { v.Host = "ovl-0-s" }, unix.EEXIST, "the host has a link ovl-0-s"},
		"a name the container has":     {func(v *hostnet.Veth) { v.Container = "lo" }, unix.EEXIST, "the container has a link lo"},
		"a name that is too long":      {func(v *hostnet.Veth) { v.Host = "ovl-0123456789ab" }, unix.ERANGE, "ovl-0123456789ab"},
		"an address of a group":        {func(v *hostnet.Veth) { v.Addrs = prefixes("ff02::1/64") }, unix.EADDRNOTAVAIL, "add address ff02::1/64"},
		"an unreachable gateway":       {func(v *hostnet.Veth) { v.Gateways = addrs("192.0.2.1") }, unix.ENETUNREACH, "add route 0.0.0.0/0"},
		"an unreachable IPv6 gateway":  {func(v *hostnet.Veth) { v.Gateways = addrs("2001:db8::1") }, unix.EHOSTUNREACH, "add route ::/0"},
		"a bridge that is gone":        {func(v *hostnet.Veth) { v.Bridge = 1 << 20 }, unix.EINVAL, "a port of link 1048576"},
		"a master that is none":        {func(v *hostnet.Veth) { v.Bridge = 1 }, unix.EOPNOTSUPP, "a port of link 1"},
		"an MTU out of range":          {func(v *hostnet.Veth) { v.MTU = 1 << 20 }, unix.EINVAL, "cable"},
		"an address the host routes":   {func(v *hostnet.Veth) { v.Bridge, v.Addrs, v.Gateways = 0, prefixes("10.200.7.2/32"), nil }, unix.EEXIST, "add route 10.200.7.2/32"},
		"a namespace that was closed":  {func(v *hostnet.Veth) { v.Namespace = dead.ns }, os.ErrClosed, "cable"},
		"an alias longer than allowed": {func(v *hostnet.Veth) { v.Alias = string(make([]byte, 300)) }, unix.ERANGE, "set alias"},
	} {
		t.Run(name, func(t *testing.T) {
			free := startContainer(t)
			inside, files := free.run("ip", "-details", "link", "show", "type", "veth"), openFiles(t)
			v := eth0(bridge, free, 1)
			c.change(&v)
			_, err := h.AddVeth(v)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
			same(t, before, h.listing(t))
			require.Equal(t, inside, free.run("ip", "-details", "link", "show", "type", "veth"))
			requireNoMoreFiles(t, files)
			require.Error(t, h.CheckVeth(v))
		})
	}
	require.NoError(t, h.CheckVeth(eth0(bridge, taken, 0)), "another is left alone")
}

func TestAHalfMadeCableCanBeRemovedAndMade(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	c := startContainer(t)
	v := eth0(bridge, c, 0)
	link, err := h.AddVeth(v)
	require.NoError(t, err)
	for _, half := range []string{"ip route flush dev eth0", "ip addr flush dev eth0", "ip link set eth0 down"} {
		c.run("sh", "-c", half)
		require.Error(t, h.CheckVeth(v), half)
		_, err = h.AddVeth(v)
		require.ErrorIs(t, err, unix.EEXIST)
		require.NoError(t, h.DeleteLink(link.Index))
		link, err = h.AddVeth(v)
		require.NoError(t, err)
		require.NoError(t, h.CheckVeth(v))
		c.run(once("10.200.1.1")...)
	}
}

func TestCheckVethSaysWhatIsNotWhole(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	c := startContainer(t)
	v := eth0(bridge, c, 0)
	link, err := h.AddVeth(v)
	require.NoError(t, err)
	require.NoError(t, h.CheckVeth(v))

	for _, change := range []struct{ in, do, undo, says string }{
		{"container", "ip addr del 10.200.1.2/22 dev eth0", "ip addr add 10.200.1.2/22 dev eth0 && ip route add default via 10.200.1.1", "address 10.200.1.2/22 is missing"},
		{"container", "ip -6 addr del fd00:200:0:1::2/112 dev eth0", "ip -6 addr add fd00:200:0:1::2/112 dev eth0 nodad", "address fd00:200:0:1::2/112 is missing"},
		{"container", "ip route del default", "ip route add default via 10.200.1.1", "the route to 0.0.0.0/0 is missing"},
		{"container", "ip -6 route del default", "ip -6 route add default via fd00:200:0:1::1", "the route to ::/0 is missing"},
		{"container", "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1420", "eth0 has MTU 1300, not 1420"},
		{"host", "ip link set ovl-0-s mtu 1300", "ip link set ovl-0-s mtu 1420", "ovl-0-s has MTU 1300, not 1420"},
		{"host", "ip link set ovl-0-s down", "ip link set ovl-0-s up", "ovl-0-s is down"},
		{"host", "ip link set ovl-0-s nomaster", "ip link set ovl-0-s master ovl-b", "a port of link 0"},
		{"host", "ip link set ovl-0-s alias other", "ip link set ovl-0-s alias overlayd:test:eth0:0", `alias "other"`},
	} {
		do := func(what string) {
			if change.in == "host" {
				run(t, h.Namespace, "sh", "-c", what)
			} else {
				c.run("sh", "-c", what)
			}
		}
		do(change.do)
		require.ErrorContains(t, h.CheckVeth(v), change.says)
		do(change.undo)
		if change.do != "ip link set ovl-0-s down" && change.do != "ip -6 addr del fd00:200:0:1::2/112 dev eth0" {
			require.NoError(t, h.CheckVeth(v), change.undo)
		}
		if h.CheckVeth(v) != nil {
			require.NoError(t, h.DeleteLink(link.Index))
			link, err = h.AddVeth(v)
			require.NoError(t, err)
		}
	}

	other := startContainer(t)
	w := eth0(bridge, other, 0)
	w.Host = "ovl-other-s"
	_, err = h.AddVeth(w)
	require.NoError(t, err)
	w.Host = v.Host
	require.ErrorContains(t, h.CheckVeth(w), "not the other end")
}

func TestACableGoesWithItsContainer(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	before := h.listing(t)
	c := startContainer(t)
	_, err := h.AddVeth(eth0(bridge, c, 0))
	require.NoError(t, err)
	_, err = h.AddVeth(eth1(c, 0))
	require.NoError(t, err)
	w := watchLinks(t, h)
	c.end()
	w.awaitGone("ovl-0-s", "ovl-0-j")
	same(t, before, h.listing(t))
}

func TestAContainerCannotChangeTheRoutesOfTheHost(t *testing.T) {
	h := newHost(t)
	run(t, h.Namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_ra=2")
	bridge := newBridge(t, h)
	c := startContainer(t)
	for _, v := range []hostnet.Veth{eth0(bridge, c, 0), eth1(c, 0)} {
		_, err := h.AddVeth(v)
		require.NoError(t, err)
	}
	require.Equal(t, "0", readIn(t, h, "net.ipv6.conf.ovl-b.accept_ra"))
	require.Equal(t, "0", readIn(t, h, "net.ipv6.conf.ovl-0-j.accept_ra"))
}

func TestIPv6WorksInAContainerWhereItIsOffByDefault(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	c := startContainer(t)
	c.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	_, err := h.AddVeth(eth0(bridge, c, 0))
	require.NoError(t, err)
	c.run(once("fd00:200:0:1::1")...)
}

func TestCablesLeaveNoFilesOpen(t *testing.T) {
	h := newHost(t)
	bridge := newBridge(t, h)
	c := startContainer(t)
	before := openFiles(t)
	for range 10 {
		link, err := h.AddVeth(eth0(bridge, c, 0))
		require.NoError(t, err)
		require.NoError(t, h.CheckVeth(eth0(bridge, c, 0)))
		require.NoError(t, h.DeleteLink(link.Index))
		require.NoError(t, h.DeleteLink(link.Index), "twice")
	}
	requireNoMoreFiles(t, before)
}

// BenchmarkAddVeth is what a container costs (median of fifty), when it is one of the
// first on its bridge, and when there are 500.
func BenchmarkAddVeth(b *testing.B) {
	for name, addrs := range map[string]int{"IPv4": 1, "both families": 2} {
		b.Run(name, func(b *testing.B) {
			var first, last []time.Duration
			for b.Loop() {
				h := newHost(b)
				bridge := newBridge(b, h)
				require.NoError(b, h.SetFirewall(hostnet.Firewall{Bridges: []string{bridge.Name}}))
				var took []time.Duration
				for n := range 550 {
					v := eth0(bridge, startContainer(b), n)
					v.Addrs, v.Gateways = v.Addrs[:addrs], v.Gateways[:addrs]
					begin := time.Now()
					_, err := h.AddVeth(v)
					took = append(took, time.Since(begin))
					require.NoError(b, err)
				}
				first, last = append(first, took[:50]...), append(last, took[500:]...)
			}
			b.ReportMetric(median(first), "first-µs")
			b.ReportMetric(median(last), "at500-µs")
			b.ReportMetric(median(last)/median(first), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(d []time.Duration) float64 {
	return float64(slices.Sorted(slices.Values(d))[len(d)/2].Nanoseconds()) / 1000
}
