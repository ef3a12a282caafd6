package main

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/overlayd/overlayd/bench/internal/load"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
)

// pairs are what the benchmarks compare.
var pairs = []struct {
	name string
	open func() (*pair, error)
}{
	{"ours", func() (*pair, error) { return newOverlayPair(overlay.EngineDefault) }},
	{"engine=wireguard-go", func() (*pair, error) { return newOverlayPair(overlay.EngineWireGuardGo) }},
	{"wireguard-go", newWireGuardGoPair},
	{"raw", newRawPair},
}

// overPairs benchmarks f over every pair, which has its handshake behind it.
func overPairs(b *testing.B, f func(b *testing.B, p *pair)) {
	for _, of := range pairs {
		b.Run(of.name, func(b *testing.B) {
			p, err := of.open()
			if err != nil {
				b.Fatal(err)
			}
			defer p.close()
			if _, err := load.RoundTrips(b.Context(), p.dial, 50*time.Millisecond); err != nil {
				b.Fatal(err)
			}
			f(b, p)
		})
	}
}

// BenchmarkTCP is a megabyte over each of some connections.
func BenchmarkTCP(b *testing.B) {
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			overPairs(b, func(b *testing.B, p *pair) { benchmarkTCP(b, p, streams) })
		})
	}
}

func benchmarkTCP(b *testing.B, p *pair, streams int) {
	const size = 1 << 20
	buffers := make([][]byte, streams)
	conns := make([]net.Conn, streams)
	for i := range conns {
		c, err := load.Source(b.Context(), p.dial)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i], buffers[i] = c, make([]byte, size)
	}
	failed := make(chan error, streams)
	b.SetBytes(int64(streams * size))
	b.ReportAllocs()
	for b.Loop() {
		for i, c := range conns {
			go func() {
				_, err := io.ReadFull(c, buffers[i])
				failed <- err
			}()
		}
		for range conns {
			if err := <-failed; err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRoundTrip is one byte there and back.
func BenchmarkRoundTrip(b *testing.B) {
	overPairs(b, func(b *testing.B, p *pair) {
		c, err := load.Echo(b.Context(), p.dial)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		var one [1]byte
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Write(one[:]); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, one[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConnect is a connection, a request, its answer and the end.
func BenchmarkConnect(b *testing.B) {
	overPairs(b, func(b *testing.B, p *pair) {
		b.ReportAllocs()
		for b.Loop() {
			if err := load.Request(b.Context(), p.dial); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDatagrams is a tenth of a second of datagrams of 1,200 bytes, as fast as
// they leave; what counts is how many arrive.
func BenchmarkDatagrams(b *testing.B) {
	overPairs(b, func(b *testing.B, p *pair) {
		var got load.Received
		for b.Loop() {
			r, err := load.Datagrams(b.Context(), p.dial, 1200, 100*time.Millisecond)
			if err != nil {
				b.Fatal(err)
			}
			got.Datagrams += r.Datagrams
			got.Time += r.Time
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(got.PerSecond(), "datagrams/s")
	})
}

// BenchmarkAEAD is the cipher over one packet, on one core.
func BenchmarkAEAD(b *testing.B) {
	for name, newWork := range map[string]func() (func() error, error){"seal": newSealer, "open": newOpener} {
		b.Run(name, func(b *testing.B) {
			work, err := newWork()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(mtu)
			b.ReportAllocs()
			for b.Loop() {
				if err := work(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPipeline is one packet through stages, each way.
func BenchmarkPipeline(b *testing.B) {
	for _, stages := range []int{0, 1, 3} {
		b.Run(fmt.Sprintf("stages=%d", stages), func(b *testing.B) {
			p, err := newPipe(stages)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				p.pass()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*packet.BatchSize*b.N), "ns/packet")
		})
	}
}
