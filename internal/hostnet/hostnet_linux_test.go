package hostnet_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newLink makes a namespace with a link "left" that is up, and a handle on it.
func newLink(t *testing.T) (*testnet.Namespace, *hostnet.Handle, hostnet.Link) {
	t.Helper()
	ns, other := testnet.NewNamespace(t), testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(
		testnet.Port{Namespace: ns, Name: "left"},
		testnet.Port{Namespace: other, Name: "right"},
	))
	var h *hostnet.Handle
	var err error
	ns.Do(func() { h, err = hostnet.Open() })
	require.NoError(t, err)
	t.Cleanup(h.Close)
	link, err := h.LinkByName("left")
	require.NoError(t, err)
	return ns, h, link
}

// ip runs ip(8), which tells what is independently of what is tested.
func ip(t *testing.T, ns *testnet.Namespace, args ...string) []map[string]any {
	t.Helper()
	out := ns.Output(t, "ip", append([]string{"-json"}, args...)...)
	var list []map[string]any
	if len(out) > 0 {
		require.NoError(t, json.Unmarshal(out, &list), "%s", out)
	}
	return list
}

func TestALinkIsWhatTheKernelSays(t *testing.T) {
	ns, h, link := newLink(t)
	want := ip(t, ns, "link", "show", "dev", "left")[0]
	require.EqualValues(t, want["ifindex"], link.Index)
	require.EqualValues(t, want["mtu"], link.MTU)
	require.Equal(t, "left", link.Name)
	require.True(t, link.Up)

	again, err := h.Link(link.Index)
	require.NoError(t, err)
	require.Equal(t, link, again)

	_, err = h.LinkByName("nothing")
	require.ErrorIs(t, err, unix.ENODEV)
	_, err = h.Link(1 << 20)
	require.ErrorIs(t, err, unix.ENODEV)
}

func TestAddressesRoutesMTUAndQueueReachTheKernel(t *testing.T) {
	ns, h, link := newLink(t)
	require.NoError(t, h.SetMTU(link.Index, 1420))
	require.NoError(t, h.SetQueue(link.Index, 700))
	for _, addr := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		require.NoError(t, h.AddAddr(link.Index, netip.MustParsePrefix(addr)))
	}
	for _, dst := range []string{"198.51.100.0/24", "0.0.0.0/0", "2001:db8:1::/48", "::/0"} {
		require.NoError(t, h.AddRoute(link.Index, netip.MustParsePrefix(dst)))
	}

	now := ip(t, ns, "link", "show", "dev", "left")[0]
	require.EqualValues(t, 1420, now["mtu"])
	require.EqualValues(t, 700, now["txqlen"])
	var addrs []any
	for _, a := range ip(t, ns, "addr", "show", "dev", "left", "scope", "global")[0]["addr_info"].([]any) {
		if a := a.(map[string]any); a["local"] != nil { // ip leaves {} for what it filters
			addrs = append(addrs, a["local"])
			require.NotContains(t, a, "broadcast")
			require.NotContains(t, a, "tentative")
		}
	}
	require.ElementsMatch(t, []any{"192.0.2.1", "2001:db8::1"}, addrs)
	require.ElementsMatch(t, []string{"default", "192.0.2.0/24", "198.51.100.0/24"}, destinations(ip(t, ns, "-4", "route")))
	require.Subset(t, destinations(ip(t, ns, "-6", "route")), []string{"default", "2001:db8::/64", "2001:db8:1::/48"})
}

func destinations(routes []map[string]any) (dst []string) {
	for _, r := range routes {
		dst = append(dst, r["dst"].(string))
	}
	return dst
}

func TestAnAddressThatIsNotOfUseSaysWhy(t *testing.T) {
	_, h, link := newLink(t)
	bridge, _, err := h.EnsureBridge(testBridge)
	require.NoError(t, err)
	addr, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")

	began := time.Now()
	require.ErrorIs(t, h.AwaitLocal(1<<20, addr), unix.ENODEV)
	require.NoError(t, h.SetDown(link.Index))
	err = h.AwaitLocal(link.Index, addr)
	require.ErrorIs(t, err, unix.ENETDOWN)
	require.ErrorContains(t, err, "left is down")
	require.Less(t, time.Since(began), 4*time.Second, "it does not wait for what cannot come")

	require.NoError(t, h.SetUp(link.Index))
	defer hostnet.SetAwaitTime(50 * time.Millisecond)()
	err = h.AwaitLocal(bridge.Index, netip.MustParseAddr("2001:db8:9::1"))
	require.ErrorIs(t, err, unix.ENETUNREACH)
	require.ErrorContains(t, err, "the kernel does not use it on ovl-b (network is unreachable)")
	require.NoError(t, h.AddAddr(link.Index, netip.PrefixFrom(addr, 64)))
	err = h.AwaitLocal(bridge.Index, other)
	require.ErrorContains(t, err, fmt.Sprintf("the kernel does not use it on ovl-b, but sends what is for it to link %d", link.Index))
}

