package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// sysctls is every parameter of the network that there is, but what the kernel
// counts or changes by itself.
func sysctls(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("sysctl", "-a", "-r", `^net\.`).Output()
	require.NoError(t, err)
	var kept []string
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "random") && !strings.Contains(line, "nf_conntrack_count") && !strings.Contains(line, "stable_secret") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// inside makes the rules those of a service, in both families.
func inside(f *hostnet.Firewall) {
	f.Bridges = []string{"ovl-web-b"}
	f.Inside = []netip.Prefix{netip.MustParsePrefix("10.200.1.0/28"), netip.MustParsePrefix("fd00:200:0:1::/120")}
	f.Cluster = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("fd00:200::/48")}
	f.MTU = 1420
}

func nothing(f *hostnet.Firewall) { *f = hostnet.Firewall{} }

// newRuled makes a daemon that has taken the rules of this namespace up.
func newRuled(t testing.TB) *Daemon {
	t.Helper()
	d := newParts(t)
	hosted(t, d)
	d.openFirewall()
	require.Empty(t, d.degraded())
	return d
}

func TestRulesAndSysctlsComeAndGoWithWhatWantsThem(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// A host of taste: it takes no redirects, one of its links forwards already, and
	// one has a dot in its name.
	sh(t, "ip", "link", "add", "wan.1", "type", "veth", "peer", "name", "far")
	sh(t, "sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.wan/1.forwarding=1", "net.ipv6.conf.wan/1.forwarding=1")
	before := sysctls(t)
	d := newRuled(t)
	for range 2 {
		for range 2 {
			require.NoError(t, d.updateFirewall(inside))
			require.Contains(t, sh(t, "nft", "list", "tables"), "table inet overlayd")
			require.Equal(t, "1", sh(t, "sysctl", "-n", forward4))
			require.Equal(t, "1", sh(t, "sysctl", "-n", forward6))
		}
		recorded, err := d.store.Load()
		require.NoError(t, err)
		require.Equal(t, map[string]string{
			forward4: "0", forward6: "0", redirects4: "0",
			"net.ipv4.conf.wan/1.forwarding": "1", "net.ipv6.conf.wan/1.forwarding": "1",
		}, recorded.Node.Sysctls)

		require.NoError(t, d.updateFirewall(nothing))
		require.Empty(t, sh(t, "nft", "list", "tables"))
		require.Equal(t, before, sysctls(t))
		recorded, err = d.store.Load()
		require.NoError(t, err)
		require.Empty(t, recorded.Node.Sysctls)
	}
	require.Empty(t, d.degraded())
}

func TestOnlyTheFamiliesInUseAreForwarded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newRuled(t)
	require.NoError(t, d.updateFirewall(func(f *hostnet.Firewall) {
		inside(f)
		f.Inside, f.Cluster = f.Inside[:1], f.Cluster[:1]
	}))
	require.Equal(t, "1", sh(t, "sysctl", "-n", forward4))
	require.Equal(t, "0", sh(t, "sysctl", "-n", forward6))
	require.NoError(t, d.updateFirewall(inside))
	require.Equal(t, "1", sh(t, "sysctl", "-n", forward6))
}

func TestASysctlThatSomebodyElseChangedIsLeftAlone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newRuled(t)
	require.NoError(t, d.updateFirewall(inside))
	sh(t, "sysctl", "-qw", forward4+"=0")
	d.checkFirewall()
	require.Contains(t, d.degraded()[partForwarding], "somebody turned net.ipv4.ip_forward off")
	require.Equal(t, "0", sh(t, "sysctl", "-n", forward4), "whoever did it may have meant it")
	sh(t, "sysctl", "-qw", forward4+"=1", redirects4+"=1")
	d.checkFirewall()
	require.Empty(t, d.degraded())
	sh(t, "sysctl", "-qw", forward4+"=0", redirects4+"=1")
	require.NoError(t, d.updateFirewall(nothing))
	require.Equal(t, "0", sh(t, "sysctl", "-n", forward4))
	require.Equal(t, "0", sh(t, "sysctl", "-n", forward6))

	// What forwarded before goes on.
	sh(t, "sysctl", "-qw", forward4+"=1")
	require.NoError(t, d.updateFirewall(inside))
	require.NoError(t, d.updateFirewall(nothing))
	require.Equal(t, "1", sh(t, "sysctl", "-n", forward4))
	require.Equal(t, "0", sh(t, "sysctl", "-n", forward6))
}

