package hostnet_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Do runs f in the container's namespace, on the calling goroutine.
func (c *container) Do(f func()) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(c.t, err)
	defer home.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	defer ns.Close()
	require.NoError(c.t, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
}

// A place is where a program may run.
type place interface{ Do(func()) }

// serve answers, in a place, everyone with the address it sees them at, a line for a
// line.
func serve(t testing.TB, at place, network, addr string) {
	t.Helper()
	var err error
	switch network {
	case "tcp":
		var l net.Listener
		at.Do(func() { l, err = net.Listen(network, addr) })
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					t.Cleanup(func() { conn.Close() })
					for s := bufio.NewScanner(conn); s.Scan(); {
						fmt.Fprintln(conn, conn.RemoteAddr())
					}
				}()
			}
		}()
	case "udp":
		var c net.PacketConn
		at.Do(func() { c, err = net.ListenPacket(network, addr) })
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			for buf := make([]byte, 100); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo([]byte(from.String()+"\n"), from)
			}
		}()
	}
}

// dial asks a server from a place.
func dial(from place, network, addr string, timeout time.Duration) (conn net.Conn, err error) {
	from.Do(func() { conn, err = net.DialTimeout(network, addr, timeout) })
	if err == nil {
		conn.SetDeadline(time.Now().Add(timeout))
	}
	return conn, err
}

// ask returns the address a server sees the place at.
func ask(from place, network, addr string, timeout time.Duration) (netip.Addr, error) {
	conn, err := dial(from, network, addr, timeout)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return askAgain(conn)
}

func askAgain(conn net.Conn) (netip.Addr, error) {
	fmt.Fprintln(conn, "who am I?")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(strings.TrimSpace(line))
	return seen.Addr(), err
}

func reaches(t testing.TB, from place, network, addr, seen string) {
	t.Helper()
	got, err := ask(from, network, addr, 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, seen, got.String(), "seen at %s %s", network, addr)
}

// misses wants no answer, and the packets dropped.
func misses(t testing.TB, from place, network, addr string) {
	t.Helper()
	_, err := ask(from, network, addr, 200*time.Millisecond)
	require.Error(t, err, "%s %s", network, addr)
	require.True(t, isTimeout(err), "%s %s: %v", network, addr, err)
}

