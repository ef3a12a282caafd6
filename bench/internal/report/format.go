package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// none stands for what there is none of.
const none = "–"

// number is v with three significant digits, its thousands apart.
func number(v float64) string {
	size := math.Abs(v)
	switch {
	case size == 0:
		return "0"
	case size >= 999.5:
		return thousands(int64(math.Round(v)))
	case size < 0.001:
		return strconv.FormatFloat(v, 'e', 1, 64)
	}
	decimals := 2 - int(math.Floor(math.Log10(size)))
	return strconv.FormatFloat(v, 'f', min(max(decimals, 0), 3), 64)
}

func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// spread is "median [min to max]".
func spread(s *Spread) string {
	if s == nil {
		return none
	}
	return fmt.Sprintf("%s [%s to %s]", number(s.Median), number(s.Min), number(s.Max))
}

func optional(v *float64) string {
	if v == nil {
		return none
	}
	return number(*v)
}

// times is a ratio.
func times(s *Spread) string {
	if s == nil {
		return none
	}
	return number(s.Median) + "×"
}

func percent(v *float64) string {
	if v == nil {
		return none
	}
	return fmt.Sprintf("%.0f%%", *v*100)
}

// both is ours and theirs of a cost; empty when there is neither.
func both(ours, theirs *float64) string {
	switch {
	case ours == nil && theirs == nil:
		return ""
	case theirs == nil:
		return optional(ours)
	}
	return optional(ours) + " / " + optional(theirs)
}

// upperFirst begins a sentence.
func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// one line of what the machine is.
func (m Machine) String() string {
	cores := "cores"
	if m.Cores == 1 {
		cores = "core"
	}
	return fmt.Sprintf("%d %s of %s, %s, %s", m.Cores, cores, m.CPU, m.System, m.Go)
}

// LastLines are the last n of text, which is what a program that failed said.
func LastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}
