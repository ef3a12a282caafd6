package main

import (
	"context"
	"fmt"
	"time"

	"github.com/overlayd/overlayd/bench/internal/load"
)

const warmUpName = "warm-up"

// A traffic loads a tunnel for about a time d, and returns what it measured and
// how many bytes arrived.
type traffic func(ctx context.Context, dial load.Dial, d time.Duration) (values []float64, bytes int64, err error)

// traffics are those that run in a process of their own too.
var traffics = map[string]traffic{
	warmUpName: func(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
		return nil, 0, warmUp(ctx, dial, d)
	},
	"tcp1":  tcp1,
	"tcp4":  tcp4,
	"udp64": datagrams64,
}

func tcp1(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	return bulk(ctx, dial, 1, d)
}

func tcp4(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	return bulk(ctx, dial, 4, d)
}

func bulk(ctx context.Context, dial load.Dial, streams int, d time.Duration) ([]float64, int64, error) {
	up, err := load.Upload(ctx, dial, streams, d/2)
	if err != nil {
		return nil, 0, fmt.Errorf("upload: %w", err)
	}
	down, err := load.Download(ctx, dial, streams, d/2)
	if err != nil {
		return nil, 0, fmt.Errorf("download: %w", err)
	}
	both := up.And(down)
	return []float64{both.Gbits(), up.Gbits(), down.Gbits()}, both.Bytes, nil
}

// The bytes of round trips and connections are not worth counting: what they cost
// is not the bytes' cost.

func roundTrips(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	l, err := load.RoundTrips(ctx, dial, d)
	return []float64{micros(l.Quantile(0.50)), micros(l.Quantile(0.99))}, 0, err
}

const connectsAtOnce = 4

func connects(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	start := time.Now()
	l, err := load.Connects(ctx, dial, connectsAtOnce, d)
	perSecond := float64(len(l)) / time.Since(start).Seconds()
	return []float64{perSecond, micros(l.Quantile(0.99))}, 0, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func datagrams1200(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	return datagrams(ctx, dial, 1200, d)
}

func datagrams64(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	return datagrams(ctx, dial, 64, d)
}

func datagrams(ctx context.Context, dial load.Dial, size int, d time.Duration) ([]float64, int64, error) {
	r, err := load.Datagrams(ctx, dial, size, d)
	return []float64{r.PerSecond()}, r.Datagrams * int64(size), err
}

// stackTraffic is bulk TCP of 1 and of 4 streams, and round trips.
func stackTraffic(ctx context.Context, dial load.Dial, d time.Duration) ([]float64, int64, error) {
	one, n, err := bulk(ctx, dial, 1, d/2)
	if err != nil {
		return nil, 0, err
	}
	four, m, err := bulk(ctx, dial, 4, d/2)
	if err != nil {
		return nil, 0, err
	}
	trips, _, err := roundTrips(ctx, dial, d/4)
	if err != nil {
		return nil, 0, err
	}
	return []float64{one[0], four[0], trips[0]}, n + m, nil
}

// warmUp has everything that happens once behind it: the handshake, buffers,
// the first collections of garbage.
func warmUp(ctx context.Context, dial load.Dial, d time.Duration) error {
	if _, err := load.RoundTrips(ctx, dial, d/4); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	if _, _, err := bulk(ctx, dial, 1, d/2); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	return nil
}
