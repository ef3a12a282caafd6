package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// openTUNIn opens a TUN in a namespace, to be closed with the test.
func openTUNIn(t testing.TB, ns *testnet.Namespace, c TUNConfig) *TUN {
	t.Helper()
	var dev *TUN
	var err error
	ns.Do(func() { dev, err = OpenTUN(c) })
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev
}

// inIP runs ip(8), which tells what is independently of what is tested.
func inIP(t testing.TB, ns *testnet.Namespace, args ...string) (list []map[string]any) {
	t.Helper()
	out := ns.Output(t, "ip", append([]string{"-json"}, args...)...)
	if len(out) > 0 {
		require.NoError(t, json.Unmarshal(out, &list), "%s", out)
	}
	return list
}

func linkNames(t testing.TB, ns *testnet.Namespace) (names []string) {
	t.Helper()
	for _, l := range inIP(t, ns, "link") {
		names = append(names, l["ifname"].(string))
	}
	return names
}

func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

// requireNoMoreFiles waits until no more descriptors are open than before: the
// kernel and what was before a test go on for a moment after they ended.
func requireNoMoreFiles(t testing.TB, before int) {
	t.Helper()
	require.Eventually(t, func() bool { return openFiles(t) <= before }, 30*time.Second, 10*time.Millisecond)
}

func TestTUNIsThereFromOpenToClose(t *testing.T) {
	ns := testnet.NewNamespace(t)
	before := linkNames(t, ns)
	routes4, routes6 := inIP(t, ns, "-4", "route", "show", "table", "all"), inIP(t, ns, "-6", "route", "show", "table", "all")

	dev := openTUNIn(t, ns, TUNConfig{
		MTU:    1300,
		Addrs:  tunPrefixes("10.200.0.1/16", "10.201.0.1/32", "fd00:200::1/48"),
		Routes: tunPrefixes("10.200.0.0/16", "10.250.0.0/16", "0.0.0.0/0", "fd00:250::/48", "::/0"),
	})
	require.Equal(t, "ovl0", dev.Name())
	require.Equal(t, 1300, dev.MTU())
	require.Equal(t, 1, dev.Lanes())

	link := inIP(t, ns, "addr", "show", "dev", "ovl0")[0]
	require.EqualValues(t, 1300, link["mtu"])
	require.EqualValues(t, transmitQueue, link["txqlen"])
	require.Subset(t, link["flags"], []any{"UP", "LOWER_UP", "POINTOPOINT", "NOARP"})
	require.NotContains(t, link["flags"], "MULTICAST")
	var addrs []string
	for _, a := range link["addr_info"].([]any) {
		a := a.(map[string]any)
		addrs = append(addrs, fmt.Sprintf("%v/%v", a["local"], a["prefixlen"]))
	}
	require.ElementsMatch(t, []string{"10.200.0.1/16", "10.201.0.1/32", "fd00:200::1/48"}, addrs)
	require.ElementsMatch(t, []string{"10.200.0.0/16", "10.250.0.0/16", "default"}, destinations(inIP(t, ns, "-4", "route", "show", "dev", "ovl0")))
	require.ElementsMatch(t, []string{"fd00:200::/48", "fd00:250::/48", "default"}, destinations(inIP(t, ns, "-6", "route", "show", "dev", "ovl0")))

	require.NoError(t, dev.Close())
	require.Equal(t, before, linkNames(t, ns))
	require.Equal(t, routes4, inIP(t, ns, "-4", "route", "show", "table", "all"))
	require.Equal(t, routes6, inIP(t, ns, "-6", "route", "show", "table", "all"))
	_, open := <-dev.Events()
	require.False(t, open)
	require.NoError(t, dev.Close(), "a second time")
}

func destinations(routes []map[string]any) (dst []string) {
	for _, r := range routes {
		dst = append(dst, r["dst"].(string))
	}
	return dst
}

func TestTheHostIsSilentOnANewTUN(t *testing.T) {
	ns := testnet.NewNamespace(t)
	dev := openTUNIn(t, ns, TUNConfig{Addrs: tunPrefixes("10.200.0.1/16", "fd00:200::1/48")})
	// What we send ourselves comes first, so nothing came before it.
	sendUDP(t, ns, "10.200.0.2:9", "only this")
	b := packet.NewBatch(0)
	require.NoError(t, dev.ReadBatch(b))
	require.Len(t, b.Packets, 1)
	require.Equal(t, netip.MustParseAddrPort("10.200.0.2:9"), b.Packets[0].Dst())
}

func sendUDP(t testing.TB, ns *testnet.Namespace, to, text string) {
	t.Helper()
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", to) })
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	require.NoError(t, err)
}

