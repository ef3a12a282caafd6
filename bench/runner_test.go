package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/stretchr/testify/require"
)

// A fakeRun returns prepared samples in turn, and remembers what it was asked.
type fakeRun struct {
	asked   []measureJob
	samples map[measureJob][]sample
}

func (f *fakeRun) run(_ context.Context, j measureJob) (sample, error) {
	f.asked = append(f.asked, j)
	j.Time = 0
	of := f.samples[j]
	if len(of) == 0 {
		return sample{}, errors.New("nothing prepared")
	}
	f.samples[j] = of[1:]
	return of[0], nil
}

func newFakeRunner(f *fakeRun, pairs int) *runner {
	return &runner{plan: plan{pairs, time.Second}, run: f.run, progress: newProgress(io.Discard)}
}

func one(values ...float64) sample { return sample{Values: values} }

func TestSidesRunInTurnWithTheLimitBesideThem(t *testing.T) {
	s := &scenario{
		name: "x", what: "something", peer: "them", perUnit: 0.5,
		metrics: []metric{{"rate", "u", report.Higher}, {"wait", "µs", report.Lower}},
	}
	mine := measureJob{Scenario: "x", Side: ours}
	other := measureJob{Scenario: "x", Side: theirs}
	limit := measureJob{Scenario: aeadName, Side: ours}
	f := &fakeRun{samples: map[measureJob][]sample{
		mine: {
			{Values: []float64{10, 1}, AllocsPerMB: new(1.0), CPUPerGB: new(2.0), PeakRSS: new(20.0)},
			{Values: []float64{2, 8}, AllocsPerMB: new(3.0), PeakRSS: new(30.0)},
			{Values: []float64{12, 2}, AllocsPerMB: new(2.0), PeakRSS: new(25.0)},
		},
		other: {one(5, 4), one(1, 8), one(3, 8)},
		limit: {one(10), one(2), one(8)},
	}}
	row := newFakeRunner(f, 3).row(t.Context(), s)

	var sides []side
	for i, j := range f.asked {
		sides = append(sides, j.Side)
		if i%3 == 2 {
			require.Equal(t, aeadName, j.Scenario)
			require.Equal(t, time.Second/limitShare, j.Time)
		} else {
			require.Equal(t, "x", j.Scenario)
			require.Equal(t, time.Second, j.Time)
		}
	}
	require.Equal(t, []side{ours, theirs, ours, ours, theirs, ours, ours, theirs, ours}, sides)

	require.True(t, row.Measured())
	require.Equal(t, 3, row.Pairs)
	require.Equal(t, &report.Spread{Median: 10, Min: 2, Max: 12}, row.Ours)
	require.Equal(t, &report.Spread{Median: 3, Min: 1, Max: 5}, row.Theirs)
	require.Equal(t, &report.Spread{Median: 2, Min: 2, Max: 4}, row.Ratio)
	require.Equal(t, &report.Spread{Median: 4, Min: 1, Max: 4}, row.More[0].Ratio)
	require.Equal(t, 0.5, *row.LimitFraction)
	require.Equal(t, 2.0, *row.OursAllocsPerMB)
	require.Equal(t, 2.0, *row.OursCPUPerGB, "of the runs that know it")
	require.Equal(t, 25.0, *row.OursPeakRSS)
	require.Nil(t, row.TheirsPeakRSS)
}

func TestAScenarioWithoutAPeerRunsAlone(t *testing.T) {
	s := &scenario{name: "x", metrics: []metric{{"rate", "u", report.Higher}}}
	f := &fakeRun{samples: map[measureJob][]sample{{Scenario: "x", Side: ours}: {one(1), one(3)}}}
	row := newFakeRunner(f, 2).row(t.Context(), s)
	require.Len(t, f.asked, 2)
	require.Equal(t, 2.0, row.Ours.Median)
	require.Nil(t, row.Theirs)
	require.Nil(t, row.Ratio)
	require.Nil(t, row.LimitFraction)
}

func TestAScenarioThatCannotRunSaysWhy(t *testing.T) {
	s := &scenario{name: "x", peer: "them", check: func() error { return errors.New("needs a hat") }}
	f := new(fakeRun)
	row := newFakeRunner(f, 2).row(t.Context(), s)
	require.Empty(t, f.asked)
	require.Equal(t, "needs a hat", row.Skipped)
	require.Equal(t, "them", row.Peer)
}

func TestARunThatFailsEndsItsScenario(t *testing.T) {
	s := &scenario{name: "x", peer: "them", metrics: []metric{{"rate", "u", report.Higher}}}
	f := &fakeRun{samples: map[measureJob][]sample{{Scenario: "x", Side: ours}: {one(1), one(1)}}}
	row := newFakeRunner(f, 2).row(t.Context(), s)
	require.Len(t, f.asked, 2)
	require.Equal(t, "them, pair 1: nothing prepared", row.Failed)
	require.False(t, row.Measured())
}

func TestProgressCountsEveryRun(t *testing.T) {
	p := newProgress(io.Discard)
	newRunner([]*scenario{
		{name: "a", peer: "them", perUnit: 1},
		{name: "b", peer: "them"},
		{name: "c"},
		{name: "d", peer: "them", check: func() error { return errors.New("not here") }},
	}, true, p)
	require.Equal(t, quickPlan.pairs*(3+2+1), p.total)
}
