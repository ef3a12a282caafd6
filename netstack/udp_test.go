package netstack

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func listenPacket(t testing.TB, s *Stack, network, address string) *udpConn {
	t.Helper()
	pc, err := s.ListenPacket(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc.(*udpConn)
}

func TestListenPacketBindsAsPackageNetDoes(t *testing.T) {
	for _, tt := range []struct {
		name, network, address string
		want                   string
		reached, missed        []netip.Prefix
	}{
		{"udp without a host takes both families", "udp", ":0", "::", []netip.Prefix{addrB4, addrB6}, nil},
		{"udp on IPv4's unspecified address takes IPv4", "udp", "0.0.0.0:0", "0.0.0.0", []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
		{"udp4 takes IPv4", "udp4", ":0", "0.0.0.0", []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
		{"udp6 takes IPv6", "udp6", ":0", "::", []netip.Prefix{addrB6}, []netip.Prefix{addrB4}},
		{"an address takes itself", "udp", addrPort(addrB4, "0"), addrB4.Addr().String(), []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newPair(t)
			pc := listenPacket(t, b, tt.network, tt.address)
			host, p, err := net.SplitHostPort(pc.LocalAddr().String())
			require.NoError(t, err)
			require.Equal(t, tt.want, host)
			require.Nil(t, pc.RemoteAddr())
			for _, to := range tt.reached {
				c, err := a.DialContext(testContext(t), "udp", addrPort(to, p))
				require.NoError(t, err)
				_, err = c.Write([]byte("question"))
				require.NoError(t, err)
				buf := make([]byte, 100)
				n, from, err := pc.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, "question", string(buf[:n]))
				require.Equal(t, c.LocalAddr().String(), from.String(), "an IPv4 address is never mapped")
				require.Equal(t, to.Addr().Is4(), len(from.(*net.UDPAddr).IP) == net.IPv4len)
				_, err = pc.WriteTo([]byte("answer"), from)
				require.NoError(t, err)
				n, err = c.Read(buf)
				require.NoError(t, err)
				require.Equal(t, "answer", string(buf[:n]))
				require.NoError(t, c.Close())
			}
			for _, to := range tt.missed {
				c, err := a.DialContext(testContext(t), "udp", addrPort(to, p))
				require.NoError(t, err)
				_, err = c.Write([]byte("question"))
				require.NoError(t, err)
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				require.NoError(t, c.Close())
			}
		})
	}
}

func TestDatagramsOfEverySizeStayWhole(t *testing.T) {
	a, b := newPairOver(t, Config{}, cut, cut)
	pc := listenPacket(t, b, "udp", ":0")
	require.NoError(t, pc.SetReadBuffer(1<<20))
	// The largest are what fits IP's length field behind both headers.
	for _, to := range []struct {
		addr    netip.Prefix
		largest int
	}{{addrB4, 65507}, {addrB6, 65527 - 40}} {
		for _, size := range []int{0, 1, 1000, 1392, 1393, 8192, to.largest} {
			c, err := a.DialContext(testContext(t), "udp", addrPort(to.addr, port(t, pc.LocalAddr())))
			require.NoError(t, err)
			sent := make([]byte, size)
			rand.Read(sent)
			n, err := c.Write(sent)
			require.NoError(t, err)
			require.Equal(t, size, n)
			got := make([]byte, 65536)
			n, err = pc.Read(got)
			require.NoError(t, err)
			require.True(t, string(sent) == string(got[:n]))
			require.NoError(t, c.Close())
		}
	}
	_, err := pc.WriteTo(make([]byte, 65536), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrA4.Addr(), 9)))
	require.ErrorIs(t, err, syscall.EMSGSIZE)
}

func TestDatagramsMergedOnTheWayArriveOneByOne(t *testing.T) {
	a, b := newPairOver(t, Config{}, merged, merged)
	pc := listenPacket(t, b, "udp", ":0")
	for _, to := range []netip.Prefix{addrB4, addrB6} {
		c, err := a.DialContext(testContext(t), "udp", addrPort(to, port(t, pc.LocalAddr())))
		require.NoError(t, err)
		for i := range 100 {
			_, err := c.Write(bytes.Repeat([]byte{byte(i)}, 1200))
			require.NoError(t, err)
		}
		buf := make([]byte, 2000)
		for i := range 100 {
			n, err := pc.Read(buf)
			require.NoError(t, err)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, 1200), buf[:n])
		}
		require.NoError(t, c.Close())
	}
	require.Zero(t, b.Stats().BadChecksums)
}

func TestTheLargestDatagramStaysInside(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	pc := listenPacket(t, s, "udp", ":0")
	sent := make([]byte, 65507)
	rand.Read(sent)
	_, err := pc.WriteTo(sent, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrA4.Addr(), pc.local.AddrPort().Port())))
	require.NoError(t, err)
	got := make([]byte, 65536)
	n, from, err := pc.ReadFrom(got)
	require.NoError(t, err)
	require.True(t, string(sent) == string(got[:n]))
	require.Equal(t, addrPort(addrA4, port(t, pc.LocalAddr())), from.String())
}

func TestWhatDoesNotFitTheReadersBufferIsLost(t *testing.T) {
	a, b := newPair(t)
	pc := listenPacket(t, b, "udp", ":0")
	c, err := a.DialContext(testContext(t), "udp", addrPort(addrB4, port(t, pc.LocalAddr())))
	require.NoError(t, err)
	defer c.Close()
	for _, message := range []string{"first", "second", "third", ""} {
		_, err := c.Write([]byte(message))
		require.NoError(t, err)
	}
	buf := make([]byte, 3)
	n, _, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "fir", string(buf[:n]))
	n, _, err = pc.ReadFrom(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	n, _, err = pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "thi", string(buf[:n]))
	n, from, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Zero(t, n, "an empty datagram is a message like others")
	require.Equal(t, c.LocalAddr().String(), from.String())
}