func TestTUNNamesCountUp(t *testing.T) {
	ns := testnet.NewNamespace(t)
	for i := range 3 {
		require.Equal(t, fmt.Sprint("ovl", i), openTUNIn(t, ns, TUNConfig{}).Name())
	}
	require.Equal(t, "ovl-web0", openTUNIn(t, ns, TUNConfig{Name: "ovl-web%d"}).Name())
}

func TestTUNThatCannotBeOpenedLeavesNothing(t *testing.T) {
	ns := testnet.NewNamespace(t)
	openTUNIn(t, ns, TUNConfig{Name: "taken", Routes: tunPrefixes("10.250.0.0/16"), Lanes: 2})
	inIP(t, ns, "tuntap", "add", "persists", "mode", "tun", "multi_queue")
	inIP(t, ns, "link", "property", "add", "dev", "persists", "altname", "other-name")
	for name, c := range map[string]struct {
		config TUNConfig
		is     error
		says   string
	}{
		"the name of another TUN":           {TUNConfig{Name: "taken", Lanes: 2}, ErrNameInUse, "TUN taken: create"},
		"the name of a TUN nobody has open": {TUNConfig{Name: "persists", Lanes: 2}, ErrNameInUse, "choose another"},
		"the alternative name of one":       {TUNConfig{Name: "other-name"}, ErrNameInUse, "choose another"},
		"the name of what is no TUN":        {TUNConfig{Name: "lo"}, ErrNameInUse, "choose another"},
		"a route another interface has":     {TUNConfig{Addrs: tunPrefixes("10.0.0.1/24"), Routes: tunPrefixes("10.1.0.0/16", "10.250.0.0/16")}, fs.ErrExist, "add route 10.250.0.0/16"},
	} {
		t.Run(name, func(t *testing.T) {
			links, files := linkNames(t, ns), openFiles(t)
			var dev *TUN
			var err error
			ns.Do(func() { dev, err = OpenTUN(c.config) })
			require.Nil(t, dev)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
			_, ok := errors.AsType[*TUNError](err)
			require.True(t, ok)
			require.Equal(t, links, linkNames(t, ns))
			requireNoMoreFiles(t, files)
		})
	}
}

func TestTUNWithIPv6AddressWhereIPv6IsDisabled(t *testing.T) {
	ns := testnet.NewNamespace(t)
	require.NoError(t, ns.Command("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6").Run())
	before := linkNames(t, ns)
	var err error
	ns.Do(func() { _, err = OpenTUN(TUNConfig{Addrs: tunPrefixes("fd00::1/64")}) })
	require.ErrorContains(t, err, "add address fd00::1/64")
	require.ErrorContains(t, err, "IPv6 is disabled")
	require.Equal(t, before, linkNames(t, ns))

	openTUNIn(t, ns, TUNConfig{Addrs: tunPrefixes("10.0.0.1/24")})
}

func TestTUNWithoutPrivilege(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Capabilities are a thread's own; an ordinary user has none to put down.
	version := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	require.NoError(t, unix.Capget(&version, &had[0]))
	none := had
	none[0].Effective, none[1].Effective = 0, 0
	require.NoError(t, unix.Capset(&version, &none[0]))
	dev, err := OpenTUN(TUNConfig{})
	require.NoError(t, unix.Capset(&version, &had[0]))

	require.Nil(t, dev)
	require.ErrorIs(t, err, ErrTUNUnavailable)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "run as root")
}

func TestWhatKeepsUsFromATUNSaysWhatWouldHelp(t *testing.T) {
	for errno, help := range map[unix.Errno]string{
		unix.ENOENT: "modprobe tun",
		unix.ENODEV: "modprobe tun",
		unix.EACCES: "let this user",
		unix.EPERM:  "CAP_NET_ADMIN",
	} {
		err := unavailable("open /dev/net/tun", errno)
		require.ErrorIs(t, err, ErrTUNUnavailable)
		require.ErrorIs(t, err, errno)
		require.ErrorContains(t, err, help)
	}
	err := unavailable("open /dev/net/tun", unix.EMFILE)
	require.ErrorIs(t, err, unix.EMFILE)
	require.NotErrorIs(t, err, ErrTUNUnavailable)
}

