package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes one row for a terminal.
func (r *Row) Text(w io.Writer) error {
	title := r.Scenario
	if r.Peer != "" {
		title += " against " + r.Peer
	}
	if !r.Measured() {
		_, err := fmt.Fprintf(w, "%s\n  %s\n\n", title, r.fate())
		return err
	}
	fmt.Fprintf(w, "%s, %s: %s\n", title, r.runs(), r.What)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Figures() {
		fmt.Fprintf(t, "  %s\t%s\t%s", f.Metric, f.Unit, spread(f.Ours))
		if f.Theirs != nil {
			fmt.Fprintf(t, "\tpeer %s\tratio %s", spread(f.Theirs), spread(f.Ratio))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if costs := r.costs(); len(costs) > 0 {
		fmt.Fprintf(w, "  %s\n", strings.Join(costs, ", "))
	}
	_, err := fmt.Fprintln(w)
	return err
}

// runs is how often it was measured.
func (r *Row) runs() string {
	kind := "run"
	if r.Peer != "" {
		kind = "pair"
	}
	if r.Pairs != 1 {
		kind += "s"
	}
	return fmt.Sprintf("%d %s", r.Pairs, kind)
}

// fate is why there are no figures.
func (r *Row) fate() string {
	if r.Skipped != "" {
		return "skipped: " + r.Skipped
	}
	return "failed: " + r.Failed
}

// costs are what a row has besides figures; of ours and theirs where there is a
// peer.
func (r *Row) costs() (costs []string) {
	if r.LimitFraction != nil {
		costs = append(costs, percent(r.LimitFraction)+" of the aead limit")
	}
	for _, c := range []struct {
		of           string
		ours, theirs *float64
	}{
		{"CPU s/GB", r.OursCPUPerGB, r.TheirsCPUPerGB},
		{"allocations/MB", r.OursAllocsPerMB, r.TheirsAllocsPerMB},
		{"MB peak", r.OursPeakRSS, r.TheirsPeakRSS},
	} {
		if text := both(c.ours, c.theirs); text != "" {
			costs = append(costs, text+" "+c.of)
		}
	}
	return costs
}
