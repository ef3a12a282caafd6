package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/daemon/client"
)

// What the daemon has when it is asked for its status.
const (
	services = 50
	busy     = 4                    // containers that come and go meanwhile, each in a service of its own
	pace     = 2 * time.Millisecond // between questions
)

// status measures how long an answer takes while containers are attached and
// detached, and while nothing else happens.
func status(ctx context.Context, b *bench) (figures []report.Figure, err error) {
	h, err := b.newHost(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	there, err := newContainers(b.crowd)
	if err != nil {
		return nil, err
	}
	defer there.close()
	coming, err := newContainers(busy)
	if err != nil {
		return nil, err
	}
	defer coming.close()
	all := make([]*service, services)
	for i := range all {
		if all[i], err = h.setup(ctx, fmt.Sprint("service-", i), ""); err != nil {
			return nil, err
		}
	}
	var next atomic.Int64
	if _, err := there.together(16, func(c *container) error {
		return all[next.Add(1)%services].add(ctx, c)
	}); err != nil {
		return nil, err
	}
	asker, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer asker.Close()

	got := make(map[string][]float64)
	put := func(name string, v float64) { got[name] = append(got[name], v) }
	for range b.rounds {
		var took []time.Duration
		attached, err := churn(ctx, coming, all, func() (err error) {
			took, err = ask(ctx, asker, b.crowd, b.length)
			return err
		})
		if err != nil {
			return nil, err
		}
		put("p99 while attaches run", milliseconds(took, 99))
		put("p50 while attaches run", milliseconds(took, 50))
		put("attaches meanwhile", attached)
		if took, err = ask(ctx, asker, b.crowd, b.length/2); err != nil {
			return nil, err
		}
		put("p99", milliseconds(took, 99))
		put("p50", milliseconds(took, 50))
		memory, err := h.memory()
		if err != nil {
			return nil, err
		}
		put("memory of the daemon", memory/1e6)
	}
	for _, m := range []struct{ name, unit, better string }{
		{"p99 while attaches run", "ms", report.Lower},
		{"p50 while attaches run", "ms", report.Lower},
		{"attaches meanwhile", "1/s", report.Higher},
		{"p99", "ms", report.Lower},
		{"p50", "ms", report.Lower},
		{"memory of the daemon", "MB", report.Lower},
	} {
		figures = append(figures, report.Compare(m.name, m.unit, m.better, got[m.name], nil))
	}
	return figures, nil
}

// ask asks for the status for a time d, at a pace, and returns how long the answers
// took, sorted.
func ask(ctx context.Context, c *client.Client, crowd int, d time.Duration) (took []time.Duration, err error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		begin := time.Now()
		st, err := c.Status(ctx)
		if err != nil {
			return nil, err
		}
		if st.ServiceCount != services || int(st.AttachmentCount) < crowd {
			return nil, fmt.Errorf("a daemon of %d services and %d containers says it has %d and %d", services, crowd, st.ServiceCount, st.AttachmentCount)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took, nil
}

// churn has containers come and go until do returns, and returns how many came in a
// second.
func churn(ctx context.Context, cs *containers, to []*service, do func() error) (perSecond float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stop atomic.Bool
	var attached atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(cs.all))
	begin := time.Now()
	for i, c := range cs.all {
		wg.Go(func() {
			for !stop.Load() && errs[i] == nil {
				if errs[i] = to[i].add(ctx, c); errs[i] == nil {
					attached.Add(1)
					errs[i] = to[i].del(ctx, c)
				}
			}
		})
	}
	err = do()
	stop.Store(true)
	if err != nil {
		cancel()
	}
	wg.Wait()
	took := time.Since(begin)
	return float64(attached.Load()) / took.Seconds(), errors.Join(append(errs, err)...)
}
