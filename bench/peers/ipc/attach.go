package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
)

const (
	subnet   = "10.200.4.0/22"
	burst    = 50  // containers attached at once
	maxCrowd = 600 // of which 50 services have room for 12 each, and one more
)

// A bed is one side of a comparison: a network, and the same with a crowd on it.
type bed struct {
	empty, crowded network
	got            map[string][]float64
}

// attach compares attaching and detaching with CNI.
func attach(ctx context.Context, b *bench) (figures []report.Figure, err error) {
	plugins := filepath.Join(b.dir, "cni")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return nil, err
	}
	if err := buildPlugins(ctx, plugins); err != nil {
		return nil, err
	}
	var closers []func() error
	defer func() {
		for _, c := range closers {
			err = errors.Join(err, c())
		}
	}()
	ourNetwork := func() (network, error) {
		h, err := b.newHost(ctx)
		if err != nil {
			return nil, err
		}
		closers = append(closers, h.close)
		return h.setup(ctx, "bench", subnet)
	}
	theirNetwork := func() (network, error) {
		n, err := newCNI(b.dir, plugins, subnet)
		if err != nil {
			return nil, err
		}
		closers = append(closers, n.close)
		return n, nil
	}
	some := func(n int) (*containers, error) {
		cs, err := newContainers(n)
		if err != nil {
			return nil, err
		}
		closers = append(closers, cs.close)
		return cs, nil
	}
	mine, theirs := bed{got: map[string][]float64{}}, bed{got: map[string][]float64{}}
	for _, n := range []struct {
		network *network
		open    func() (network, error)
		crowd   bool
	}{
		{&mine.empty, ourNetwork, false}, {&mine.crowded, ourNetwork, true},
		{&theirs.empty, theirNetwork, false}, {&theirs.crowded, theirNetwork, true},
	} {
		if *n.network, err = n.open(); err != nil {
			return nil, err
		}
		if !n.crowd {
			continue
		}
		there, err := some(b.crowd)
		if err != nil {
			return nil, err
		}
		if _, err := there.together(4, func(c *container) error { return (*n.network).add(ctx, c) }); err != nil {
			return nil, err
		}
	}
	cs, err := some(burst)
	if err != nil {
		return nil, err
	}
	for _, side := range []*bed{&mine, &theirs} {
		if err := side.try(ctx, cs); err != nil {
			return nil, err
		}
	}
	for range b.rounds {
		for _, side := range []*bed{&mine, &theirs} {
			if err := side.round(ctx, cs, b.cycles); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range attachMetrics {
		name := m.name
		if name == crowdedP50 {
			name = fmt.Sprintf("ADD p50 with %d there", b.crowd)
		}
		figures = append(figures, report.Compare(name, m.unit, m.better, mine.got[m.name], theirs.got[m.name]))
	}
	return figures, nil
}

var attachMetrics = []struct{ name, unit, better string }{
	{addP50, "ms", report.Lower},
	{addP99, "ms", report.Lower},
	{delP50, "ms", report.Lower},
	{delP99, "ms", report.Lower},
	{atOnce, "1/s", report.Higher},
	{crowdedP50, "ms", report.Lower},
	{crowdedCost, "times", report.Lower},
}

const (
	addP50      = "ADD p50"
	addP99      = "ADD p99"
	delP50      = "DEL p50"
	delP99      = "DEL p99"
	atOnce      = "50 ADDs at once"
	crowdedP50  = "ADD p50 with a crowd there"
	crowdedCost = "that against with none"
)

// try sees to it that a container has what it should, before anything is measured.
func (s *bed) try(ctx context.Context, cs *containers) error {
	for _, n := range []network{s.empty, s.crowded} {
		c := cs.all[0]
		if err := n.add(ctx, c); err != nil {
			return err
		}
		if err := c.works(); err != nil {
			return fmt.Errorf("an attached container does not work: %w", err)
		}
		if err := n.del(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// round measures everything once.
func (s *bed) round(ctx context.Context, cs *containers, cycles int) error {
	put := func(name string, v float64) { s.got[name] = append(s.got[name], v) }
	adds, dels, crowded, err := s.cycles(ctx, cs, cycles)
	if err != nil {
		return err
	}
	put(addP50, milliseconds(adds, 50))
	put(addP99, milliseconds(adds, 99))
	put(delP50, milliseconds(dels, 50))
	put(delP99, milliseconds(dels, 99))
	put(crowdedP50, milliseconds(crowded, 50))
	put(crowdedCost, milliseconds(crowded, 50)/milliseconds(adds, 50))

	took, err := cs.together(burst, func(c *container) error { return s.empty.add(ctx, c) })
	if err != nil {
		return err
	}
	put(atOnce, float64(len(cs.all))/took.Seconds())
	_, err = cs.together(4, func(c *container) error { return s.empty.del(ctx, c) })
	return err
}

// cycles adds and deletes containers, one after the other, where there is no other
// and where there is a crowd in turn, n of each, and returns how long that took,
// sorted.
func (s *bed) cycles(ctx context.Context, cs *containers, n int) (adds, dels, crowded []time.Duration, err error) {
	for i := range n {
		c := cs.all[i%len(cs.all)]
		add, del, err := cycle(ctx, s.empty, c)
		if err != nil {
			return nil, nil, nil, err
		}
		adds, dels = append(adds, add), append(dels, del)
		if add, _, err = cycle(ctx, s.crowded, c); err != nil {
			return nil, nil, nil, err
		}
		crowded = append(crowded, add)
	}
	slices.Sort(adds)
	slices.Sort(dels)
	slices.Sort(crowded)
	return adds, dels, crowded, nil
}

// cycle adds a container and deletes it, and returns how long each took.
func cycle(ctx context.Context, to network, c *container) (add, del time.Duration, err error) {
	begin := time.Now()
	if err := to.add(ctx, c); err != nil {
		return 0, 0, err
	}
	added := time.Now()
	err = to.del(ctx, c)
	return added.Sub(begin), time.Since(added), err
}