// refused wants an error at once.
func refused(t testing.TB, from place, network, addr string) {
	t.Helper()
	_, err := ask(from, network, addr, 10*time.Second)
	require.Error(t, err, "%s %s", network, addr)
	require.False(t, isTimeout(err), "%s %s: %v", network, addr, err)
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// A site is a host between the outside and, through a device, another node; with two
// containers on a bridge.
type site struct {
	host
	outside, node *testnet.Namespace
	bridge        hostnet.Link
	a, b          *container
	firewall      hostnet.Firewall
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{host: newHost(t), outside: testnet.NewNamespace(t), node: testnet.NewNamespace(t)}
	for _, ns := range []*testnet.Namespace{s.Namespace, s.outside, s.node} {
		// Else it takes the kernel seconds to have an address to ask for neighbours from.
		run(t, ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	cable := func(other *testnet.Namespace, name string, host, there []string) {
		require.NoError(t, testnet.Veth(
			testnet.Port{Namespace: s.Namespace, Name: name, Addrs: prefixes(host...)},
			testnet.Port{Namespace: other, Name: "eth0", Addrs: prefixes(there...)},
		))
	}
	cable(s.outside, "wan", []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	cable(s.node, "ovl-g", []string{"10.200.7.1/16", "fd00:200:0:7::1/48"}, []string{"10.200.9.9/16", "fd00:200:0:9::9/48"})
	run(t, s.Namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	run(t, s.Namespace, "sh", "-ec", "ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2")
	s.bridge = newBridge(t, s.host)
	run(t, s.node, "sh", "-ec", "ip route add 10.200.1.0/24 via 10.200.7.1; ip -6 route add fd00:200:0:1::/120 via fd00:200:0:7::1")
	s.a, s.b = startContainer(t), startContainer(t)
	for n, c := range []*container{s.a, s.b} {
		_, err := s.AddVeth(eth0(s.bridge, c, n))
		require.NoError(t, err)
	}
	s.firewall = hostnet.Firewall{
		Devices: []string{"ovl-g"},
		Bridges: []string{"ovl-b"},
		Inside:  prefixes("10.200.1.0/24", "fd00:200:0:1::/120"),
		Cluster: prefixes("10.200.0.0/16", "fd00:200::/48"),
		MTU:     mtu,
	}
	return s
}

func (s *site) set(t testing.TB, ports ...hostnet.Forward) {
	t.Helper()
	s.firewall.Ports = ports
	require.NoError(t, s.SetFirewall(s.firewall))
}

func forward(proto, hostIP string, port uint16, to string) hostnet.Forward {
	f := hostnet.Forward{Proto: proto, HostPort: port, To: netip.MustParseAddrPort(to)}
	if hostIP != "" {
		f.HostIP = netip.MustParseAddr(hostIP)
	}
	return f
}

func TestOnlyTrafficToTheOutsideIsMasqueraded(t *testing.T) {
	t.Parallel() // it waits for the kernel's timers
	s := newSite(t)
	s.set(t)
	for _, at := range []struct {
		place
		v4, v6 string
	}{
		{s.outside, "192.0.2.2", "[2001:db8::2]"},
		{s.node, "10.200.9.9", "[fd00:200:0:9::9]"},
		{s.b, "10.200.1.3", "[fd00:200:0:1::3]"},
		{s.host, "10.200.1.1", "[fd00:200:0:1::1]"},
	} {
		for _, network := range []string{"tcp", "udp"} {
			serve(t, at, network, at.v4+":80")
			serve(t, at, network, at.v6+":80")
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		reaches(t, s.a, network, "192.0.2.2:80", "192.0.2.1")
		reaches(t, s.a, network, "[2001:db8::2]:80", "2001:db8::1")
		for _, addr := range []string{"10.200.9.9:80", "10.200.1.3:80", "10.200.1.1:80"} {
			reaches(t, s.a, network, addr, "10.200.1.2")
		}
		for _, addr := range []string{"[fd00:200:0:9::9]:80", "[fd00:200:0:1::3]:80", "[fd00:200:0:1::1]:80"} {
			reaches(t, s.a, network, addr, "fd00:200:0:1::2")
		}
		reaches(t, s.node, network, "10.200.1.3:80", "10.200.9.9")
		reaches(t, s.node, network, "[fd00:200:0:1::3]:80", "fd00:200:0:9::9")
	}
}

func TestClusterAddressesNeverLeaveInTheClear(t *testing.T) {
	t.Parallel() // it waits for the kernel's timers
	s := newSite(t)
	// Somebody outside would like to be the other node.
	run(t, s.outside, "sh", "-ec", "ip addr add 10.200.9.9/32 dev eth0; ip -6 addr add fd00:200:0:9::9/128 dev eth0 nodad; ip route add 10.200.0.0/16 via 192.0.2.1; ip -6 route add fd00:200::/48 via 2001:db8::1; "+untilLocal("fd00:200:0:9::9"))
	addrs := []string{"10.200.9.9:80", "[fd00:200:0:9::9]:80"}
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range addrs {
			serve(t, s.outside, network, addr)
		}
	}
	run(t, s.Namespace, "ip", "link", "del", "ovl-g")
	for _, addr := range addrs {
		_, err := ask(s.a, "tcp", addr, 10*time.Second)
		require.NoError(t, err, "without rules it is reached")
	}
	s.set(t)
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range addrs {
			refused(t, s.a, network, addr)
			refused(t, s.host, network, addr)
		}
	}
}

func TestClusterAddressesAreNotTakenFromElsewhere(t *testing.T) {
	t.Parallel() // it waits for the kernel's timers
	s := newSite(t)
	run(t, s.outside, "sh", "-ec", "ip addr add 10.200.9.8/32 dev eth0; ip -6 addr add fd00:200:0:9::8/128 dev eth0 nodad; ip route add 10.200.0.0/16 via 192.0.2.1; ip -6 route add fd00:200::/48 via 2001:db8::1")
	run(t, s.Namespace, "sh", "-ec", "ip route add 10.200.9.8 via 192.0.2.2; ip -6 route add fd00:200:0:9::8 via 2001:db8::2")
	for _, network := range []string{"tcp", "udp"} {
		serve(t, s.a, network, "10.200.1.2:80")
		serve(t, s.a, network, "[fd00:200:0:1::2]:80")
		serve(t, s.host, network, "192.0.2.1:80")
	}
	reaches(t, s.outside, "tcp", "10.200.1.2:80", "192.0.2.2")
	s.set(t)
	for _, network := range []string{"tcp", "udp"} {
		misses(t, s.outside, network, "10.200.1.2:80")
		misses(t, s.outside, network, "[fd00:200:0:1::2]:80")
		reaches(t, s.outside, network, "192.0.2.1:80", "192.0.2.2")
	}
	// With a source that is not theirs nothing is answered either.
	run(t, s.outside, "sh", "-ec", "ip route replace 192.0.2.1 dev eth0 src 10.200.9.8")
	misses(t, s.outside, "udp", "192.0.2.1:80")
}

func TestAPublishedPortIsReachedFromEverywhere(t *testing.T) {
	s := newSite(t)
	for _, network := range []string{"tcp", "udp"} {
		serve(t, s.a, network, "10.200.1.2:80")
		serve(t, s.a, network, "[fd00:200:0:1::2]:80")
	}
	s.set(t,
		forward("tcp", "", 8080, "10.200.1.2:80"), forward("tcp", "", 8080, "[fd00:200:0:1::2]:80"),
		forward("udp", "", 8080, "10.200.1.2:80"), forward("udp", "", 8080, "[fd00:200:0:1::2]:80"),
	)
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			reaches(t, s.outside, network, "192.0.2.1:8080", "192.0.2.2")
			reaches(t, s.outside, network, "[2001:db8::1]:8080", "2001:db8::2")
			reaches(t, s.node, network, "10.200.7.1:8080", "10.200.9.9")
			reaches(t, s.node, network, "[fd00:200:0:7::1]:8080", "fd00:200:0:9::9")
			reaches(t, s.host, network, "192.0.2.1:8080", "192.0.2.1")
			reaches(t, s.host, network, "[2001:db8::1]:8080", "2001:db8::1")
			reaches(t, s.host, network, "127.0.0.1:8080", "10.200.1.1")
			reaches(t, s.b, network, "192.0.2.1:8080", "10.200.1.1")
			reaches(t, s.b, network, "[2001:db8::1]:8080", "fd00:200:0:1::1")
			reaches(t, s.a, network, "192.0.2.1:8080", "10.200.1.1")
			reaches(t, s.a, network, "[2001:db8::1]:8080", "fd00:200:0:1::1")
			reaches(t, s.a, network, "10.200.1.1:8080", "10.200.1.1")
			refused(t, s.outside, "tcp", "192.0.2.1:80")
		})
	}
	s.set(t)
	refused(t, s.outside, "tcp", "192.0.2.1:8080")
}

func TestAPublishedPortIsReachedByItsContainersOtherAddress(t *testing.T) {
	s := newSite(t)
	_, err := s.AddVeth(eth1(s.a, 0))
	require.NoError(t, err)
	serve(t, s.a, "tcp", "10.200.1.2:80")
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"))
	_, err = ask(s.a, "tcp", "10.200.7.1:8080", 10*time.Second) // by eth1
	require.NoError(t, err)
}

func TestAPortOfOneAddressIsOfNoOther(t *testing.T) {
	s := newSite(t)
	run(t, s.Namespace, "sh", "-ec", "ip addr add 192.0.2.10/24 dev wan; ip addr add 127.0.0.2/8 dev lo")
	serve(t, s.a, "tcp", "10.200.1.2:80")
	serve(t, s.b, "tcp", "10.200.1.3:80")
	s.set(t,
		forward("tcp", "192.0.2.10", 8080, "10.200.1.2:80"),
		forward("tcp", "127.0.0.1", 8081, "10.200.1.2:80"),
		forward("tcp", "0.0.0.0", 8082, "10.200.1.2:81"), forward("tcp", "192.0.2.10", 8082, "10.200.1.3:80"),
		forward("tcp", "198.51.100.1", 8083, "10.200.1.2:80"),
	)
	reaches(t, s.outside, "tcp", "192.0.2.10:8080", "192.0.2.2")
	refused(t, s.outside, "tcp", "192.0.2.1:8080")
	refused(t, s.host, "tcp", "127.0.0.1:8080")
	reaches(t, s.host, "tcp", "127.0.0.1:8081", "10.200.1.1")
	refused(t, s.host, "tcp", "127.0.0.2:8081")
	refused(t, s.outside, "tcp", "192.0.2.1:8081")

	// The more special one wins: nobody listens where the other leads.
	reaches(t, s.outside, "tcp", "192.0.2.10:8082", "192.0.2.2")
	refused(t, s.outside, "tcp", "192.0.2.1:8082")

	// An address that is not the host's is not taken from whose it is.
	run(t, s.outside, "ip", "addr", "add", "198.51.100.1/32", "dev", "eth0")
	refused(t, s.host, "tcp", "198.51.100.1:8083")
}

// reachLoopback lets a place send to the loopback address of another host.
const reachLoopback = "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local; ip route add 127.0.0.0/8 via "

func TestLoopbackAddressesAreTheHostsAlone(t *testing.T) {
	s := newSite(t)
	s.set(t, forward("udp", "127.0.0.1", 8080, "10.200.1.2:80"), forward("udp", "", 8081, "10.200.1.2:81"))
	require.Equal(t, "1", readIn(t, s.host, "net.ipv4.conf.ovl-b.route_localnet"))
	s.b.run("sh", "-ec", reachLoopback+"10.200.1.1 src 10.200.1.3")
	run(t, s.outside, "sh", "-ec", reachLoopback+"192.0.2.1 src 192.0.2.2")

	// first is the first place to reach a server, of two that send to an address.
	first := func(server place, at, addr string, from ...place) int {
		var l net.PacketConn
		var err error
		server.Do(func() { l, err = net.ListenPacket("udp4", at) })
		require.NoError(t, err)
		defer l.Close()
		for i, f := range from {
			conn, err := dial(f, "udp4", addr, 10*time.Second)
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte{byte(i)})
			require.NoError(t, err)
		}
		require.NoError(t, l.SetReadDeadline(time.Now().Add(30*time.Second)))
		var who [1]byte
		_, _, err = l.ReadFrom(who[:])
		require.NoError(t, err)
		return int(who[0])
	}
	for _, stranger := range []place{s.b, s.outside} {
		require.Equal(t, 1, first(s.host, "127.0.0.1:90", "127.0.0.1:90", stranger, s.host))
		require.Equal(t, 1, first(s.a, "10.200.1.2:80", "127.0.0.1:8080", stranger, s.host))
		require.Equal(t, 1, first(s.a, "10.200.1.2:81", "127.0.0.1:8081", stranger, s.host))
	}

	ports := s.firewall.Ports
	s.set(t)
	require.Equal(t, "0", readIn(t, s.host, "net.ipv4.conf.ovl-b.route_localnet"), "without a port")
	s.set(t, ports...)
	require.NoError(t, s.RemoveFirewall())
	require.Equal(t, "0", readIn(t, s.host, "net.ipv4.conf.ovl-b.route_localnet"), "without rules")
	require.Equal(t, 1, first(s.host, "127.0.0.1:90", "127.0.0.1:90", s.b, s.host))
	run(t, s.Namespace, "sysctl", "-qw", "net.ipv4.conf.ovl-b.route_localnet=1")
	require.Equal(t, 0, first(s.host, "127.0.0.1:90", "127.0.0.1:90", s.b), "what the rule is against")
}

