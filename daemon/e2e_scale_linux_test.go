package daemon_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// The bounds hold for any number of containers. Without a flag there are few, and
// only what is out of all proportion fails: others may be using the machine.
func TestE2EManyContainersCostNoMoreThanFew(t *testing.T) {
	for name, services := range map[string]int{"over many services": max(1, *population/10), "in one service": 1} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t)
			h.setupGlobal(1)
			for i := range services {
				s := wire.SetupServiceOverlay{Service: fmt.Sprint("s-", i), Mode: "shared"}
				if services == 1 {
					s.Subnet = "10.200.128.0/22,fd00:200:0:8000::/64"
				}
				_, err := h.SetupServiceOverlay(h.ctx, s)
				require.NoError(t, err)
			}
			containers := make([]*container, *population)
			for i := range containers {
				containers[i] = newContainer(t, fmt.Sprint("c-", i))
			}

			// The first and the last are timed in turns, on two hosts, so that they are
			// compared under the same conditions.
			twin := startHost(t)
			twin.setupGlobal(1)
			twin.setupService("s-0", "shared")
			lone := newContainer(t, "lone")
			asked, twinAsked := askStatus(t, h), askStatus(t, twin)
			attach := func(h *host, c *container, service int) time.Duration {
				begin := time.Now()
				h.attach(c, fmt.Sprint("s-", service), false)
				return time.Since(begin)
			}
			var firsts, lasts []time.Duration
			for i, c := range containers {
				if i < len(containers)-20 {
					attach(h, c, i%services)
					continue
				}
				firsts = append(firsts, attach(twin, lone, 0))
				twin.detach(lone)
				lasts = append(lasts, attach(h, c, i%services))
			}
			status, few := asked(), median(twinAsked())
			slices.Sort(status)

			first, last := median(firsts), median(lasts)
			p50, p99 := status[len(status)/2], status[len(status)*99/100]
			used := h.usage()
			t.Logf("%d containers, %d services: attach %v at first and %v at last; status p50 %v (%v with few), p99 %v, max %v of %d; RSS %.1f MB, %d files, %d goroutines",
				len(containers), services, first, last, p50, few, p99, status[len(status)-1], len(status), float64(used.rss)/1e6, used.files, len(used.goroutines))

			f := h.facts()
			require.Len(t, f.Attachments, len(containers))
			require.NoError(t, containers[0].ping(family(containers[len(containers)-1].at, false)))
			if raced() {
				return
			}
			require.Less(t, float64(used.rss), 100e6, "RSS")
			if *population < 500 {
				require.LessOrEqual(t, last.Seconds(), first.Seconds()*6, "the cost of the last attaches")
				require.LessOrEqual(t, p50.Seconds(), few.Seconds()*6, "the cost of status")
			} else {
				require.LessOrEqual(t, last.Seconds(), first.Seconds()*1.5, "the cost of the last attaches")
				require.LessOrEqual(t, p99, 5*time.Millisecond, "status")
			}

			begin := time.Now()
			h.kill()
			h.start()
			t.Logf("started again after kill -9 in %v", time.Since(begin))
			h.verify(containers[0], containers[len(containers)-1])
			begin = time.Now()
			for i := range services {
				require.NoError(t, h.TeardownServiceOverlay(h.ctx, fmt.Sprint("s-", i)))
			}
			t.Logf("torn down in %v", time.Since(begin))
			require.Empty(t, h.facts().Attachments)
		})
	}
}

func median(all []time.Duration) time.Duration {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// askStatus asks for status over and over, on a connection of its own, until what
// it returns is called, which gives how long each answer took.
func askStatus(t *testing.T, h *host) func() []time.Duration {
	t.Helper()
	c, err := client.Dial(h.ctx, client.Config{Endpoint: h.order.Endpoint, Attempts: -1})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(h.ctx)
	var took []time.Duration
	var done sync.WaitGroup
	done.Go(func() {
		for pause := time.NewTicker(2 * time.Millisecond); ctx.Err() == nil; <-pause.C {
			begin := time.Now()
			if _, err := c.Status(h.ctx); err != nil {
				t.Error(err)
				return
			}
			took = append(took, time.Since(begin))
		}
	})
	return func() []time.Duration {
		stop()
		done.Wait()
		c.Close()
		return took
	}
}
