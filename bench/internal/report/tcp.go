package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// A TCPTable is what one TCP connection moves over simulated links, by the
// settings of both stacks.
type TCPTable struct {
	Machine Machine
	How     string // it came about
	Cells   []TCPCell
}

// A TCPCell is one link and one choice of settings.
type TCPCell struct {
	RateMbits         float64 `json:"rate_mbit_s"`
	RTTMillis         float64 `json:"rtt_ms"`
	Loss              float64 `json:"loss"`
	Reordering        bool    `json:"reordering"`
	RACK              bool    `json:"rack"`
	CongestionControl string  `json:"congestion_control"`
	Mbits             float64 `json:"mbit_s"`
	LinkFraction      float64 `json:"link_fraction"`
	Retransmits       float64 `json:"retransmits"`
	PeakRSS           float64 `json:"peak_rss_mb"`
}

// tcpLink is what the cells of one line have in common.
type tcpLink struct {
	rate, rtt, loss float64
	reordering      bool
}

func (c *TCPCell) link() tcpLink {
	return tcpLink{c.RateMbits, c.RTTMillis, c.Loss, c.Reordering}
}

// settings name a column.
func (c *TCPCell) settings() string {
	if c.RACK {
		return "RACK, " + c.CongestionControl
	}
	return "SACK, " + c.CongestionControl
}

// lines are the links in order of their first cells, the columns' names in
// theirs, and the cells by both.
func (t *TCPTable) lines() (links []tcpLink, columns []string, cells map[tcpLink]map[string]*TCPCell) {
	cells = make(map[tcpLink]map[string]*TCPCell)
	known := make(map[string]bool)
	for i := range t.Cells {
		c := &t.Cells[i]
		if cells[c.link()] == nil {
			cells[c.link()] = make(map[string]*TCPCell)
			links = append(links, c.link())
		}
		if !known[c.settings()] {
			known[c.settings()] = true
			columns = append(columns, c.settings())
		}
		cells[c.link()][c.settings()] = c
	}
	return links, columns, cells
}

// rows are the table's lines as text: four columns of the link, then the Mbit/s
// of each setting, that of the fastest made strong.
func (t *TCPTable) rows(strong func(string) string) (columns []string, rows [][]string) {
	links, columns, cells := t.lines()
	for _, l := range links {
		order := "no"
		if l.reordering {
			order = "yes"
		}
		row := []string{number(l.rate), number(l.rtt), number(l.loss*100) + "%", order}
		most := 0.0
		for _, c := range cells[l] {
			most = max(most, c.Mbits)
		}
		for _, column := range columns {
			text := none
			if c := cells[l][column]; c != nil {
				if text = number(c.Mbits); c.Mbits == most {
					text = strong(text)
				}
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return columns, rows
}

// A group is some of the links, over which a mean is told.
var tcpGroups = []struct {
	name string
	has  func(*TCPCell) bool
}{
	{"all links", func(*TCPCell) bool { return true }},
	{"neither loss nor reordering", func(c *TCPCell) bool { return c.Loss == 0 && !c.Reordering }},
	{"loss, in order", func(c *TCPCell) bool { return c.Loss > 0 && !c.Reordering }},
	{"reordering", func(c *TCPCell) bool { return c.Reordering }},
}

// means are, for each group, the geometric mean of the share of the link that
// each column reaches: twice as fast on one link makes up for half as fast on
// another.
func (t *TCPTable) means(columns []string) (rows [][]string) {
	for _, g := range tcpGroups {
		row := []string{g.name}
		for _, column := range columns {
			sum, n := 0.0, 0
			for i := range t.Cells {
				if c := &t.Cells[i]; c.settings() == column && g.has(c) {
					sum += math.Log(max(c.LinkFraction, 1e-4)) // a stall is bad enough
					n++
				}
			}
			share := none
			if n > 0 {
				share = fmt.Sprintf("%.0f%%", 100*math.Exp(sum/float64(n)))
			}
			row = append(row, share)
		}
		rows = append(rows, row)
	}
	return rows
}

var tcpLinkColumns = []string{"link Mbit/s", "round trip ms", "loss", "reordering"}

// JSON writes an array of one object for each cell.
func (t *TCPTable) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(t.Cells)
}

// Text writes the table for a terminal.
func (t *TCPTable) Text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	columns, rows := t.rows(func(s string) string { return s + " *" })
	line := func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) }
	line(append(append([]string(nil), tcpLinkColumns...), columns...)...)
	for _, r := range rows {
		line(r...)
	}
	for _, r := range t.means(columns) {
		line(append([]string{r[0], "", "", ""}, r[1:]...)...)
	}
	return tw.Flush()
}

// Markdown writes the page that is kept as bench/TCP.md.
func (t *TCPTable) Markdown(w io.Writer) error {
	var b strings.Builder
	columns, rows := t.rows(func(s string) string { return "**" + s + "**" })
	fmt.Fprintf(&b, "# One TCP connection over simulated links\n\n%s\n\n%s\n\n", upperFirst(t.Machine.String()), t.How)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := append(append([]string(nil), tcpLinkColumns...), columns...)
	line(head)
	fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(head)))
	for _, r := range rows {
		line(r)
	}
	b.WriteString("\nShare of the link, geometric mean:\n\n")
	head = append([]string{"over"}, columns...)
	line(head)
	fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(head)))
	for _, r := range t.means(columns) {
		line(r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