func TestSegmentsFitTheTunnel(t *testing.T) {
	s := newSite(t)
	s.firewall.MTU = 1280
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"), forward("tcp", "", 8080, "[fd00:200:0:1::2]:80"))
	for _, addrs := range [][2]string{{"192.0.2.1:8080", "10.200.1.2:80"}, {"[2001:db8::1]:8080", "[fd00:200:0:1::2]:80"}} {
		var l net.Listener
		var err error
		s.a.Do(func() { l, err = net.Listen("tcp", addrs[1]) })
		require.NoError(t, err)
		defer l.Close()
		client, err := dial(s.outside, "tcp", addrs[0], 10*time.Second)
		require.NoError(t, err)
		defer client.Close()
		server, err := l.Accept()
		require.NoError(t, err)
		defer server.Close()
		want := 1280 - 40 - 12 // the headers, and the option for time stamps
		if strings.HasPrefix(addrs[0], "[") {
			want -= 20
		}
		require.Equal(t, want, segment(t, client), "%s", addrs[0])
		require.Equal(t, want, segment(t, server), "%s", addrs[1])
	}
}

func TestAContainerCannotBeARouterToOthers(t *testing.T) {
	s := newSite(t)
	const hopLimit = 255 // by which a neighbour is known (RFC 4861 section 6.1.2)
	advertise := func(lifetime byte) {
		var conn net.PacketConn
		var eth0 *net.Interface
		var err error
		s.a.Do(func() {
			if eth0, err = net.InterfaceByName("eth0"); err == nil {
				conn, err = net.ListenPacket("ip6:ipv6-icmp", "::")
			}
		})
		require.NoError(t, err)
		defer conn.Close()
		raw, err := conn.(*net.IPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hopLimit)
		}))
		require.NoError(t, err)
		_, err = conn.WriteTo([]byte{134, 0, 0, 0, 64, 0, 0, lifetime, 0, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: strconv.Itoa(eth0.Index)})
		require.NoError(t, err)
		reaches(t, s.a, "tcp", "[fd00:200:0:1::3]:80", "fd00:200:0:1::2") // comes after it
	}
	serve(t, s.b, "tcp", "[fd00:200:0:1::3]:80")
	s.set(t)
	advertise(100)
	require.NotContains(t, s.b.run("ip", "-6", "route"), "proto ra")
	require.NoError(t, s.RemoveFirewall())
	advertise(101)
	require.Contains(t, s.b.run("ip", "-6", "route"), "proto ra", "what the rule is against")
}

