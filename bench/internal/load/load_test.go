package load_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/overlayd/overlayd/bench/internal/load"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newForeignServer is newServer with datagrams by conns that show nothing of the
// sockets they are.
func newForeignServer(t *testing.T) load.Dial {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := load.Serve(l, foreignPackets{p, p.(io.Reader)})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return func(ctx context.Context, network string) (net.Conn, error) {
		if network != "udp" {
			return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
		}
		c, err := new(net.Dialer).DialContext(ctx, network, p.LocalAddr().String())
		return foreignConn{c}, err
	}
}

type foreignConn struct{ net.Conn }

type foreignPackets struct {
	net.PacketConn
	io.Reader
}

const d = 50 * time.Millisecond

// lasting measures for d, or for as long as it takes until there is enough, as a
// busy machine may do nothing at all for a while.
func lasting(t *testing.T, measure func(d time.Duration) (enough bool)) {
	t.Helper()
	for long := d; !measure(long); long *= 2 {
		require.Less(t, long, 20*time.Second, "still not enough")
	}
}

// newServer starts a Server on the host's own loopback interface.
func newServer(t *testing.T) load.Dial {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := load.Serve(l, p)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return func(ctx context.Context, network string) (net.Conn, error) {
		to := l.Addr().String()
		if network == "udp" {
			to = p.LocalAddr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
}

func TestBulkCountsWhatArrives(t *testing.T) {
	dial := newServer(t)
	for name, move := range map[string]func(context.Context, load.Dial, int, time.Duration) (load.Moved, error){
		"up": load.Upload, "down": load.Download,
	} {
		t.Run(name, func(t *testing.T) {
			for _, streams := range []int{1, 4} {
				lasting(t, func(d time.Duration) bool {
					m, err := move(t.Context(), dial, streams, d)
					require.NoError(t, err)
					require.GreaterOrEqual(t, m.Time, d)
					return m.Bytes >= 128<<10
				})
			}
		})
	}
}

func TestSteadyLeavesTheFirstPartOut(t *testing.T) {
	dial := newServer(t)
	lasting(t, func(d time.Duration) bool {
		begin := time.Now()
		m, err := load.Steady(t.Context(), dial, d, 2*d)
		require.NoError(t, err)
		require.Less(t, m.Time, time.Since(begin)-d)
		return m.Bytes > 0
	})
}

func TestRatesAreOfBytesAndTime(t *testing.T) {
	m := load.Moved{Bytes: 1e9, Time: 2 * time.Second}
	require.InDelta(t, 4, m.Gbits(), 1e-9)
	require.InDelta(t, 2, m.And(load.Moved{Time: 2 * time.Second}).Gbits(), 1e-9)
	require.InDelta(t, 500, load.Received{Datagrams: 1000, Time: 2 * time.Second}.PerSecond(), 1e-9)
	require.Zero(t, load.Received{}.PerSecond())
}

func TestRoundTripsAndConnectsAreTimed(t *testing.T) {
	dial := newServer(t)
	var trips, connects load.Latencies
	lasting(t, func(d time.Duration) bool {
		var err error
		trips, err = load.RoundTrips(t.Context(), dial, d)
		require.NoError(t, err)
		connects, err = load.Connects(t.Context(), dial, 3, d)
		require.NoError(t, err)
		return len(trips) > 0 && len(connects) > 3
	})
	for _, l := range []load.Latencies{trips, connects} {
		p50, p99 := l.Quantile(0.5), l.Quantile(0.99)
		require.Positive(t, p50)
		require.LessOrEqual(t, p50, p99)
		require.LessOrEqual(t, p99, l.Quantile(1))
	}
}

func TestQuantilesAreOfTheSorted(t *testing.T) {
	l := load.Latencies{4, 1, 3, 2, 5}
	require.EqualValues(t, 1, l.Quantile(0))
	require.EqualValues(t, 3, l.Quantile(0.5))
	require.EqualValues(t, 5, l.Quantile(0.99))
	require.EqualValues(t, 5, l.Quantile(1))
	require.Zero(t, load.Latencies(nil).Quantile(0.5))
}

func TestDatagramsAreCounted(t *testing.T) {
	for name, newServer := range map[string]func(*testing.T) load.Dial{
		"by sockets of the system":   newServer,
		"by those of another's make": newForeignServer,
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 64, 1200} {
				dial := newServer(t)
				lasting(t, func(d time.Duration) bool {
					r, err := load.Datagrams(t.Context(), dial, size, d)
					require.NoError(t, err)
					require.LessOrEqual(t, r.Time, d)
					return r.PerSecond() > 0
				})
			}
		})
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	dial := newServer(t)
	for name, run := range map[string]func(ctx context.Context) error{
		"upload":     func(ctx context.Context) error { _, err := load.Upload(ctx, dial, 2, time.Hour); return err },
		"download":   func(ctx context.Context) error { _, err := load.Download(ctx, dial, 2, time.Hour); return err },
		"roundtrips": func(ctx context.Context) error { _, err := load.RoundTrips(ctx, dial, time.Hour); return err },
		"connects":   func(ctx context.Context) error { _, err := load.Connects(ctx, dial, 2, time.Hour); return err },
		"datagrams":  func(ctx context.Context) error { _, err := load.Datagrams(ctx, dial, 64, time.Hour); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			require.Error(t, run(ctx))
		})
	}
}

func TestNobodyThereIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	dial := func(ctx context.Context, network string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}
	_, err = load.Upload(t.Context(), dial, 1, d)
	require.Error(t, err)
	_, err = load.Connects(t.Context(), dial, 2, d)
	require.Error(t, err)
}
