package report

import (
	"math"
	"strconv"
)

// Sizes of the charts, in units of their view boxes.
const (
	labelWidth = 150.0 // of what stands left of a bar
	valueWidth = 150.0 // of what stands right of it
	barsWidth  = 300.0
	chartWidth = labelWidth + barsWidth + valueWidth

	barHeight    = 14.0
	barPitch     = 24.0
	figurePitch  = 30.0 // from one figure's caption to its first bar
	ratioPitch   = 30.0
	ratioPadding = 34.0 // for the axis
)

// A barChart is the figures of one row, each with a bar of ours and one of the
// peer's.
type barChart struct {
	Width, Height float64
	Figures       []barFigure
}

type barFigure struct {
	Y       float64 // of the caption's baseline
	Caption string
	Ratio   string
	Bars    []bar
}

// A bar begins at X and ends at the median, with a line from the minimum to the
// maximum.
type bar struct {
	Class         string // ours or theirs
	Who           string
	X, Y          float64
	Width, Height float64
	Middle        float64 // of its height
	Least, Most   float64
	After         float64 // where the value stands
	Value, Title  string
}

func newBarChart(r *Row) barChart {
	c := barChart{Width: chartWidth}
	y := 0.0
	for _, f := range r.Figures() {
		if f.Ours == nil {
			continue
		}
		y += figurePitch - 10
		figure := barFigure{Y: y, Caption: f.Metric + ", " + f.Unit + ", " + f.Better + " is better", Ratio: times(f.Ratio)}
		if f.Ratio == nil {
			figure.Ratio = ""
		}
		y += 10
		most := f.Ours.Max
		if f.Theirs != nil {
			most = max(most, f.Theirs.Max)
		}
		add := func(class, who string, s *Spread) {
			if s == nil {
				return
			}
			figure.Bars = append(figure.Bars, newBar(class, who, s, most, y))
			y += barPitch
		}
		add("ours", "ours", f.Ours)
		add("theirs", "the peer", f.Theirs)
		c.Figures = append(c.Figures, figure)
	}
	c.Height = y
	return c
}

func newBar(class, who string, s *Spread, most, y float64) bar {
	at := func(v float64) float64 {
		if most <= 0 {
			return labelWidth
		}
		return labelWidth + barsWidth*math.Max(v, 0)/most
	}
	return bar{
		Class: class, Who: who,
		X: labelWidth, Y: y, Width: math.Max(at(s.Median)-labelWidth, 1), Height: barHeight, Middle: y + barHeight/2,
		Least: at(s.Min), Most: at(s.Max), After: at(s.Max) + 8,
		Value: number(s.Median), Title: who + ": " + spread(s),
	}
}

// A ratioChart is how many times better we are than the peer, a line for each
// row, on a logarithmic axis.
type ratioChart struct {
	Width, Height float64
	Bottom        float64 // of the plot
	One           float64 // where both are equal
	Ticks         []tick
	Lines         []ratioLine
}

type tick struct {
	X     float64
	Label string
}

type ratioLine struct {
	Y, Text          float64
	Scenario         string
	Least, At, Most  float64
	Value, Title     string
	After            float64
	Favourable       bool
	LimitFraction    string
	HasLimitFraction bool
}

// newRatioChart is nil when no row has a ratio.
func newRatioChart(rows []Row) *ratioChart {
	least, most := 1.0, 2.0
	var with []*Row
	for i := range rows {
		if s := rows[i].Ratio; rows[i].Measured() && s != nil && s.Min > 0 {
			least, most = min(least, s.Min), max(most, s.Max)
			with = append(with, &rows[i])
		}
	}
	if len(with) == 0 {
		return nil
	}
	low, high := math.Log(least), math.Log(most)
	at := func(v float64) float64 { return labelWidth + barsWidth*(math.Log(v)-low)/(high-low) }
	c := &ratioChart{Width: chartWidth, Bottom: ratioPitch * float64(len(with)), One: at(1)}
	c.Height = c.Bottom + ratioPadding
	for decade := 0.001; decade < 1e5; decade *= 10 {
		for _, step := range []float64{1, 2, 5} {
			if v := decade * step; v >= least*0.999 && v <= most*1.001 {
				c.Ticks = append(c.Ticks, tick{at(v), strconv.FormatFloat(v, 'g', 3, 64) + "×"})
			}
		}
	}
	for i, r := range with {
		y := ratioPitch * (float64(i) + 0.5)
		c.Lines = append(c.Lines, ratioLine{
			Y: y, Text: y + 4, Scenario: r.Scenario,
			Least: at(r.Ratio.Min), At: at(r.Ratio.Median), Most: at(r.Ratio.Max), After: at(r.Ratio.Max) + 12,
			Value: times(r.Ratio), Title: r.Scenario + ": " + spread(r.Ratio) + " times " + r.Peer,
			Favourable:    r.Ratio.Median >= 1,
			LimitFraction: percent(r.LimitFraction), HasLimitFraction: r.LimitFraction != nil,
		})
	}
	return c
}