// segment is the largest a side sends.
func segment(t testing.TB, conn net.Conn) (size int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}))
	require.NoError(t, err)
	return size
}

func TestWhatIsConnectedStaysSoWhenRulesChange(t *testing.T) {
	s := newSite(t)
	serve(t, s.a, "tcp", "10.200.1.2:80")
	serve(t, s.outside, "tcp", "192.0.2.2:80")
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"))
	published, err := dial(s.outside, "tcp", "192.0.2.1:8080", 20*time.Second)
	require.NoError(t, err)
	defer published.Close()
	masqueraded, err := dial(s.b, "tcp", "192.0.2.2:80", 20*time.Second)
	require.NoError(t, err)
	defer masqueraded.Close()
	for port := range uint16(50) {
		s.set(t, forward("tcp", "", 9000+port, "10.200.1.3:80"))
		for conn, seen := range map[net.Conn]string{published: "192.0.2.2", masqueraded: "192.0.2.1"} {
			got, err := askAgain(conn)
			require.NoError(t, err)
			require.Equal(t, seen, got.String())
		}
		if port%10 == 0 {
			s.open(t)
		}
	}
}

func TestRulesComeBackWhateverBecameOfThem(t *testing.T) {
	s := newSite(t)
	ports := []hostnet.Forward{forward("tcp", "", 8080, "10.200.1.2:80")}
	s.set(t, ports...)
	want := run(t, s.Namespace, "nft", "list", "ruleset")
	for _, change := range []string{
		"flush ruleset",
		"flush table inet overlayd; delete table bridge overlayd",
		"add rule inet overlayd forward drop; add element inet overlayd cluster4 { 192.0.2.0/24 }",
		"delete table inet overlayd; table inet overlayd { set links { type ipv4_addr; }; chain guard { type filter hook input priority 0; policy drop; }; }",
	} {
		run(t, s.Namespace, "nft", change)
		require.NotEqual(t, want, run(t, s.Namespace, "nft", "list", "ruleset"))
		s.set(t, ports...)
		require.Equal(t, want, run(t, s.Namespace, "nft", "list", "ruleset"))
	}
}

