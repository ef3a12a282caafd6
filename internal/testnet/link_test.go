package testnet

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newPath(l Link) *path {
	p := new(path)
	p.set(l)
	return p
}

// sendAll sends n packets, one every interval, and returns when each copy of each
// arrives.
func (p *path) sendAll(n, size int, interval time.Duration) [][]time.Duration {
	all := make([][]time.Duration, n)
	for i := range all {
		arrivals, copies := p.send(time.Duration(i)*interval, size)
		for _, a := range arrivals[:copies] {
			all[i] = append(all[i], a.at)
		}
	}
	return all
}

func TestTheZeroLinkPassesPacketsAtOnce(t *testing.T) {
	for i, arrivals := range newPath(Link{}).sendAll(100, 1000, time.Millisecond) {
		require.Equal(t, []time.Duration{time.Duration(i) * time.Millisecond}, arrivals)
	}
}

func TestRateSpacesPacketsAndTheQueueBoundsThem(t *testing.T) {
	p := newPath(Link{Rate: 8e6, Queue: 5000, Delay: time.Second}) // a byte in a microsecond
	arrivals := p.sendAll(10, 1000, 0)
	for i := range 5 {
		require.Equal(t, []time.Duration{time.Second + time.Duration(i+1)*time.Millisecond}, arrivals[i])
	}
	for i := 5; i < 10; i++ {
		require.Empty(t, arrivals[i])
	}
	require.Equal(t, LinkStats{Packets: 10, Overflowed: 5}, p.stats)

	again, copies := p.send(3*time.Millisecond, 1000)
	require.Equal(t, 1, copies, "two are left in the queue")
	require.Equal(t, time.Second+6*time.Millisecond, again[0].at)
}

func TestTheDefaultQueueIsFiftyMillisecondsOfTheRate(t *testing.T) {
	require.Equal(t, 6_250_000, newPath(Link{Rate: 1e9}).Queue)
	require.Equal(t, 64<<10, newPath(Link{Rate: 1e6}).Queue)
}

func TestJitterIsBoundedAndKeepsTheOrder(t *testing.T) {
	p := newPath(Link{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond})
	var before, least, most time.Duration
	for i, arrivals := range p.sendAll(1000, 1000, 100*time.Microsecond) {
		took := arrivals[0] - time.Duration(i)*100*time.Microsecond
		if i == 0 {
			least = took
		}
		least, most = min(least, took), max(most, took)
		require.GreaterOrEqual(t, arrivals[0], before)
		before = arrivals[0]
	}
	require.GreaterOrEqual(t, least, 10*time.Millisecond)
	require.Less(t, most, 15*time.Millisecond)
	require.Greater(t, most-least, time.Millisecond)
}

func TestSharesAreKept(t *testing.T) {
	const n = 100_000
	p := newPath(Link{Loss: 0.02, Duplicate: 0.03, Reorder: 0.05, Seed: 7})
	p.sendAll(n, 1000, time.Microsecond)
	require.EqualValues(t, n, p.stats.Packets)
	require.InDelta(t, 0.02*n, p.stats.Lost, 0.002*n)
	require.InDelta(t, 0.03*n, p.stats.Duplicated, 0.003*n)
	require.InDelta(t, 0.05*n, p.stats.Reordered, 0.004*n)
}

func TestAHeldPacketIsOvertaken(t *testing.T) {
	p := newPath(Link{Reorder: 0.1, HoldBack: 3 * time.Millisecond})
	for i, arrivals := range p.sendAll(1000, 1000, 0) {
		require.Contains(t, []time.Duration{0, 3 * time.Millisecond}, arrivals[0], i)
	}
	require.NotZero(t, p.stats.Reordered)
	require.Equal(t, time.Millisecond, newPath(Link{}).HoldBack, "unless said otherwise")
}

func TestFateDependsOnTheSeedAlone(t *testing.T) {
	link := Link{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Jitter: time.Millisecond, Seed: 1}
	one := newPath(link).sendAll(1000, 100, time.Millisecond)
	require.Equal(t, one, newPath(link).sendAll(1000, 100, time.Millisecond))

	// With other sizes at other times the same packets are lost and doubled.
	copies := func(all [][]time.Duration) (n []int) {
		for _, arrivals := range all {
			n = append(n, len(arrivals))
		}
		return n
	}
	require.Equal(t, copies(one), copies(newPath(link).sendAll(1000, 1400, time.Microsecond)))

	link.Seed = 2
	require.NotEqual(t, copies(one), copies(newPath(link).sendAll(1000, 100, time.Millisecond)))
}

func TestAFullQueueChangesNobodysFate(t *testing.T) {
	link := Link{Loss: 0.3, Seed: 3, Rate: 8e6, Queue: 2000}
	crowded, spacious := newPath(link), newPath(link)
	crowded.sendAll(10, 1000, 0)
	spacious.sendAll(10, 1000, time.Second)
	require.NotZero(t, crowded.stats.Overflowed)

	var a, b []int
	for i := range 100 {
		at := time.Hour + time.Duration(i)*time.Second
		_, n := crowded.send(at, 1000)
		_, m := spacious.send(at, 1000)
		a, b = append(a, n), append(b, m)
	}
	require.True(t, slices.Equal(a, b))
}
