package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/daemon/client"
)

// throughput measures how many requests the daemon answers.
func throughput(ctx context.Context, b *bench) (figures []report.Figure, err error) {
	h, err := b.newHost(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	clients := []*client.Client{h.Client}
	for len(clients) < 16 {
		c, err := h.dial(ctx)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		clients = append(clients, c)
	}
	ways := []struct {
		connections, each int // requests at once
		rates             []float64
	}{{1, 1, nil}, {1, 64, nil}, {16, 1, nil}, {16, 4, nil}}
	for range b.rounds {
		for i := range ways {
			w := &ways[i]
			rate, err := requests(ctx, clients[:w.connections], w.each, b.length/2)
			if err != nil {
				return nil, err
			}
			w.rates = append(w.rates, rate)
		}
	}
	for _, w := range ways {
		name := "1 connection"
		if w.connections > 1 {
			name = fmt.Sprintf("%d connections", w.connections)
		}
		if w.each > 1 {
			name += ", pipelined"
		}
		figures = append(figures, report.Compare(name, "requests/s", report.Higher, w.rates, nil))
	}
	return figures, nil
}

// requests asks over each of the connections, each requests at once, for a time d,
// and returns how many were answered in a second.
func requests(ctx context.Context, clients []*client.Client, each int, d time.Duration) (perSecond float64, err error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, len(clients)*each), make([]error, len(clients)*each)
	begin := time.Now()
	for i := range counts {
		wg.Go(func() {
			for time.Since(begin) < d && errs[i] == nil {
				_, errs[i] = clients[i%len(clients)].Status(ctx)
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / took.Seconds(), errors.Join(errs...)
}
