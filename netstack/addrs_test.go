package netstack

import (
	"io"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAddressesChangeWhileConnectionsLive(t *testing.T) {
	a, b := newPair(t)
	second := netip.MustParsePrefix("10.200.0.3/32")
	require.NoError(t, b.SetAddrs([]netip.Prefix{addrB4, addrB6, second}))
	require.Equal(t, []netip.Prefix{addrB4, addrB6, second}, b.Addrs())
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer client.Close()
	defer server.Close()
	gone, goneServer := connect(t, a, b, "tcp", second.Addr().String())
	defer gone.Close()
	defer goneServer.Close()
	onSecond, err := b.Listen("tcp", addrPort(second, "80"))
	require.NoError(t, err)
	defer onSecond.Close()

	require.NoError(t, b.SetAddrs([]netip.Prefix{addrB6, addrB4}))
	_, err = goneServer.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNABORTED)
	_, err = gone.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET, "the peer is told")
	_, err = b.Listen("tcp", addrPort(second, "81"))
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)

	_, err = client.Write([]byte("alive"))
	require.NoError(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(server, buf)
	require.NoError(t, err)

	require.NoError(t, b.SetAddrs([]netip.Prefix{addrB4, second}), "it may come back, and another go")
	c, err := a.DialContext(testContext(t), "tcp", addrPort(second, "80"))
	require.NoError(t, err, "its listener was there all the time")
	require.NoError(t, c.Close())
	_, err = server.Write([]byte("alive"))
	require.NoError(t, err)
	_, err = io.ReadFull(client, buf)
	require.NoError(t, err)
}

func TestARefusedChangeChangesNothing(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	for _, addrs := range [][]netip.Prefix{
		{addrB4, {}},
		{addrB4, addrB4},
		{addrB4, netip.MustParsePrefix("::1/128")},
	} {
		require.Error(t, s.SetAddrs(addrs))
		require.Equal(t, []netip.Prefix{addrA4}, s.Addrs())
		_, err := s.Listen("tcp", addrPort(addrB4, "80"))
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	}
	require.Error(t, s.SetRoutes([]netip.Prefix{{}}))
	_, err := s.DialContext(testContext(t), "udp", "192.0.2.1:9")
	require.NoError(t, err)
}

func TestRoutesDecideWhatIsSent(t *testing.T) {
	s := newStack(t, Config{
		Addrs:  []netip.Prefix{addrA4},
		Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	reach := func(address string) error {
		c, err := s.DialContext(testContext(t), "udp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
	require.NoError(t, reach("192.0.2.7:9"))
	require.NoError(t, reach("10.200.7.7:9"), "the address's prefix is a route")
	require.ErrorIs(t, reach("198.51.100.1:9"), syscall.ENETUNREACH)
	require.NoError(t, s.SetRoutes([]netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}))
	require.NoError(t, reach("198.51.100.1:9"))
	require.ErrorIs(t, reach("192.0.2.7:9"), syscall.ENETUNREACH)
	require.NoError(t, s.SetRoutes(nil))
	require.NoError(t, reach("203.0.113.1:9"))
}

func TestTheLastAddressOfAPrefixIsAHostLikeOthers(t *testing.T) {
	last := netip.MustParsePrefix("10.200.255.255/16")
	a, b := newPair(t)
	require.NoError(t, b.SetAddrs([]netip.Prefix{last}))
	client, server := connect(t, a, b, "tcp", last.Addr().String())
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
	_, err := a.Ping(testContext(t), last.Addr())
	require.NoError(t, err)
}

func TestAStackReachesItself(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	for _, own := range []netip.Prefix{addrA4, addrA6} {
		client, server := connect(t, s, s, "tcp", own.Addr().String())
		go func() {
			client.Write(make([]byte, 3<<20))
			client.(*tcpConn).CloseWrite()
		}()
		n, err := io.Copy(io.Discard, server)
		require.NoError(t, err)
		require.EqualValues(t, 3<<20, n)
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	}
}