func TestNoPacketSeesAPartOfTheRules(t *testing.T) {
	s := newSite(t)
	serve(t, s.a, "udp", "10.200.1.2:80")
	s.set(t, forward("udp", "", 8080, "10.200.1.2:80"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			if s.SetFirewall(s.firewall) != nil {
				return
			}
		}
	}()
	asked := 0
	for changing := true; changing; asked++ {
		select {
		case <-done:
			changing = false
		default:
		}
		reaches(t, s.outside, "udp", "192.0.2.1:8080", "192.0.2.2") // each a flow of its own
	}
	require.Greater(t, asked, 10)
}

// tableHandle is the number the kernel gave our table when it was made.
func (s *site) tableHandle(t *testing.T) string {
	t.Helper()
	first, _, _ := strings.Cut(run(t, s.Namespace, "nft", "--handle", "list", "table", "inet", "overlayd"), "\n")
	require.Contains(t, first, "# handle ")
	return first
}

func TestAKernelWithoutBridgeRulesIsAskedForThemOnce(t *testing.T) {
	defer hostnet.WithoutBridgeFamily()()
	s := newSite(t)
	require.False(t, s.LacksBridgeRules())
	s.set(t)
	require.True(t, s.LacksBridgeRules())
	before := s.tableHandle(t)
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"))
	require.Equal(t, before, s.tableHandle(t), "the table is changed and not made anew")
	require.NotContains(t, run(t, s.Namespace, "nft", "list", "tables"), "table bridge overlayd")
	run(t, s.Namespace, "nft", "flush ruleset")
	s.set(t)
	require.NoError(t, s.RemoveFirewall())
}

