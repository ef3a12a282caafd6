package testnet_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

// listen opens a UDP socket on the loopback interface.
func listen(t testing.TB, host netip.Addr) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
	if err != nil && host.Is6() {
		t.Skipf("needs an IPv6 loopback: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

func addr(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func openRelay(t testing.TB, a, b *net.UDPConn, ab, ba testnet.Link) *testnet.Relay {
	t.Helper()
	r, err := testnet.OpenRelay(addr(a), addr(b), ab, ba)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// say sends a datagram and returns what the other socket receives, and from whom.
func say(t testing.TB, from *net.UDPConn, to netip.AddrPort, at *net.UDPConn, what string) netip.AddrPort {
	t.Helper()
	_, err := from.WriteToUDPAddrPort([]byte(what), to)
	require.NoError(t, err)
	heard := make([]byte, 65535)
	n, sender, err := at.ReadFromUDPAddrPort(heard)
	require.NoError(t, err)
	require.Equal(t, what, string(heard[:n]))
	return sender
}

func TestARelayJoinsSocketsOfEitherFamily(t *testing.T) {
	for name, hosts := range map[string][2]netip.Addr{
		"IPv4":          {loopback4, loopback4},
		"IPv6":          {loopback6, loopback6},
		"IPv4 and IPv6": {loopback4, loopback6},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := listen(t, hosts[0]), listen(t, hosts[1])
			r := openRelay(t, a, b, testnet.Link{}, testnet.Link{})
			require.Equal(t, r.B(), say(t, a, r.A(), b, "there"))
			require.Equal(t, r.A(), say(t, b, r.B(), a, "and back"))
			ab, ba := r.Stats()
			require.EqualValues(t, 1, ab.Packets)
			require.EqualValues(t, 1, ba.Packets)
		})
	}
}

func TestARelayFollowsASideThatMoves(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	r := openRelay(t, a, b, testnet.Link{}, testnet.Link{})
	say(t, a, r.A(), b, "before")
	moved := listen(t, loopback4)
	require.Equal(t, r.B(), say(t, moved, r.A(), b, "after"))
	say(t, b, r.B(), moved, "to where it is now")
}

func TestARelayHasItsDelay(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	r := openRelay(t, a, b, testnet.Link{Delay: 20 * time.Millisecond}, testnet.Link{})
	start := time.Now()
	say(t, a, r.A(), b, "late")
	require.GreaterOrEqual(t, time.Since(start), 20*time.Millisecond)
}

func TestARelayLoses(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	r := openRelay(t, a, b, testnet.Link{Loss: 1}, testnet.Link{})
	for range 3 {
		_, err := a.WriteToUDPAddrPort([]byte("lost"), r.A())
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { ab, _ := r.Stats(); return ab.Lost == 3 }, 30*time.Second, time.Millisecond)
	r.SetLinks(testnet.Link{}, testnet.Link{})
	say(t, a, r.A(), b, "not lost")
}

func TestALargeDatagramPasses(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	r := openRelay(t, a, b, testnet.Link{}, testnet.Link{})
	say(t, a, r.A(), b, string(make([]byte, 9000)))
	say(t, a, r.A(), b, "")
}

func TestARelayThatCannotOpenSaysForWhom(t *testing.T) {
	good := netip.MustParseAddrPort("127.0.0.1:9")
	for _, bad := range []netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("192.0.2.1:9")} {
		_, err := testnet.OpenRelay(good, bad, testnet.Link{}, testnet.Link{})
		require.ErrorContains(t, err, bad.String())
	}
}

func TestClosingARelayTwiceIsNoError(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	r := openRelay(t, a, b, testnet.Link{Delay: time.Hour}, testnet.Link{})
	_, err := a.WriteToUDPAddrPort([]byte("on its way"), r.A())
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
}

// BenchmarkRelay is the relay's ceiling: how fast datagrams as large as
// WireGuard's pass it one way.
func BenchmarkRelay(b *testing.B) {
	from, to := listen(b, loopback4), listen(b, loopback4)
	require.NoError(b, from.SetDeadline(time.Time{}))
	require.NoError(b, to.SetDeadline(time.Time{}))
	r := openRelay(b, from, to, testnet.Link{}, testnet.Link{})
	const window = 64 // on their way at once, which a socket's buffer holds
	datagram, arrived := make([]byte, 1452), make([]byte, 2048)
	b.SetBytes(window * int64(len(datagram)))
	b.ReportAllocs()
	for b.Loop() {
		for range window {
			from.WriteToUDPAddrPort(datagram, r.A())
		}
		for range window {
			if _, err := to.Read(arrived); err != nil {
				b.Fatal(err)
			}
		}
	}
}
