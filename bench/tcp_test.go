package main

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheTableHasEveryCell(t *testing.T) {
	cells := tcpCells()
	require.Len(t, cells, len(tcpRates)*4*3*2*2*2)
	seen := make(map[cell]bool)
	for _, c := range cells {
		require.False(t, seen[c], c.String())
		seen[c] = true
	}
}

func TestACellOfTheTableIsTheMedianOfItsRuns(t *testing.T) {
	cells := tcpCells()[:3]
	var runs atomic.Int64
	table, err := fillTable(t.Context(), cells, tcpPlan{3, time.Second}, newProgress(io.Discard),
		func(_ context.Context, c cell) (cellResult, error) {
			runs.Add(1)
			if c.Time != time.Second {
				return cellResult{}, errors.New("not as long as planned")
			}
			return cellResult{Mbits: float64([]int{30, 10, 20}[c.Seed]), Retransmits: c.Seed, PeakRSS: float64(c.Seed)}, nil
		})
	require.NoError(t, err)
	require.EqualValues(t, 9, runs.Load())
	require.Len(t, table.Cells, 3)
	for i, c := range table.Cells {
		require.Equal(t, 20.0, c.Mbits)
		require.Equal(t, 0.2, c.LinkFraction)
		require.Equal(t, 1.0, c.Retransmits)
		require.Equal(t, 2.0, c.PeakRSS)
		require.Equal(t, cells[i].Congestion, c.CongestionControl)
	}
	require.Contains(t, table.How, "the median of 3 runs")
}

func TestACellThatFailsEndsTheTable(t *testing.T) {
	var runs atomic.Int64
	_, err := fillTable(t.Context(), tcpCells(), fullTCPPlan, newProgress(io.Discard), func(context.Context, cell) (cellResult, error) {
		runs.Add(1)
		return cellResult{}, errors.New("boom")
	})
	require.ErrorContains(t, err, "boom")
	require.ErrorContains(t, err, "100 Mbit/s")
	require.Less(t, runs.Load(), int64(100))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = fillTable(ctx, tcpCells(), fullTCPPlan, newProgress(io.Discard), func(ctx context.Context, _ cell) (cellResult, error) {
		return cellResult{}, ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestACellMovesNoMoreThanItsLink(t *testing.T) {
	c := cell{Rate: 100e6, RTT: 2 * time.Millisecond, Congestion: "cubic", Time: 400 * time.Millisecond}
	r, err := c.measure(t.Context())
	require.NoError(t, err)
	require.Positive(t, r.Mbits)
	require.Less(t, r.Mbits, 105.0)
}

func TestALinkIsAsTheCellSays(t *testing.T) {
	c := cell{Rate: 100e6, RTT: 66 * time.Millisecond, Loss: 0.01, Reorder: true}
	l := c.link(7)
	require.Equal(t, 33*time.Millisecond, l.Delay)
	require.EqualValues(t, 100e6, l.Rate)
	require.Equal(t, 825_000, l.Queue, "a round trip")
	require.Equal(t, 0.01, l.Loss)
	require.Equal(t, reorderShare, l.Reorder)
	c.RTT, c.Reorder = 0, false
	require.Equal(t, 125_000, c.link(7).Queue, "the least")
	require.Zero(t, c.link(7).Reorder)

	require.Equal(t, "sack", c.settings().LossDetection)
	c.RACK = true
	require.Equal(t, "rack", c.settings().LossDetection)
}