func TestTUNTellsOfWhatHappensToIt(t *testing.T) {
	ns := testnet.NewNamespace(t)
	dev := openTUNIn(t, ns, TUNConfig{Addrs: tunPrefixes("10.200.0.1/16")})

	inIP(t, ns, "link", "set", "ovl0", "mtu", "1280")
	require.Equal(t, packet.EventMTU, <-dev.Events())
	require.Equal(t, 1280, dev.MTU())

	to := testnet.UDP(netip.MustParseAddrPort("10.200.0.2:1"), netip.MustParseAddrPort("10.200.0.1:1"), nil)
	b := packet.NewBatch(0)
	b.Append(to, 0)
	inIP(t, ns, "link", "set", "ovl0", "down")
	require.Equal(t, packet.EventDown, <-dev.Events())
	require.NoError(t, dev.WriteBatch(b))
	require.Empty(t, b.Packets)
	require.Equal(t, 1, b.Drops(packet.DeviceDown))

	inIP(t, ns, "link", "set", "ovl0", "up")
	require.Equal(t, packet.EventUp, <-dev.Events())
	b.Reset()
	b.Append(to, 0)
	require.NoError(t, dev.WriteBatch(b))
	require.Len(t, b.Packets, 1)
	sendUDP(t, ns, "10.200.0.2:9", "up again")
	require.NoError(t, dev.ReadBatch(b))
}

func TestTUNKeepsTheLatestEventsWhenNobodyReceivesThem(t *testing.T) {
	dev := fakeTUN(t)
	for i := range 100 {
		dev.tell(packet.Event(i))
	}
	for i := 92; i < 100; i++ {
		require.Equal(t, packet.Event(i), <-dev.Events())
	}
}

func TestTUNThatSomebodyRemoves(t *testing.T) {
	ns := testnet.NewNamespace(t)
	dev := openTUNIn(t, ns, TUNConfig{Lanes: 2})
	errs := make(chan error)
	for lane := range 2 {
		go func() { errs <- dev.ReadBatch(packet.NewBatch(lane)) }()
	}
	inIP(t, ns, "link", "del", "ovl0")
	for range 2 {
		err := <-errs
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "TUN ovl0: read: somebody removed the interface")
	}
	b := packet.NewBatch(0)
	b.Append(testnet.UDP(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1"), nil), 0)
	require.ErrorIs(t, dev.WriteBatch(b), fs.ErrNotExist)
	require.NoError(t, dev.Close())
	require.ErrorIs(t, dev.WriteBatch(b), net.ErrClosed)
}

func TestAFlowStaysOnItsLane(t *testing.T) {
	ns := testnet.NewNamespace(t)
	dev := openTUNIn(t, ns, TUNConfig{Addrs: tunPrefixes("10.200.0.1/16"), Lanes: 4})
	require.Equal(t, 4, dev.Lanes())

	const flows, each = 32, 8
	var conns []net.Conn
	ns.Do(func() {
		for range flows {
			conn, err := net.Dial("udp", "10.200.0.2:9")
			require.NoError(t, err)
			conns = append(conns, conn)
		}
	})
	for range each {
		for _, c := range conns {
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
		}
	}
	type arrival struct {
		lane int
		from netip.AddrPort
	}
	arrivals := make(chan arrival)
	var readers sync.WaitGroup
	for lane := range dev.Lanes() {
		readers.Go(func() {
			b := packet.NewBatch(lane)
			for dev.ReadBatch(b) == nil {
				for i := range b.Packets {
					arrivals <- arrival{lane, b.Packets[i].Src()}
				}
			}
		})
	}
	lanes, byFlow := map[int]bool{}, map[netip.AddrPort]int{}
	for range flows * each {
		a := <-arrivals
		lane, met := byFlow[a.from]
		require.True(t, !met || lane == a.lane, "%v on lanes %d and %d", a.from, lane, a.lane)
		byFlow[a.from] = a.lane
		lanes[a.lane] = true
	}
	require.Len(t, byFlow, flows)
	require.Greater(t, len(lanes), 1)
	for _, c := range conns {
		c.Close()
	}
	dev.Close()
	readers.Wait()
}

func TestAThousandTUNsLeaveNothing(t *testing.T) {
	ns := testnet.NewNamespace(t)
	links, files := linkNames(t, ns), openFiles(t)
	others := goleak.IgnoreCurrent()

	const workers, each = 20, 50 // the kernel takes 20 ms for one, mostly in waiting
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			config := TUNConfig{
				Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(w), 0, 1}), 24)},
				Lanes: 1 + w%2,
			}
			for range each {
				ns.Do(func() {
					dev, err := OpenTUN(config)
					if err != nil {
						t.Error(err)
						return
					}
					if err := dev.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	all.Wait()
	require.Equal(t, links, linkNames(t, ns))
	requireNoMoreFiles(t, files)
	goleak.VerifyNone(t, others)
}
