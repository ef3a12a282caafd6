package daemon

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/dnsd"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
)

// sh runs a program of the host, and returns what it printed.
func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

// dig asks a name server, and returns the short form of its answer.
func dig(t testing.TB, server string, args ...string) string {
	t.Helper()
	return sh(t, "dig", append([]string{"+short", "+tries=1", "+time=20", "@" + server}, args...)...)
}

// hosted gives a daemon the host, which is the namespace of this process.
func hosted(t testing.TB, d *Daemon) {
	t.Helper()
	host, err := hostnet.Open()
	require.NoError(t, err)
	t.Cleanup(host.Close)
	d.host = host
}

func TestNamesAreServedOnTheHostsAddresses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, a := range []string{"10.200.0.1/16", "fd00:200::1/48"} {
		sh(t, "ip", "addr", "add", a, "dev", "lo", "nodad")
	}
	// The kernel takes packets to it as its own some time after (addrconf_dad_work).
	sh(t, "sh", "-c", "until ip -6 route get fd00:200::1 2>&1 | grep -q ^local; do sleep 0.01; done")
	d := openNamed(t)
	node4, node6 := netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("fd00:200::1")
	for range 2 {
		d.serveNames(node4)
		d.serveNames(node6)
	}
	require.Equal(t, []netip.Addr{node4, node6}, d.dnsStatus().Addresses)
	require.Empty(t, d.degraded())

	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	register(t, d, "web", "fd00:200:0:1::1", wire.DNSReplace)
	for _, server := range []string{"10.200.0.1", "fd00:200::1"} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			require.Equal(t, "10.200.1.1", dig(t, server, transport, "web.overlay.internal", "A"))
			require.Equal(t, "fd00:200:0:1::1", dig(t, server, transport, "WEB.Overlay.Internal", "AAAA"))
			require.Equal(t, "web.overlay.internal.", dig(t, server, transport, "-x", "10.200.1.1"))
			require.Empty(t, dig(t, server, transport, "db.overlay.internal", "A"))
		}
	}
	// Without resolvers of the host's, nobody is asked for other names.
	require.Contains(t, sh(t, "dig", "+tries=1", "+time=20", "@10.200.0.1", "example.com"), "status: REFUSED")
	require.Contains(t, sh(t, "dig", "+tries=1", "+time=20", "@10.200.0.1", "-x", "10.200.77.77"), "status: NXDOMAIN")

	register(t, d, "web", "10.200.1.2", wire.DNSReplace)
	require.Equal(t, "10.200.1.2", dig(t, "10.200.0.1", "web.overlay.internal", "A"))
	require.NoError(t, d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: "web"}))
	require.Empty(t, dig(t, "10.200.0.1", "web.overlay.internal", "A"))
	status := d.dnsStatus()
	require.Greater(t, status.Queries, uint64(15))
	require.Zero(t, status.Failures)

	// Another cluster has other reverse names.
	d.global.view.Store(&globalView{Global: state.Global{Cluster: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}}})
	register(t, d, "web", "10.77.1.1", wire.DNSReplace)
	d.followNames()
	require.Eventually(t, func() bool { return len(d.dnsStatus().Addresses) == 2 }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		out, err := exec.Command("dig", "+tries=1", "+time=1", "@10.200.0.1", "-x", "10.77.77.77").Output()
		return err == nil && strings.Contains(string(out), "status: NXDOMAIN")
	}, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, "web.overlay.internal.", dig(t, "10.200.0.1", "-x", "10.77.1.1"))

	for range 2 {
		d.quitNames(node6)
	}
	require.Equal(t, []netip.Addr{node4}, d.dnsStatus().Addresses)
	l, err := net.Listen("tcp", "[fd00:200::1]:53")
	require.NoError(t, err, "its port is free again")
	l.Close()
	d.closeNames()
	d.closeNames()
	l, err = net.Listen("tcp", "10.200.0.1:53")
	require.NoError(t, err)
	l.Close()
}

