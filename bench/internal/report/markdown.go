package report

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the page that is kept as bench/REPORT.md.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# What the bench measured\n\n%s\n\n", upperFirst(r.Machine.String()))
	b.WriteString(r.how())
	b.WriteString("\n\n| scenario | figure | ours | peer | ratio | of `aead` |\n|---|---|---|---|---|---|\n")
	for i := range r.Rows {
		r.Rows[i].markdown(&b)
	}
	b.WriteString("\n## What it cost\n\nOurs / the peer's, medians. Memory is the peak of the process that has both nodes.\n\n" +
		"| scenario | CPU s per GB | allocations per MB | peak MB |\n|---|---|---|---|\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Measured() {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", row.Scenario, both(row.OursCPUPerGB, row.TheirsCPUPerGB),
				both(row.OursAllocsPerMB, row.TheirsAllocsPerMB), both(row.OursPeakRSS, row.TheirsPeakRSS))
		}
	}
	b.WriteString("\n## Scenarios\n\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "- `%s`: %s", row.Scenario, row.What)
		if row.Peer != "" {
			fmt.Fprintf(&b, "; against %s", row.Peer)
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Row) markdown(b *strings.Builder) {
	if !r.Measured() {
		fmt.Fprintf(b, "| `%s` | %s | | | | |\n", r.Scenario, strings.ReplaceAll(r.fate(), "|", "\\|"))
		return
	}
	name, limit := "`"+r.Scenario+"`", percent(r.LimitFraction)
	for _, f := range r.Figures() {
		fmt.Fprintf(b, "| %s | %s, %s | %s | %s | %s | %s |\n", name, f.Metric, f.Unit, spread(f.Ours), spread(f.Theirs), ratio(f.Ratio), limit)
		name, limit = "", ""
	}
}

// ratio is "median× [min to max]".
func ratio(s *Spread) string {
	if s == nil {
		return none
	}
	return fmt.Sprintf("**%s** [%s to %s]", times(s), number(s.Min), number(s.Max))
}

// how says how the figures came about.
func (r *Report) how() string {
	runs := "Ours and the peer ran in turn, each run in a process of its own"
	if r.Quick {
		runs += "; the runs were short and few (`-quick`)"
	}
	return runs + ". Figures are medians [minimum to maximum]; a ratio is that of a pair of neighbouring runs, and above 1 it is in our favour. " +
		"The last column is how much of the limit the cipher sets was reached, which was measured beside each pair."
}
