package netstack

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func addrPort(p netip.Prefix, port string) string {
	return net.JoinHostPort(p.Addr().String(), port)
}

func port(t testing.TB, a net.Addr) string {
	t.Helper()
	_, p, err := net.SplitHostPort(a.String())
	require.NoError(t, err)
	return p
}

func TestListenBindsAsPackageNetDoes(t *testing.T) {
	for _, tt := range []struct {
		name, network, address string
		want                   string // the address without its port
		reached, refused       []netip.Prefix
	}{
		{"tcp without a host takes both families", "tcp", ":0", "::", []netip.Prefix{addrB4, addrB6}, nil},
		{"tcp without anything takes both families", "tcp", "", "::", []netip.Prefix{addrB4, addrB6}, nil},
		{"tcp on IPv6's unspecified address takes both families", "tcp", "[::]:0", "::", []netip.Prefix{addrB4, addrB6}, nil},
		{"tcp on IPv4's unspecified address takes IPv4", "tcp", "0.0.0.0:0", "0.0.0.0", []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
		{"tcp4 takes IPv4", "tcp4", ":0", "0.0.0.0", []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
		{"tcp6 takes IPv6", "tcp6", ":0", "::", []netip.Prefix{addrB6}, []netip.Prefix{addrB4}},
		{"an address takes itself", "tcp", addrPort(addrB4, "0"), addrB4.Addr().String(), []netip.Prefix{addrB4}, []netip.Prefix{addrB6}},
		{"an address of IPv6 takes itself", "tcp", addrPort(addrB6, "0"), addrB6.Addr().String(), []netip.Prefix{addrB6}, []netip.Prefix{addrB4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newPair(t)
			l, err := b.Listen(tt.network, tt.address)
			require.NoError(t, err)
			defer l.Close()
			host, p, err := net.SplitHostPort(l.Addr().String())
			require.NoError(t, err)
			require.Equal(t, tt.want, host)
			require.NotEqual(t, "0", p)
			for _, to := range tt.reached {
				c, err := a.DialContext(testContext(t), "tcp", addrPort(to, p))
				require.NoError(t, err)
				s, err := l.Accept()
				require.NoError(t, err)
				require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String(), "an IPv4 address is never mapped")
				require.Equal(t, c.RemoteAddr().String(), s.LocalAddr().String())
				require.NoError(t, c.Close())
				require.NoError(t, s.Close())
			}
			for _, to := range tt.refused {
				_, err := a.DialContext(testContext(t), "tcp", addrPort(to, p))
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
			}
		})
	}
}

func TestWhatCannotBeBoundSaysWhy(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	l, err := s.Listen("tcp", ":8080")
	require.NoError(t, err)
	defer l.Close()
	pc, err := s.ListenPacket("udp", ":8080")
	require.NoError(t, err)
	defer pc.Close()
	listen := func(network, address string) error {
		if network[:3] == "udp" {
			_, err := s.ListenPacket(network, address)
			return err
		}
		_, err := s.Listen(network, address)
		return err
	}
	for _, tt := range []struct {
		name, network, address string
		want                   error
	}{
		{"a TCP port in use", "tcp", ":8080", syscall.EADDRINUSE},
		{"a TCP port in use, of one family", "tcp4", ":8080", syscall.EADDRINUSE},
		{"a TCP port in use, on one address", "tcp", addrPort(addrA4, "8080"), syscall.EADDRINUSE},
		{"a UDP port in use", "udp", ":8080", syscall.EADDRINUSE},
		{"another's address", "tcp", addrPort(addrB4, "80"), syscall.EADDRNOTAVAIL},
		{"another's address for UDP", "udp", addrPort(addrB6, "80"), syscall.EADDRNOTAVAIL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := listen(tt.network, tt.address)
			require.ErrorIs(t, err, tt.want)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "listen", op.Op)
			require.Equal(t, tt.network, op.Net)
			require.NotNil(t, op.Addr)
		})
	}
	t.Run("a network of another kind", func(t *testing.T) {
		var unknown net.UnknownNetworkError
		_, err := s.Listen("udp", ":0")
		require.ErrorAs(t, err, &unknown)
		_, err = s.ListenPacket("tcp", ":0")
		require.ErrorAs(t, err, &unknown)
		_, err = s.DialContext(testContext(t), "unix", "/run/x")
		require.ErrorAs(t, err, &unknown)
	})
	for name, address := range map[string]string{
		"a host name":                   "localhost:0",
		"an address of another family":  addrPort(addrA6, "0"),
		"a zone":                        "[fe80::1%eth0]:0",
		"no port":                       "10.200.0.1",
		"a port nobody has":             ":no-such-service",
		"a port beyond the last":        ":65536",
		"a bracket too few":             "[::1:80",
		"an address with text after it": "10.200.0.1x:80",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Listen("tcp4", address)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
		})
	}
}

