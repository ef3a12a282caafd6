package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/overlayd/overlayd/bench/internal/load"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/netstack"
)

// What every link of the table has in common.
const (
	// leastQueue is the room in front of the link, in time. A longer round trip has
	// as much as itself: the bandwidth-delay product, which routers used to have.
	leastQueue = 10 * time.Millisecond

	// A share of the packets is held back for so long that others overtake it.
	reorderShare = 0.01
	reorderHold  = 2 * time.Millisecond
)

// A cell is one connection over one link with one choice of settings; measuring
// it yields a cellResult.
type cell struct {
	Rate       int64 // bit/s, each way
	RTT        time.Duration
	Loss       float64
	Reorder    bool
	RACK       bool
	Congestion string // "cubic" or "reno"
	Time       time.Duration
	Seed       uint64 // of what happens by chance
}

// slowStart is the first part of a cell's time, which does not count.
func (c *cell) slowStart() time.Duration { return c.Time / 4 }

type cellResult struct {
	Mbits       float64 // per second, of payload that arrived
	Retransmits uint64
	PeakRSS     float64 // MB, of both stacks and the link
}

// link is one direction.
func (c *cell) link(seed uint64) testnet.Link {
	l := testnet.Link{
		Delay: c.RTT / 2,
		Loss:  c.Loss,
		Rate:  c.Rate,
		Queue: int(max(c.RTT, leastQueue).Seconds() * float64(c.Rate) / 8),
		Seed:  seed,
	}
	if c.Reorder {
		l.Reorder, l.HoldBack = reorderShare, reorderHold
	}
	return l
}

func (c *cell) settings() netstack.TCP {
	t := netstack.TCP{CongestionControl: c.Congestion, LossDetection: "sack"}
	if c.RACK {
		t.LossDetection = "rack"
	}
	return t
}

// measure sends over a connection from the far stack to the near one for the
// cell's time.
func (c *cell) measure(ctx context.Context) (r cellResult, err error) {
	near, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(nearAddr, 24)}, TCP: c.settings()})
	if err != nil {
		return r, err
	}
	far, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(farAddr, 24)}, TCP: c.settings()})
	if err != nil {
		near.Close()
		return r, err
	}
	cable := testnet.NewCable(near.Device(), far.Device(), testnet.CableConfig{AB: c.link(2 * c.Seed), BA: c.link(2*c.Seed + 1), Merge: true})
	p := new(pair)
	p.closeLater(cable.Close)
	if p, err = p.join(&ourHost{near}, &ourHost{far}); err != nil {
		return r, err
	}
	defer p.close()
	moved, err := load.Steady(ctx, p.dial, c.slowStart(), c.Time)
	if err != nil {
		return r, fmt.Errorf("%+v: %w", *c, err)
	}
	r = cellResult{Mbits: moved.Gbits() * 1000, Retransmits: far.Stats().Retransmits}
	if u, err := currentUsage(); err == nil {
		r.PeakRSS = megabytes(u.peak)
	}
	return r, nil
}
