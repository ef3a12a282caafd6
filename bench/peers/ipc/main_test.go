package main

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"
)

func skipWithoutNamespaces(t *testing.T) {
	if err := checkNamespaces(); err != nil {
		t.Skip(err)
	}
}

// Every scenario is measured once, too short to mean anything.
func TestEveryScenarioIsMeasured(t *testing.T) {
	skipWithoutNamespaces(t)
	b := &bench{rounds: 1, length: 50 * time.Millisecond, cycles: 2, crowd: 4}
	rows, err := b.run(t.Context(), regexp.MustCompile(""))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(scenarios) {
		t.Fatalf("%d rows of %d scenarios", len(rows), len(scenarios))
	}
	for _, row := range rows {
		if row.Skipped != "" && row.Peer != "" {
			continue // the peer cannot be had here
		}
		if !row.Measured() {
			t.Fatalf("%s: %s%s", row.Scenario, row.Skipped, row.Failed)
		}
		for _, f := range row.Figures() {
			if f.Ours == nil || f.Ours.Min <= 0 || row.Peer != "" && (f.Ratio == nil || f.Ratio.Min <= 0) {
				t.Errorf("%s: %s: %+v", row.Scenario, f.Metric, f)
			}
		}
	}
}

func TestAPeerThatCannotBeBuiltIsSkipped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := buildPlugins(ctx, t.TempDir())
	if _, ok := errors.AsType[missing](err); !ok {
		t.Fatal(err)
	}
}

func TestAFailureIsOfItsScenarioAlone(t *testing.T) {
	b := &bench{rounds: 1, length: time.Millisecond, cycles: 1, crowd: 1, overlayd: "/nonexistent"}
	skipWithoutNamespaces(t)
	rows, err := b.run(t.Context(), regexp.MustCompile("throughput|nothing"))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Failed == "" {
		t.Fatalf("%+v", rows)
	}
}