// A daemon that was killed leaves rules and sysctls to the next.
func TestWhatAKilledDaemonLeftIsPutBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := sysctls(t)
	for _, at := range []string{"firewall.sysctl:before", "firewall.sysctl:after", "firewall.rules:before", "firewall.rules:after", ""} {
		d := newRuled(t)
		failpoint = func(point string) {
			if point == at {
				panic("killed")
			}
		}
		killed := func() (killed bool) {
			defer func() { killed = recover() != nil }()
			require.NoError(t, d.updateFirewall(inside))
			return
		}()
		failpoint = func(string) {}
		require.Equal(t, at != "", killed)

		next, recorded := reopen(t, d)
		next.node.now.Store(&recorded.Node)
		hosted(t, next)
		// If it is wanted still it is there.
		require.NoError(t, next.updateFirewall(inside))
		next.openFirewall()
		require.Contains(t, sh(t, "nft", "list", "tables"), "overlayd", at)
		require.Equal(t, "1", sh(t, "sysctl", "-n", forward4), at)

		last, recorded := reopen(t, next)
		last.node.now.Store(&recorded.Node)
		hosted(t, last)
		last.openFirewall()
		require.Empty(t, last.degraded())
		require.Empty(t, sh(t, "nft", "list", "tables"), at)
		require.Equal(t, before, sysctls(t), at)
	}
}

func TestRulesThatSomebodyFlushedArePutBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newRuled(t)
	d.checkFirewall()
	require.Empty(t, sh(t, "nft", "list", "tables"), "there are none to put back")
	require.NoError(t, d.updateFirewall(inside))
	was := sh(t, "nft", "list", "ruleset")
	d.checkFirewall()
	require.Empty(t, d.degraded())
	sh(t, "nft", "flush", "ruleset")
	d.checkFirewall()
	require.Equal(t, was, sh(t, "nft", "list", "ruleset"))
	require.Contains(t, d.degraded()[partFirewall], "nft flush ruleset")
	d.checkFirewall()
	require.Empty(t, d.degraded())

	// The monitor sees to it by itself.
	d.running.Go(func() { d.runMonitor(t.Context()) })
	sh(t, "nft", "flush", "ruleset")
	require.Eventually(t, func() bool {
		out, err := exec.Command("nft", "list", "ruleset").Output()
		return err == nil && strings.TrimSpace(string(out)) == was
	}, 30*time.Second, 50*time.Millisecond)
}