func TestAConnectedSocketHearsOfNobodyListening(t *testing.T) {
	a, _ := newPair(t)
	for _, to := range []netip.Prefix{addrB4, addrB6, addrA4} {
		c, err := a.DialContext(testContext(t), "udp", addrPort(to, "9"))
		require.NoError(t, err)
		require.Equal(t, addrPort(to, "9"), c.RemoteAddr().String())
		_, err = c.Write([]byte("anybody"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "read", op.Op)
		require.Equal(t, c.LocalAddr(), op.Source)
		require.Equal(t, c.RemoteAddr(), op.Addr)
		require.NoError(t, c.Close())
	}
}

func TestAConnectedSocketHearsItsPeerOnly(t *testing.T) {
	a, b := newPair(t)
	peer, other := listenPacket(t, b, "udp", ":0"), listenPacket(t, b, "udp", ":0")
	c, err := a.DialContext(testContext(t), "udp4", addrPort(addrB4, port(t, peer.LocalAddr())))
	require.NoError(t, err)
	defer c.Close()
	_, err = other.WriteTo([]byte("other"), c.LocalAddr())
	require.NoError(t, err)
	_, err = peer.WriteTo([]byte("peer"), c.LocalAddr())
	require.NoError(t, err)
	buf := make([]byte, 10)
	n, err := c.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "peer", string(buf[:n]))
	_, err = c.(*udpConn).WriteTo([]byte("x"), peer.LocalAddr())
	require.ErrorIs(t, err, net.ErrWriteToConnected)
}

func TestWhatCannotBeSentToSaysWhy(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	both, only4 := listenPacket(t, s, "udp", ":0"), listenPacket(t, s, "udp4", ":0")
	to4 := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB4.Addr(), 9))
	to6 := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB6.Addr(), 9))
	_, err := both.WriteTo(nil, to4)
	require.NoError(t, err)
	_, err = both.WriteTo(nil, to6)
	require.NoError(t, err)
	mapped := &net.UDPAddr{IP: addrB4.Addr().AsSlice(), Port: 9}
	mapped.IP = mapped.IP.To16()
	_, err = only4.WriteTo(nil, mapped)
	require.NoError(t, err)
	for name, addr := range map[string]net.Addr{
		"an address of another family": to6,
		"a zone":                       &net.UDPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 9},
		"no IP address":                &net.UDPAddr{Port: 9},
		"a TCP address":                &net.TCPAddr{IP: to4.IP, Port: 9},
		"no address":                   nil,
		"a nil address":                (*net.UDPAddr)(nil),
		"port 0":                       &net.UDPAddr{IP: to4.IP},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := only4.WriteTo([]byte("x"), addr)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "write", op.Op)
		})
	}
	_, err = both.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
}

func TestDeadlinesOfAPacketConn(t *testing.T) {
	a, b := newPair(t)
	pc := listenPacket(t, b, "udp", ":0")
	buf := make([]byte, 1)
	require.NoError(t, pc.SetDeadline(time.Now().Add(-time.Second)))
	_, _, err := pc.ReadFrom(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = pc.WriteTo(buf, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrA4.Addr(), 9)))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, pc.SetDeadline(time.Now().Add(10*time.Millisecond)))
	_, _, err = pc.ReadFrom(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, pc.SetDeadline(time.Time{}))
	c, err := a.DialContext(testContext(t), "udp", addrPort(addrB4, port(t, pc.LocalAddr())))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(buf)
	require.NoError(t, err)
	_, _, err = pc.ReadFrom(buf)
	require.NoError(t, err)
}

func TestClosingAPacketConnEndsItsCalls(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	pc := listenPacket(t, s, "udp", ":9000")
	ended := make(chan error)
	go func() {
		_, _, err := pc.ReadFrom(make([]byte, 1))
		ended <- err
	}()
	full := make(chan error)
	go func() {
		// Nobody reads the device, so that the send buffer fills up.
		for {
			if _, err := pc.WriteTo(make([]byte, 1000), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB4.Addr(), 9))); err != nil {
				full <- err
				return
			}
		}
	}()
	require.NoError(t, pc.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.ErrorIs(t, <-full, net.ErrClosed)
	require.ErrorIs(t, pc.Close(), net.ErrClosed)
	require.ErrorIs(t, pc.SetReadBuffer(1), net.ErrClosed)
	require.ErrorIs(t, pc.SetWriteBuffer(1), net.ErrClosed)
	require.ErrorIs(t, pc.SetDeadline(time.Time{}), net.ErrClosed)
	_, _, err := pc.ReadFrom(nil)
	require.ErrorIs(t, err, net.ErrClosed)
	listenPacket(t, s, "udp", ":9000")
}

func TestReadingDatagramsWithoutAllocation(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	pc := listenPacket(t, s, "udp", ":0")
	to := netip.AddrPortFrom(addrA4.Addr(), pc.local.AddrPort().Port())
	buf := make([]byte, 1200)
	per := testing.AllocsPerRun(1000, func() {
		_, err := pc.WriteToUDPAddrPort(buf, to)
		require.NoError(t, err)
		_, _, err = pc.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
	})
	t.Logf("%.1f allocations per datagram, written and read", per)
	if !raceDetector() {
		require.LessOrEqual(t, per, 10.0, "gVisor's own")
	}
}