func TestAPortIsFreeAgainOnceItsListenerIsClosed(t *testing.T) {
	a, b := newPair(t)
	for range 3 {
		l, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := a.DialContext(testContext(t), "tcp", addrPort(addrB4, "80"))
		require.NoError(t, err)
		defer c.Close()
		s, err := l.Accept()
		require.NoError(t, err)
		// The server's side closes first and is left in TIME-WAIT.
		require.NoError(t, s.Close())
		require.NoError(t, l.Close())
	}
}

func TestDialSaysWhyItFails(t *testing.T) {
	a, b := newPair(t)
	dial := func(ctx context.Context, network, address string) *net.OpError {
		_, err := a.DialContext(ctx, network, address)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
		require.Equal(t, network, op.Net)
		return op
	}
	t.Run("refused", func(t *testing.T) {
		for _, to := range []netip.Prefix{addrB4, addrB6, addrA4} {
			err := dial(testContext(t), "tcp", addrPort(to, "1"))
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Equal(t, addrPort(to, "1"), err.Addr.String())
		}
	})
	t.Run("cancelled before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, dial(ctx, "tcp", addrPort(addrB4, "1")), context.Canceled)
		require.ErrorIs(t, dial(ctx, "udp", addrPort(addrB4, "1")), context.Canceled)
	})
	t.Run("cancelled while nobody answers", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		require.ErrorIs(t, dial(ctx, "tcp", "10.200.9.9:80"), context.Canceled)
	})
	t.Run("out of time", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := dial(ctx, "tcp", "10.200.9.9:80")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, err.Timeout())
	})
	t.Run("no route", func(t *testing.T) {
		require.NoError(t, a.SetRoutes([]netip.Prefix{}))
		defer a.SetRoutes(nil)
		require.ErrorIs(t, dial(testContext(t), "tcp", "192.0.2.1:80"), syscall.ENETUNREACH)
		require.ErrorIs(t, dial(testContext(t), "udp", "192.0.2.1:80"), syscall.ENETUNREACH)
	})
	t.Run("no address of the family", func(t *testing.T) {
		require.NoError(t, a.SetAddrs([]netip.Prefix{addrA4}))
		defer a.SetAddrs([]netip.Prefix{addrA4, addrA6})
		require.ErrorIs(t, dial(testContext(t), "tcp", addrPort(addrB6, "80")), syscall.ENETUNREACH)
	})
	t.Run("a literal of another family", func(t *testing.T) {
		var addr *net.AddrError
		require.ErrorAs(t, dial(testContext(t), "tcp4", addrPort(addrB6, "80")), &addr)
		require.ErrorAs(t, dial(testContext(t), "udp6", addrPort(addrB4, "80")), &addr)
	})
	t.Run("a bad port", func(t *testing.T) {
		dial(testContext(t), "tcp", addrPort(addrB4, "no-such-service"))
		dial(testContext(t), "tcp", addrPort(addrB4, "99999"))
	})
	t.Run("the stack is closed meanwhile", func(t *testing.T) {
		time.AfterFunc(20*time.Millisecond, func() { a.Close() })
		require.ErrorIs(t, dial(testContext(t), "tcp", "10.200.9.9:80"), net.ErrClosed)
		require.ErrorIs(t, dial(testContext(t), "tcp", addrPort(addrB4, "80")), net.ErrClosed)
		require.ErrorIs(t, dial(testContext(t), "udp", addrPort(addrB4, "80")), net.ErrClosed)
	})
	_ = b
}

