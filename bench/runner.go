package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
)

const aeadName = "aead"

// A plan is how often and how long to measure.
type plan struct {
	pairs int
	time  time.Duration // of one run
}

var (
	fullPlan  = plan{pairs: 5, time: 3 * time.Second}
	quickPlan = plan{pairs: 3, time: time.Second}
)

// limitShare is the part of a run's time that its limit is measured for.
const limitShare = 4

// A runner measures scenarios.
type runner struct {
	plan     plan
	run      func(ctx context.Context, j measureJob) (sample, error)
	progress *progress
}

func newRunner(selected []*scenario, quick bool, p *progress) *runner {
	r := &runner{plan: fullPlan, run: runInChild, progress: p}
	if quick {
		r.plan = quickPlan
	}
	for _, s := range selected {
		if s.check == nil || s.check() == nil {
			p.total += r.plan.pairs * s.runs()
		}
	}
	return r
}

// runInChild does the job in a process of its own.
func runInChild(ctx context.Context, j measureJob) (s sample, err error) {
	err = spawn(ctx, exec.Command, job{Measure: &j}, j.Time, &s)
	return s, err
}

// runs is how many there are to a pair.
func (s *scenario) runs() int {
	n := 1
	if s.peer != "" {
		n++
	}
	if s.perUnit != 0 {
		n++
	}
	return n
}

// samples are the runs of a scenario, those of one pair at the same index.
type samples struct {
	ours, theirs []sample
	limits       []float64 // Gbit/s
}

// row measures a scenario.
func (r *runner) row(ctx context.Context, s *scenario) report.Row {
	row := report.Row{Scenario: s.name, What: s.what, Peer: s.peer}
	if s.check != nil {
		if err := s.check(); err != nil {
			row.Skipped = err.Error()
			return row
		}
	}
	got, err := r.pairs(ctx, s)
	if err != nil {
		row.Failed = err.Error()
		return row
	}
	got.fill(&row, s)
	return row
}

// pairs runs the sides in turn.
func (r *runner) pairs(ctx context.Context, s *scenario) (got samples, err error) {
	for i := range r.plan.pairs {
		one := func(scenario string, who side, name string, d time.Duration) (sample, error) {
			r.progress.begin(s.name, i+1, r.plan.pairs, name)
			defer r.progress.end()
			got, err := r.run(ctx, measureJob{Scenario: scenario, Side: who, Time: d})
			if err != nil {
				return sample{}, fmt.Errorf("%s, pair %d: %w", name, i+1, err)
			}
			return got, nil
		}
		a, err := one(s.name, ours, "ours", r.plan.time)
		if err != nil {
			return samples{}, err
		}
		got.ours = append(got.ours, a)
		if s.peer != "" {
			b, err := one(s.name, theirs, s.peer, r.plan.time)
			if err != nil {
				return samples{}, err
			}
			got.theirs = append(got.theirs, b)
		}
		if s.perUnit != 0 {
			l, err := one(aeadName, ours, aeadName, r.plan.time/limitShare)
			if err != nil {
				return samples{}, err
			}
			got.limits = append(got.limits, l.Values[0])
		}
	}
	return got, nil
}

// fill completes a row by what was measured.
func (got *samples) fill(row *report.Row, s *scenario) {
	row.Pairs = len(got.ours)
	figures := make([]report.Figure, len(s.metrics))
	for i, m := range s.metrics {
		figures[i] = report.Compare(m.name, m.unit, m.better, values(got.ours, i), values(got.theirs, i))
	}
	row.Figure, row.More = figures[0], figures[1:]
	if s.perUnit != 0 {
		row.LimitFraction = report.Median(got.fractions(s.perUnit))
	}
	for _, c := range []struct {
		of           func(sample) *float64
		ours, theirs **float64
	}{
		{func(s sample) *float64 { return s.AllocsPerMB }, &row.OursAllocsPerMB, &row.TheirsAllocsPerMB},
		{func(s sample) *float64 { return s.CPUPerGB }, &row.OursCPUPerGB, &row.TheirsCPUPerGB},
		{func(s sample) *float64 { return s.PeakRSS }, &row.OursPeakRSS, &row.TheirsPeakRSS},
	} {
		*c.ours, *c.theirs = report.Median(costs(got.ours, c.of)), report.Median(costs(got.theirs, c.of))
	}
}

// fractions are how much of the limit each pair's run of ours reached.
func (got *samples) fractions(perUnit float64) []float64 {
	fractions := make([]float64, len(got.limits))
	for i := range fractions {
		fractions[i] = got.ours[i].Values[0] * perUnit / got.limits[i]
	}
	return fractions
}

// values are those of one metric.
func values(of []sample, metric int) []float64 {
	v := make([]float64, len(of))
	for i := range of {
		v[i] = of[i].Values[metric]
	}
	return v
}

// costs are those that are known.
func costs(of []sample, cost func(sample) *float64) (v []float64) {
	for _, s := range of {
		if c := cost(s); c != nil {
			v = append(v, *c)
		}
	}
	return v
}
