package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modes are the ways a system can move datagrams; each must pass the same tests.
var modes = map[string]opener{"system": openSystem, "plain": openPlain}

// eachMode runs a test in every mode and family.
func eachMode(t *testing.T, f func(t *testing.T, open opener, local netip.Addr)) {
	for name, open := range modes {
		for _, local := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			t.Run(fmt.Sprintf("%s to %s", name, local), func(t *testing.T) {
				f(t, open, local)
			})
		}
	}
}

func start(t testing.TB, cfg Config, open opener) *Conn {
	t.Helper()
	c, err := listen(cfg, open)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// socketFor is the socket of lane 0 that datagrams to local reach.
func socketFor(t testing.TB, c *Conn, local netip.Addr) *Socket {
	t.Helper()
	for _, s := range c.Sockets() {
		if s.t == c.lanes[0].of(local.Is6()) {
			return s
		}
	}
	t.Skipf("the host has no socket for %v", local)
	return nil
}

// datagrams makes a run of WireGuard-shaped datagrams with total bytes, each
// numbered.
func datagrams(total, seg int) []byte {
	b := make([]byte, total)
	for at, i := 0, 0; at < total; at, i = at+seg, i+1 {
		copy(b[at:], []byte{4, 0, 0, 0, byte(i), byte(i >> 8), 0xAA, 0xBB})
	}
	return b
}

// collect receives until it has n datagrams, and returns a copy of each and the
// last endpoint.
func collect(t testing.TB, s *Socket, n int) (got [][]byte, from Endpoint) {
	t.Helper()
	ms := make([]Message, 16)
	for len(got) < n {
		k, err := s.Receive(ms)
		require.NoError(t, err)
		for _, m := range ms[:k] {
			require.Positive(t, m.Seg)
			require.NoError(t, m.Err)
			for data := m.Data; len(data) > 0; {
				size := min(m.Seg, len(data))
				got = append(got, append([]byte(nil), data[:size]...))
				data = data[size:]
			}
			from = m.Endpoint
		}
	}
	return got, from
}

func TestRunsArriveAsTheyWereSent(t *testing.T) {
	tests := map[string]struct{ total, seg int }{
		"one datagram":                        {148, 0},
		"one datagram with its own length":    {148, 148},
		"a segment longer than the data":      {92, 1000},
		"two equal":                           {64, 32},
		"a short tail":                        {1452*10 + 33, 1452},
		"64 segments":                         {64 * 100, 100},
		"65 segments":                         {65 * 100, 100},
		"200 small segments":                  {200*32 - 5, 32},
		"more than 64 KiB":                    {1452*100 + 700, 1452},
		"segments of over half the maximum":   {40000 * 3, 40000},
		"the largest datagram":                {65507, 0},
		"segments of the largest datagram":    {65507 * 2, 65507},
		"a tail of one over a full IPv4 part": {1452*45 + 4, 1452},
	}
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				a, b := start(t, Config{}, open), start(t, Config{}, open)
				s := socketFor(t, b, local)
				data := datagrams(test.total, max(test.seg, 1))
				if test.seg == 0 {
					data = datagrams(test.total, test.total)
				}
				ms := []Message{{Data: data, Seg: test.seg, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}}
				sent, err := a.Send(0, ms)
				require.NoError(t, err)
				require.Equal(t, 1, sent)

				seg := test.seg
				if seg == 0 || seg > test.total {
					seg = test.total
				}
				n := (test.total + seg - 1) / seg
				got, from := collect(t, s, n)
				require.Len(t, got, n)
				require.Equal(t, netip.AddrPortFrom(local, a.Port()), from.Addr)
				for i, d := range got {
					want := data[i*seg : min((i+1)*seg, len(data))]
					require.Equal(t, want, d, "datagram %d", i)
				}
			})
		}
	})
}

func TestPortInUseIsNamed(t *testing.T) {
	for name, open := range modes {
		for _, lanes := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s with %d lanes", name, lanes), func(t *testing.T) {
				a := start(t, Config{Lanes: lanes}, open)
				_, err := listen(Config{Port: a.Port(), Lanes: lanes}, open)
				var taken *PortError
				require.ErrorAs(t, err, &taken)
				require.Equal(t, a.Port(), taken.Port)
				require.ErrorIs(t, err, syscall.EADDRINUSE)
				require.ErrorContains(t, err, fmt.Sprint(a.Port()))
			})
		}
	}
}

func TestCloseEndsReceive(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		c := start(t, Config{}, open)
		s := socketFor(t, c, local)
		done := make(chan error)
		go func() {
			_, err := s.Receive(make([]Message, 1))
			done <- err
		}()
		require.NoError(t, c.Close())
		require.True(t, errors.Is(<-done, net.ErrClosed))
		_, err := s.Receive(make([]Message, 1))
		require.Equal(t, net.ErrClosed, err)
		ms := []Message{{Data: datagrams(32, 32), Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, 9)}}}
		sent, err := c.Send(0, ms)
		require.Equal(t, net.ErrClosed, err)
		require.Equal(t, net.ErrClosed, ms[0].Err)
		require.Zero(t, sent)
	})
}