func TestOtherNamesGoToTheHostsResolvers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sh(t, "ip", "addr", "add", "10.200.0.1/16", "dev", "lo")
	sh(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "example.com"})
	require.NoError(t, err)
	require.NoError(t, zone.SetAddresses("www", netip.MustParseAddr("192.0.2.80")))
	upstream, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
	require.NoError(t, err)
	defer upstream.Close()
	_, err = upstream.Listen("127.0.0.53:53")
	require.NoError(t, err)

	d := openNamed(t)
	d.serveNames(netip.MustParseAddr("10.200.0.1"))
	require.Contains(t, sh(t, "dig", "+tries=1", "+time=20", "@10.200.0.1", "www.example.com"), "status: REFUSED")
	// The host gets its resolvers later than the daemon starts, the daemon itself
	// among them.
	require.NoError(t, os.WriteFile(d.names.resolvConf, []byte("nameserver 10.200.0.1\nnameserver 127.0.0.53\n"), 0o600))
	d.followNames()
	require.Eventually(t, func() bool {
		out, err := exec.Command("dig", "+short", "+tries=1", "+time=1", "@10.200.0.1", "www.example.com").Output()
		return err == nil && strings.TrimSpace(string(out)) == "192.0.2.80"
	}, 30*time.Second, 10*time.Millisecond)
	// Not for whoever reaches the node from elsewhere.
	require.Contains(t, sh(t, "dig", "+tries=1", "+time=20", "-b", "192.0.2.1", "@10.200.0.1", "www.example.com"), "status: REFUSED")

	// Asked for its own resolver it asks nobody, and says so at once.
	require.NoError(t, os.WriteFile(d.names.resolvConf, []byte("nameserver 10.200.0.1\n# and no other\n"), 0o600))
	require.Eventually(t, func() bool {
		out, err := exec.Command("dig", "+tries=1", "+time=2", "@10.200.0.1", "loop.example.org").Output()
		return err == nil && strings.Contains(string(out), "status: SERVFAIL")
	}, 30*time.Second, 100*time.Millisecond)
}

func TestNamesThatCannotBeServedYetAreServedLater(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sh(t, "ip", "addr", "add", "10.200.0.1/32", "dev", "lo")
	other, err := net.ListenPacket("udp", "0.0.0.0:53")
	require.NoError(t, err)
	d := openNamed(t)
	there, missing := netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("10.200.7.1")
	d.serveNames(there)
	d.serveNames(missing)
	require.Empty(t, d.dnsStatus().Addresses)
	why := d.degraded()[partDNS]
	require.Contains(t, why, "names are not served on 10.200.0.1: another program has its port 53")
	require.Contains(t, why, "ss -lnp sport = :53")
	require.Contains(t, why, "names are not served on 10.200.7.1: the host does not have this address yet")
	require.Equal(t, []string{"dns: " + why}, d.faultWarnings())
	l, err := net.Listen("tcp", "10.200.0.1:53")
	require.NoError(t, err, "half of the service is not kept")
	l.Close()

	other.Close()
	require.Eventually(t, func() bool { return len(d.dnsStatus().Addresses) == 1 }, 30*time.Second, time.Millisecond)
	require.NotContains(t, d.degraded()[partDNS], "10.200.0.1")
	sh(t, "ip", "addr", "add", "10.200.7.1/32", "dev", "lo")
	require.Eventually(t, func() bool { return len(d.dnsStatus().Addresses) == 2 }, 30*time.Second, time.Millisecond)
	require.Empty(t, d.degraded())

	// One that is given up before it came to be leaves nothing to complain about.
	d.serveNames(netip.MustParseAddr("10.200.8.1"))
	require.Contains(t, d.degraded(), partDNS)
	d.quitNames(netip.MustParseAddr("10.200.8.1"))
	require.Empty(t, d.degraded())
}

func TestNamesAreServedOnTheStackOfARootlessNode(t *testing.T) {
	d := newParts(t)
	d.mode = ModeRootless
	require.NoError(t, d.openNames(nil))
	t.Cleanup(d.closeNames)
	node := netip.MustParseAddr("10.200.0.1")
	d.serveNames(node) // a gateway, as far as is known
	require.Empty(t, d.names.serving)
	view := *d.global.load()
	view.Addrs = []netip.Prefix{netip.PrefixFrom(node, 16)}
	d.global.view.Store(&view)
	d.serveNames(node)
	require.Contains(t, d.degraded()[partDNS], "has no network yet")
	d.quitNames(node)
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)

	for range 2 { // the second stack takes the place of the first
		d.setStack(t, "10.200.0.1/16")
		d.serveNames(node)
		for _, network := range []string{"udp", "tcp"} {
			resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.stack().DialContext(ctx, network, "10.200.0.1:53")
			}}
			require.Eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				ips, err := resolver.LookupNetIP(ctx, "ip4", "web.overlay.internal.")
				return err == nil && ips[0].Unmap().String() == "10.200.1.1"
			}, 30*time.Second, 10*time.Millisecond, network)
		}
		require.Equal(t, []netip.Addr{node}, d.dnsStatus().Addresses)
		require.Empty(t, d.degraded())
	}
}