func TestADialWithoutAHostReachesTheStackItself(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	l, err := s.Listen("tcp", ":80")
	require.NoError(t, err)
	defer l.Close()
	for address, want := range map[string]netip.Prefix{":80": addrA4, "0.0.0.0:80": addrA4, "[::]:80": addrA4} {
		c, err := s.DialContext(testContext(t), "tcp", address)
		require.NoError(t, err)
		require.Equal(t, addrPort(want, "80"), c.RemoteAddr().String())
		require.NoError(t, c.Close())
	}
	c, err := s.DialContext(testContext(t), "tcp6", ":http")
	require.NoError(t, err)
	require.Equal(t, addrPort(addrA6, "80"), c.RemoteAddr().String())
	require.NoError(t, c.Close())
}

func TestAListenerSaysWhyAcceptEnds(t *testing.T) {
	_, b := newPair(t)
	l, err := b.Listen("tcp", ":0")
	require.NoError(t, err)
	require.NoError(t, l.(*tcpListener).SetDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, l.(*tcpListener).SetDeadline(time.Time{}))
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.ErrorIs(t, l.Close(), net.ErrClosed)
	require.ErrorIs(t, l.(*tcpListener).SetDeadline(time.Time{}), net.ErrClosed)
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestHalfCloseLeavesTheOtherHalf(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer client.Close()
	defer server.Close()
	_, err := client.Write([]byte("question"))
	require.NoError(t, err)
	require.NoError(t, client.(*tcpConn).CloseWrite())
	_, err = client.Write([]byte("more"))
	require.ErrorIs(t, err, syscall.EPIPE)
	got, err := io.ReadAll(server)
	require.NoError(t, err)
	require.Equal(t, "question", string(got))
	_, err = server.Write([]byte("answer"))
	require.NoError(t, err)
	require.NoError(t, server.(*tcpConn).CloseWrite())
	got, err = io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "answer", string(got))
}

func TestCloseReadEndsReading(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer client.Close()
	defer server.Close()
	ended := make(chan error)
	go func() {
		_, err := client.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, client.(*tcpConn).CloseRead())
	require.ErrorIs(t, <-ended, io.EOF)
	_, err := client.Write([]byte("still"))
	require.NoError(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(server, got)
	require.NoError(t, err)
	require.Equal(t, "still", string(got))
}

func TestLingerOfZeroResets(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB6.Addr().String())
	defer server.Close()
	require.NoError(t, client.(*tcpConn).SetLinger(0))
	require.NoError(t, client.Close())
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "read", op.Op)
	require.Equal(t, server.RemoteAddr(), op.Addr)
	require.Equal(t, server.LocalAddr(), op.Source)
}

func TestSocketOptionsAreThoseOfATCPConn(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer server.Close()
	c := client.(*tcpConn)
	require.True(t, c.ep.SocketOptions().GetKeepAlive())
	var idle tcpip.KeepaliveIdleOption
	require.Nil(t, c.ep.GetSockOpt(&idle))
	require.EqualValues(t, keepAliveIdle, idle)
	var interval tcpip.KeepaliveIntervalOption
	require.Nil(t, c.ep.GetSockOpt(&interval))
	require.EqualValues(t, keepAliveInterval, interval)
	count, terr := c.ep.GetSockOptInt(tcpip.KeepaliveCountOption)
	require.Nil(t, terr)
	require.Equal(t, keepAliveCount, count)
	require.False(t, c.ep.SocketOptions().GetDelayOption())
	require.NoError(t, c.SetNoDelay(false))
	require.True(t, c.ep.SocketOptions().GetDelayOption())
	require.NoError(t, c.SetKeepAlivePeriod(time.Minute))
	require.NoError(t, c.SetKeepAlive(false))
	require.False(t, c.ep.SocketOptions().GetKeepAlive())
	require.NoError(t, c.SetLinger(-1))
	require.NoError(t, c.SetReadBuffer(100<<10))
	require.NoError(t, c.SetWriteBuffer(100<<10))
	require.EqualValues(t, 100<<10, c.ep.SocketOptions().GetSendBufferSize())
	require.EqualValues(t, 100<<10, c.ep.SocketOptions().GetReceiveBufferSize())
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.ErrorIs(t, c.SetNoDelay(true), net.ErrClosed)
	require.ErrorIs(t, c.SetReadBuffer(1), net.ErrClosed)
	require.ErrorIs(t, c.SetWriteBuffer(1), net.ErrClosed)
	require.ErrorIs(t, c.SetLinger(1), net.ErrClosed)
	require.ErrorIs(t, c.SetKeepAlive(true), net.ErrClosed)
	require.ErrorIs(t, c.SetDeadline(time.Time{}), net.ErrClosed)
}