func TestAKernelWithBridgeRulesKeepsItsTables(t *testing.T) {
	s := newSite(t)
	s.set(t)
	before := s.tableHandle(t)
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"))
	require.Equal(t, before, s.tableHandle(t))
	require.False(t, s.LacksBridgeRules())
}

func manyPorts(n int) (ports []hostnet.Forward) {
	for i := range n {
		ports = append(ports, forward("tcp", "", uint16(10000+i), "10.200.1.3:80"))
	}
	return ports
}

func TestManyPortsAndPrefixes(t *testing.T) {
	s := newSite(t)
	serve(t, s.b, "tcp", "10.200.1.3:80")
	for i := range 300 {
		s.firewall.Inside = append(s.firewall.Inside, prefixes(fmt.Sprintf("10.100.%d.%d/28", i/16, i%16*16), fmt.Sprintf("10.101.%d.%d/28", i/8, i%8*32))...)
	}
	s.set(t, manyPorts(16384)...)
	for _, port := range []int{10000, 10250, 26383} {
		reaches(t, s.outside, "tcp", fmt.Sprintf("192.0.2.1:%d", port), "192.0.2.2")
	}
	refused(t, s.outside, "tcp", "192.0.2.1:26384")
}

func TestTheSameRulesAreTheSameTable(t *testing.T) {
	s := newSite(t)
	ports := []hostnet.Forward{
		forward("tcp", "", 8080, "10.200.1.2:80"), forward("udp", "", 8080, "10.200.1.2:80"),
		forward("tcp", "192.0.2.1", 8081, "10.200.1.2:80"), forward("tcp", "", 8080, "[fd00:200:0:1::2]:80"),
	}
	s.set(t, ports...)
	before := run(t, s.Namespace, "nft", "list", "ruleset")
	s.set(t, ports[3], ports[2], ports[1], ports[0], ports[0])
	s.firewall.Cluster = prefixes("fd00:200::/48", "10.200.128.0/17", "10.200.0.0/17", "10.200.3.0/24")
	s.firewall.Bridges = []string{"ovl-b", "ovl-b"}
	require.NoError(t, s.SetFirewall(s.firewall))
	require.Equal(t, before, run(t, s.Namespace, "nft", "list", "ruleset"))
}

