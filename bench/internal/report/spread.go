package report

import (
	"math"
	"slices"
)

// A Spread is what several runs of the same measured.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// NewSpread is the Spread of values, of which those that are no number do not
// count; nil when there are none. The median of an even number is the mean of the
// two in the middle.
func NewSpread(values []float64) *Spread {
	sorted := make([]float64, 0, len(values))
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			sorted = append(sorted, v)
		}
	}
	if len(sorted) == 0 {
		return nil
	}
	slices.Sort(sorted)
	half := len(sorted) / 2
	s := &Spread{Median: sorted[half], Min: sorted[0], Max: sorted[len(sorted)-1]}
	if len(sorted)%2 == 0 {
		s.Median = sorted[half-1]/2 + sorted[half]/2
	}
	return s
}

// Median is that of NewSpread, nil where it is.
func Median(values []float64) *float64 {
	s := NewSpread(values)
	if s == nil {
		return nil
	}
	return &s.Median
}

// What is better.
const (
	Higher = "higher"
	Lower  = "lower"
)

// Ratios are those of pairs of runs, the first of ours with the first of theirs
// and so on: above 1 is in our favour, whichever is better. The machine's other
// business hits both of a pair alike, so that their ratio is worth more than
// either.
func Ratios(ours, theirs []float64, better string) []float64 {
	ratios := make([]float64, min(len(ours), len(theirs)))
	for i := range ratios {
		ratios[i] = ours[i] / theirs[i]
		if better == Lower {
			ratios[i] = theirs[i] / ours[i]
		}
	}
	return ratios
}

// Compare is the Figure of what runs of ours and theirs measured, in pairs; theirs
// is nil where there is no peer.
func Compare(metric, unit, better string, ours, theirs []float64) Figure {
	return Figure{
		Metric: metric, Unit: unit, Better: better,
		Ours: NewSpread(ours), Theirs: NewSpread(theirs),
		Ratio: NewSpread(Ratios(ours, theirs, better)),
	}
}