func TestConcurrentWritesDoNotMix(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer server.Close()
	const each = 300 << 10 // more than goes into one segment
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			buf := make([]byte, each)
			for j := range buf {
				buf[j] = byte(i)
			}
			_, err := client.Write(buf)
			assert.NoError(t, err)
		})
	}
	go func() {
		writers.Wait()
		client.Close()
	}()
	buf := make([]byte, each)
	for range 4 {
		_, err := io.ReadFull(server, buf)
		require.NoError(t, err)
		for _, c := range buf {
			if c != buf[0] {
				t.Fatal("two writes are mixed")
			}
		}
	}
}

func TestADeadlineMovedWhileReadingHolds(t *testing.T) {
	a, b := newPair(t)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer client.Close()
	defer server.Close()
	require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Hour)))
	ended := make(chan error)
	go func() {
		_, err := client.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, client.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
	_, err := server.Write([]byte{1})
	require.NoError(t, err)
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "whatever there is to read")
	require.NoError(t, client.SetReadDeadline(time.Time{}))
	_, err = client.Read(make([]byte, 1))
	require.NoError(t, err)
}

func TestHTTPWorksUnchanged(t *testing.T) {
	a, b := newPairOver(t, Config{}, cut, merged)
	l, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	body := make([]byte, 4<<20)
	rand.Read(body)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(body)
	})}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	transport := &http.Transport{DialContext: a.DialContext}
	client := &http.Client{Transport: transport}
	for _, host := range []string{addrB4.Addr().String(), "[" + addrB6.Addr().String() + "]"} {
		resp, err := client.Get("http://" + host + "/")
		require.NoError(t, err)
		hash := sha256.New()
		_, err = io.Copy(hash, resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		want := sha256.Sum256(body)
		require.Equal(t, want[:], hash.Sum(nil))
	}
	transport.CloseIdleConnections()
	require.NoError(t, server.Shutdown(testContext(t)))
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}

func TestEverySettingOfTCPCarriesDataThroughLoss(t *testing.T) {
	for _, settings := range []TCP{
		{},
		{CongestionControl: "reno"},
		{LossDetection: "sack"},
		{RecvBuffer: 64 << 10, SendBuffer: 64 << 10},
	} {
		a, b := newPairOver(t, Config{TCP: settings}, lossy, lossy)
		client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
		defer server.Close()
		body := make([]byte, 256<<10)
		rand.Read(body)
		go func() {
			client.Write(body)
			client.Close()
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.True(t, string(body) == string(got), "what arrives is what was sent")
	}
}

func TestABadConfigIsRefused(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, config := range map[string]Config{
		"an MTU too small":              {MTU: 575},
		"an MTU too small for IPv6":     {MTU: 1279, Addrs: []netip.Prefix{addrA6}},
		"an MTU too large":              {MTU: 65536},
		"no address":                    {Addrs: []netip.Prefix{{}}},
		"an address twice":              {Addrs: []netip.Prefix{addrA4, prefix("10.200.0.1/32")}},
		"an unspecified address":        {Addrs: []netip.Prefix{prefix("0.0.0.0/0")}},
		"a multicast address":           {Addrs: []netip.Prefix{prefix("ff02::1/128")}},
		"a loopback address":            {Addrs: []netip.Prefix{prefix("127.0.0.1/8")}},
		"a mapped address":              {Addrs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 128)}},
		"no route":                      {Routes: []netip.Prefix{{}}},
		"no DNS server":                 {DNS: []netip.AddrPort{{}}},
		"an unknown congestion control": {TCP: TCP{CongestionControl: "bbr"}},
		"an unknown loss detection":     {TCP: TCP{LossDetection: "luck"}},
		"a buffer too small":            {TCP: TCP{RecvBuffer: 1}},
		"a buffer too large":            {TCP: TCP{SendBuffer: 1 << 31}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(config)
			require.Error(t, err)
			require.False(t, errors.Is(err, net.ErrClosed))
		})
	}
}