func TestRemovingRulesLeavesThoseOfOthers(t *testing.T) {
	s := newSite(t)
	run(t, s.Namespace, "nft", "add table inet other; add chain inet other c { type filter hook forward priority 0; policy drop; }; add rule inet other c counter accept; add table ip overlayd; add table bridge other")
	before := run(t, s.Namespace, "nft", "--stateless", "list", "ruleset")
	for _, want := range []bool{false, true, false} {
		if want {
			s.set(t, manyPorts(500)...)
		} else {
			require.NoError(t, s.RemoveFirewall())
			require.NoError(t, s.RemoveFirewall(), "twice")
			require.Equal(t, before, run(t, s.Namespace, "nft", "--stateless", "list", "ruleset"))
		}
		has, err := s.HasFirewall()
		require.NoError(t, err)
		require.Equal(t, want, has)
	}
}

func TestRulesThatCannotBeChangeNothing(t *testing.T) {
	s := newSite(t)
	s.set(t, forward("tcp", "", 8080, "10.200.1.2:80"))
	before := run(t, s.Namespace, "nft", "list", "ruleset")
	files := openFiles(t)
	for says, change := range map[string]func(f *hostnet.Firewall){
		`protocol "sctp"`:        func(f *hostnet.Firewall) { f.Ports[0].Proto = "sctp" },
		"port 0/tcp":             func(f *hostnet.Firewall) { f.Ports[0].HostPort = 0 },
		"leads nowhere":          func(f *hostnet.Firewall) { f.Ports[0].To = netip.AddrPort{} },
		"port 8080/tcp leads to": func(f *hostnet.Firewall) { f.Ports = append(f.Ports, forward("tcp", "", 8080, "10.200.1.3:80")) },
		"of another family":      func(f *hostnet.Firewall) { f.Ports[0].HostIP = netip.MustParseAddr("2001:db8::1") },
		"cannot lead to":         func(f *hostnet.Firewall) { f.Ports[0].HostIP = netip.MustParseAddr("::") },
		"has a zone": func(f *hostnet.Firewall) {
			f.Ports[0] = forward("tcp", "fe80::1%wan", 8080, "[fd00:200:0:1::2]:80")
		},
		"is no name":   func(f *hostnet.Firewall) { f.Devices = []string{"a name that is too long"} },
		"is no prefix": func(f *hostnet.Firewall) { f.Inside = []netip.Prefix{{}} },
		"MTU":          func(f *hostnet.Firewall) { f.MTU = 1 << 20 },
	} {
		f := s.firewall
		f.Ports = append([]hostnet.Forward(nil), f.Ports...)
		change(&f)
		require.ErrorContains(t, s.SetFirewall(f), says)
		require.Equal(t, before, run(t, s.Namespace, "nft", "list", "ruleset"))
	}
	f := s.firewall
	f.Inside = []netip.Prefix{{}}
	require.ErrorIs(t, s.SetFirewall(f), fs.ErrInvalid)
	requireNoMoreFiles(t, files)
}

func TestRulesForEveryAddressThereIs(t *testing.T) {
	s := newSite(t)
	s.firewall.Inside = prefixes("0.0.0.0/0", "::/0")
	s.firewall.Cluster = prefixes("128.0.0.0/1", "8000::/1", "255.255.255.255/32", "0.0.0.0/8")
	s.set(t)
	list := run(t, s.Namespace, "nft", "list", "ruleset")
	require.Contains(t, list, "0.0.0.0/0")
	require.Contains(t, list, "128.0.0.0/1")
	require.Contains(t, list, "8000::/1")
}

func TestNoRulesAtAll(t *testing.T) {
	s := newSite(t)
	require.NoError(t, s.SetFirewall(hostnet.Firewall{}))
	serve(t, s.b, "tcp", "10.200.1.3:80")
	reaches(t, s.a, "tcp", "10.200.1.3:80", "10.200.1.2")
}

// BenchmarkSetFirewall is what a change of the rules costs.
func BenchmarkSetFirewall(b *testing.B) {
	h := newHost(b)
	for _, n := range []int{1, 500, 16384} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := hostnet.Firewall{Bridges: []string{"ovl-b"}, Ports: manyPorts(n), Cluster: prefixes("10.200.0.0/16"), MTU: mtu}
			for b.Loop() {
				require.NoError(b, h.SetFirewall(f))
			}
		})
	}
}