func TestManyChangesOfRulesAreMadeTogether(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newRuled(t)
	require.NoError(t, d.updateFirewall(inside))
	var tables atomic.Int64
	failpoint = func(point string) {
		if point == "firewall.rules:before" {
			tables.Add(1)
		}
	}
	defer func() { failpoint = func(string) {} }()
	const many = 60
	var failed atomic.Int64
	d.firewall.apply.Lock() // so that all of them wait
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			err := d.updateFirewall(func(f *hostnet.Firewall) {
				if i%15 == 7 { // one that the kernel refuses, whatever the others want
					f.Bridges = append(f.Bridges, strings.Repeat("x", 40))
					return
				}
				f.Bridges = append(f.Bridges, fmt.Sprintf("ovl-%d-b", i))
			})
			if err != nil {
				failed.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool {
		d.firewall.mu.Lock()
		defer d.firewall.mu.Unlock()
		return len(d.firewall.queue) == many
	}, 30*time.Second, time.Millisecond)
	d.firewall.apply.Unlock()
	wg.Wait()
	require.EqualValues(t, 4, failed.Load())
	require.Len(t, d.firewall.load().Bridges, 1+many-4)
	require.LessOrEqual(t, tables.Load(), int64(1+many), "together they fail, alone all but four do not")

	tables.Store(0)
	d.firewall.apply.Lock()
	for i := range many {
		wg.Go(func() {
			if d.updateFirewall(func(f *hostnet.Firewall) { f.Bridges = append(f.Bridges, fmt.Sprintf("ovl-%d-c", i)) }) != nil {
				failed.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool {
		d.firewall.mu.Lock()
		defer d.firewall.mu.Unlock()
		return len(d.firewall.queue) == many
	}, 30*time.Second, time.Millisecond)
	d.firewall.apply.Unlock()
	wg.Wait()
	require.EqualValues(t, 1, tables.Load())
	require.EqualValues(t, 4, failed.Load())
}

func TestRulesAreAsTheyWereWhenTheyCannotBeChanged(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := sysctls(t)
	d := newRuled(t)
	bad := func(f *hostnet.Firewall) {
		inside(f)
		f.Bridges = append(f.Bridges, strings.Repeat("x", 40))
	}
	require.Error(t, d.updateFirewall(bad))
	require.Empty(t, sh(t, "nft", "list", "tables"))
	require.Equal(t, before, sysctls(t), "nothing is forwarded for nothing")
	require.True(t, idle(new(d.firewall.load())))

	require.NoError(t, d.updateFirewall(inside))
	was := sh(t, "nft", "list", "ruleset")
	require.Error(t, d.updateFirewall(bad))
	require.Equal(t, was, sh(t, "nft", "list", "ruleset"))
	require.Equal(t, []string{"ovl-web-b"}, d.firewall.load().Bridges)
}

// advertise sends a router advertisement (RFC 4861 section 4.2) out of a link.
func advertise(t testing.TB, link string) {
	t.Helper()
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	require.NoError(t, err)
	defer conn.Close()
	p := conn.IPv6PacketConn()
	require.NoError(t, p.SetMulticastHopLimit(255)) // others are not believed
	nic, err := net.InterfaceByName(link)
	require.NoError(t, err)
	prefix := netip.MustParseAddr("2001:db8:77::").As16()
	ra := []byte{
		134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, // a router for 1,800 seconds
		3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, // a prefix for 3,600
	}
	_, err = p.WriteTo(append(ra, prefix[:]...), &ipv6.ControlMessage{IfIndex: nic.Index},
		&net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: link})
	require.NoError(t, err)
}

// Many programs flush only the tables of the families that they have rules in.
func TestRulesArePutBackWhicheverTableIsGone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newRuled(t)
	require.NoError(t, d.updateFirewall(inside))
	list := func() [2]string {
		return [2]string{sh(t, "nft", "list", "table", "inet", "overlayd"), sh(t, "nft", "list", "table", "bridge", "overlayd")}
	}
	before := list()
	for _, gone := range []string{"flush ruleset", "flush ruleset inet", "delete table inet overlayd"} {
		sh(t, "nft", gone)
		d.checkFirewall()
		require.Equal(t, before, list(), gone)
		require.NotEmpty(t, d.degraded()[partFirewall])
		d.checkFirewall()
		require.Empty(t, d.degraded())
	}
}

// A host that has its IPv6 from router advertisements keeps it when it begins to
// forward.
func TestAHostKeepsTheRoutesThatAreAdvertised(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sh(t, "ip", "link", "add", "wan.1", "type", "veth", "peer", "name", "router")
	sh(t, "ip", "link", "add", "lan", "type", "bridge")
	for _, link := range []string{"wan.1", "router", "lan"} {
		sh(t, "ip", "link", "set", link, "up")
	}
	defaults := func() string {
		out, err := exec.Command("ip", "-6", "route", "show", "default", "dev", "wan.1").Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Eventually(t, func() bool { // link-local addresses are tentative at first
		if out, err := exec.Command("ip", "-6", "addr", "show", "tentative").Output(); err != nil || len(out) > 0 {
			return false
		}
		advertise(t, "router")
		return strings.Contains(defaults(), "proto ra")
	}, 30*time.Second, 100*time.Millisecond)
	before := sysctls(t)

	d := newRuled(t)
	require.NoError(t, d.updateFirewall(inside))
	require.Equal(t, "1", sh(t, "sysctl", "-n", forward6))
	require.Contains(t, defaults(), "proto ra")
	require.Equal(t, "2", sh(t, "sysctl", "-n", "net.ipv6.conf.wan/1.accept_ra"))
	require.Equal(t, "1", sh(t, "sysctl", "-n", "net.ipv6.conf.lan.accept_ra"), "who is not needed is not listened to")
	require.NoError(t, d.updateFirewall(nothing))
	require.Contains(t, defaults(), "proto ra")
	require.Equal(t, before, sysctls(t))
}

func TestLinksWithAdvertisedRoutesAreFound(t *testing.T) {
	const table = `fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000003 00000000 00000001     eth0
20010db8007700000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00040001     wan.1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000003 00000000 00450003     wan.1
00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000004 00000000 80200001       lo
garbage
20010db8007700000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 zzzz     eth1
`
	require.Equal(t, []string{"wan.1"}, advertised(strings.NewReader(table)))
	require.Empty(t, advertised(strings.NewReader("")))
}
