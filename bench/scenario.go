package main

import (
	"context"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/overlay"
)

// A side is one of the two that a scenario compares.
type side string

const (
	ours   side = "ours"
	theirs side = "theirs"
)

// A scenario is something to measure.
type scenario struct {
	name string
	what string
	peer string // as reports call it; empty: there is none

	// metrics are what run returns, the scenario's own first.
	metrics []metric
	// perUnit is how many Gbit/s one unit of the first metric is, where what the
	// cipher can do is its limit; 0 elsewhere.
	perUnit float64

	// check says why the scenario cannot run here; nil: it can everywhere.
	check func() error
	// run measures one side for about a time d, in a process of its own.
	run func(ctx context.Context, who side, m *meter, d time.Duration) ([]float64, error)
}

type metric struct {
	name, unit, better string
}

const (
	wireGuardGo       = "wireguard-go"
	wireGuardGoEngine = "wireguard-go's device on our netstack"
)

var (
	bulkMetrics = []metric{
		{"both ways", "Gbit/s", report.Higher},
		{"up", "Gbit/s", report.Higher},
		{"down", "Gbit/s", report.Higher},
	}
	roundTripMetrics = []metric{{"p50", "µs", report.Lower}, {"p99", "µs", report.Lower}}
	connectMetrics   = []metric{{"connections", "1/s", report.Higher}, {"p99", "µs", report.Lower}}
	datagramMetrics  = []metric{{"delivered", "datagrams/s", report.Higher}}
	stackMetrics     = []metric{
		{"1 stream", "Gbit/s", report.Higher},
		{"4 streams", "Gbit/s", report.Higher},
		{"round trip p50", "µs", report.Lower},
	}
)

// scenarios are all there are, in the order of the report.
var scenarios = []scenario{
	{
		name: "netstack-tcp1", peer: wireGuardGo,
		what:    "bulk TCP through WireGuard, stack to stack, 1 stream, up and then down",
		metrics: bulkMetrics, perUnit: 1, run: over(netstackPair, tcp1),
	},
	{
		name: "netstack-tcp4", peer: wireGuardGo,
		what:    "bulk TCP through WireGuard, stack to stack, 4 streams, up and then down",
		metrics: bulkMetrics, perUnit: 1, run: over(netstackPair, tcp4),
	},
	{
		name: "netstack-rtt", peer: wireGuardGo,
		what:    "one byte there and back over TCP, stack to stack",
		metrics: roundTripMetrics, run: over(netstackPair, roundTrips),
	},
	{
		name: "netstack-connect", peer: wireGuardGo,
		what:    "connect, one request, close, stack to stack, 4 at once",
		metrics: connectMetrics, run: over(netstackPair, connects),
	},
	{
		name: "netstack-udp", peer: wireGuardGo,
		what:    "datagrams of 1,200 bytes delivered while the sender floods, stack to stack",
		metrics: datagramMetrics, perUnit: 1200 * 8 / 1e9, run: over(netstackPair, datagrams1200),
	},
	{
		name: "netstack-idle", peer: wireGuardGo,
		what: "a node with 1,000 idle peers, each with a session and on average a keepalive every 25 s",
		metrics: []metric{
			{"memory", "MB", report.Lower},
			{"CPU", "% of a core", report.Lower},
		},
		run: idle,
	},
	{
		name: "tun-tcp1", peer: wireGuardGo,
		what:    "bulk TCP through WireGuard between the kernels of two namespaces, 1 stream, up and then down",
		metrics: bulkMetrics, perUnit: 1, check: checkTUN, run: overTUN("tcp1"),
	},
	{
		name: "tun-tcp4", peer: wireGuardGo,
		what:    "bulk TCP through WireGuard between the kernels of two namespaces, 4 streams, up and then down",
		metrics: bulkMetrics, perUnit: 1, check: checkTUN, run: overTUN("tcp4"),
	},
	{
		name: "tun-udp64", peer: wireGuardGo,
		what:    "datagrams of 64 bytes delivered while the sender floods, between the kernels of two namespaces",
		metrics: datagramMetrics, perUnit: 64 * 8 / 1e9, check: checkTUN, run: overTUN("udp64"),
	},
	{
		name: "engine", peer: wireGuardGoEngine,
		what:    "our engine against wireguard-go's device, both on our netstack: the engine's share",
		metrics: stackMetrics, perUnit: 1, run: over(enginePair, stackTraffic),
	},
	{
		name:    "stack-raw",
		what:    "the two stacks back to back, without WireGuard",
		metrics: stackMetrics, run: over(rawPair, stackTraffic),
	},
	{
		name: aeadName,
		what: "ChaCha20-Poly1305 of 1,420 bytes on each core at once: what a tunnel with both ends on this machine cannot exceed",
		metrics: []metric{
			{"seal, then open", "Gbit/s", report.Higher},
			{"seal", "GB/s", report.Higher},
			{"open", "GB/s", report.Higher},
		},
		run: aead,
	},
	{
		name: "pipeline",
		what: "packets of 1,420 bytes through stages that look, filter and translate",
		metrics: []metric{
			{"3 stages", "ns/packet", report.Lower},
			{"1 stage", "ns/packet", report.Lower},
			{"0 stages", "ns/packet", report.Lower},
			{"3 stages", "allocations/packet", report.Lower},
			{"1 stage", "allocations/packet", report.Lower},
			{"0 stages", "allocations/packet", report.Lower},
		},
		run: pipeline,
	},
}

func findScenario(name string) *scenario {
	for i := range scenarios {
		if scenarios[i].name == name {
			return &scenarios[i]
		}
	}
	return nil
}

// over measures traffic through a pair of nodes in this process.
func over(open func(side) (*pair, error), t traffic) func(context.Context, side, *meter, time.Duration) ([]float64, error) {
	return func(ctx context.Context, who side, m *meter, d time.Duration) ([]float64, error) {
		p, err := open(who)
		if err != nil {
			return nil, err
		}
		defer p.close()
		if err := warmUp(ctx, p.dial, d/4); err != nil {
			return nil, err
		}
		return m.measure(func() ([]float64, int64, error) { return t(ctx, p.dial, d) })
	}
}

func netstackPair(who side) (*pair, error) {
	if who == theirs {
		return newWireGuardGoPair()
	}
	return newOverlayPair(overlay.EngineDefault)
}

func enginePair(who side) (*pair, error) {
	if who == theirs {
		return newOverlayPair(overlay.EngineWireGuardGo)
	}
	return newOverlayPair(overlay.EngineDefault)
}

func rawPair(side) (*pair, error) { return newRawPair() }