func TestWhatTheKernelRefusesIsAnErrorThatSaysWhat(t *testing.T) {
	_, h, link := newLink(t)
	addr := netip.MustParsePrefix("192.0.2.1/24")
	require.NoError(t, h.AddAddr(link.Index, addr))
	route := netip.MustParsePrefix("198.51.100.0/24")
	require.NoError(t, h.AddRoute(link.Index, route))

	for name, c := range map[string]struct {
		err  error
		is   error
		says string
	}{
		"an address of a group":    {h.AddAddr(link.Index, netip.MustParsePrefix("ff02::1/64")), unix.EADDRNOTAVAIL, "add address ff02::1/64"},
		"a route twice":            {h.AddRoute(link.Index, route), unix.EEXIST, "add route 198.51.100.0/24"},
		"an MTU out of range":      {h.SetMTU(link.Index, 1<<20), unix.EINVAL, "set MTU 1048576"},
		"an address for no link":   {h.AddAddr(1<<20, addr), unix.ENODEV, "add address"},
		"setting up what is not":   {h.SetUp(1 << 20), unix.ENODEV, "set up"},
		"setting quiet what isn't": {h.SetQuiet(1 << 20), unix.ENODEV, "address generation"},
	} {
		require.ErrorIs(t, c.err, c.is, name)
		require.ErrorContains(t, c.err, c.says, name)
	}
}

func TestAQuietLinkHasNoAddressOfItsOwn(t *testing.T) {
	ns, h, link := newLink(t)
	ip(t, ns, "link", "set", "left", "down")
	require.NoError(t, h.SetQuiet(link.Index))
	require.NoError(t, h.SetUp(link.Index))

	show := ip(t, ns, "addr", "show", "dev", "left")[0]
	require.Empty(t, show["addr_info"])
	require.NotContains(t, show["flags"], "MULTICAST")
	require.Contains(t, show["flags"], "UP")
}

func TestAWatcherTellsOfChanges(t *testing.T) {
	ns, h, link := newLink(t)
	told := make(chan hostnet.Link, 16)
	var w *hostnet.Watcher
	var err error
	ns.Do(func() { w, err = h.Watch(link, func(l hostnet.Link) { told <- l }) })
	require.NoError(t, err)
	defer w.Close()

	ip(t, ns, "link", "set", "left", "mtu", "1280")
	link.MTU = 1280
	require.Equal(t, link, <-told)
	ip(t, ns, "link", "set", "left", "down")
	link.Up = false
	require.Equal(t, link, <-told)
	ip(t, ns, "link", "set", "left", "name", "renamed")
	link.Name = "renamed"
	require.Equal(t, link, <-told)
	ip(t, ns, "link", "set", "renamed", "up")
	link.Up = true
	require.Equal(t, link, <-told)
	// Neither another link nor what is no part of a Link is told.
	ip(t, ns, "link", "set", "lo", "mtu", "1500")
	ip(t, ns, "link", "set", "renamed", "txqueuelen", "7")
	ip(t, ns, "link", "del", "renamed")
	require.Equal(t, hostnet.Link{}, <-told)
	require.Empty(t, told)
}

func TestAWatcherSeesWhatHappenedBeforeItBegan(t *testing.T) {
	ns, h, was := newLink(t)
	require.NoError(t, h.SetMTU(was.Index, 1300))
	told := make(chan hostnet.Link, 1)
	var w *hostnet.Watcher
	var err error
	ns.Do(func() { w, err = h.Watch(was, func(l hostnet.Link) { told <- l }) })
	require.NoError(t, err)
	require.Equal(t, 1300, (<-told).MTU)
	w.Close()
	require.NoError(t, h.SetMTU(was.Index, 1400))
	require.Empty(t, told, "closed")
}

func TestTheKernelSaysWhereAPacketGoes(t *testing.T) {
	ns, h, link := newLink(t)
	require.NoError(t, h.AddAddr(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
	require.NoError(t, h.AddAddr(link.Index, netip.MustParsePrefix("2001:db8::1/64")))
	for dst, src := range map[string]string{"192.0.2.7": "192.0.2.1", "2001:db8::7": "2001:db8::1"} {
		r, local, err := h.LookupRoute(netip.MustParseAddr(dst), netip.Addr{}, 0)
		require.NoError(t, err)
		require.False(t, local)
		require.Equal(t, link.Index, r.Index)
		require.Equal(t, netip.MustParseAddr(src), r.Src)

		_, local, err = h.LookupRoute(netip.MustParseAddr(src), netip.Addr{}, 0)
		require.NoError(t, err)
		require.True(t, local)
	}
	_, _, err := h.LookupRoute(netip.MustParseAddr("198.51.100.1"), netip.Addr{}, 0)
	require.ErrorIs(t, err, unix.ENETUNREACH)

	// What comes in through a link goes on only if the host forwards.
	ip(t, ns, "link", "add", "other", "type", "bridge")
	ip(t, ns, "link", "set", "other", "up")
	ip(t, ns, "addr", "add", "203.0.113.1/24", "dev", "other")
	forwarded := func() error {
		_, _, err := h.LookupRoute(netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("192.0.2.7"), link.Index)
		return err
	}
	require.ErrorIs(t, forwarded(), unix.EHOSTUNREACH)
	require.NoError(t, ns.Command("sysctl", "-qw", "net.ipv4.ip_forward=1").Run())
	require.NoError(t, forwarded())
}
