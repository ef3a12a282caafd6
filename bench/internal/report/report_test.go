package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASpreadIsMedianMinimumAndMaximum(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []float64
		want   *Spread
	}{
		{"of nothing there is none", nil, nil},
		{"of one it is that", []float64{3}, &Spread{3, 3, 3}},
		{"of an odd number the median is in the middle", []float64{5, 1, 3}, &Spread{3, 1, 5}},
		{"of an even number it is between the two", []float64{4, 1, 3, 8}, &Spread{3.5, 1, 8}},
		{"what is no number does not count", []float64{math.NaN(), 2, math.Inf(1)}, &Spread{2, 2, 2}},
		{"nothing but what is no number is nothing", []float64{math.NaN()}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := append([]float64(nil), test.values...)
			require.Equal(t, test.want, NewSpread(test.values))
			require.Equal(t, len(given), len(test.values))
			if m := Median(test.values); test.want == nil {
				require.Nil(t, m)
			} else {
				require.Equal(t, test.want.Median, *m)
			}
		})
	}
	order := []float64{3, 1, 2}
	NewSpread(order)
	require.Equal(t, []float64{3, 1, 2}, order, "the order of the runs stays")
}

func TestRatiosAboveOneAreInOurFavour(t *testing.T) {
	require.Equal(t, []float64{2, 0.5}, Ratios([]float64{4, 1}, []float64{2, 2}, Higher))
	require.Equal(t, []float64{0.5, 2}, Ratios([]float64{4, 1}, []float64{2, 2}, Lower))
	require.Empty(t, Ratios([]float64{4, 1}, nil, Higher))
	// Nothing over nothing is no ratio, and does not spoil the others.
	require.Equal(t, &Spread{2, 2, 2}, NewSpread(Ratios([]float64{4, 0}, []float64{2, 0}, Higher)))
}

func TestTheRatioIsOfPairsNotOfMedians(t *testing.T) {
	// The machine was slow during the second pair, for both.
	ours, theirs := []float64{10, 1, 12}, []float64{5, 0.5, 4}
	require.Equal(t, &Spread{2, 2, 3}, NewSpread(Ratios(ours, theirs, Higher)))
}

// figures are those of a small report: one row of everything, one without a
// peer, one skipped, one failed.
func example() *Report {
	s := func(v float64) *Spread { return &Spread{v, v * 0.9, v * 1.1} }
	return &Report{
		Machine: Machine{CPU: "A <CPU> & more", Cores: 2, System: "Linux 6.18 amd64", Go: "go1.26"},
		Quick:   true,
		Rows: []Row{
			{
				Scenario: "netstack-tcp1", What: "bulk TCP", Peer: "wireguard-go", Pairs: 3,
				Figure:        Figure{"both ways", "Gbit/s", Higher, s(4), s(0.5), s(8)},
				More:          []Figure{{"p99", "µs", Lower, s(1234567), s(0.00004), s(0.25)}},
				LimitFraction: new(0.52), OursAllocsPerMB: new(3.0), TheirsAllocsPerMB: new(9000.0),
				OursCPUPerGB: new(2.5), TheirsCPUPerGB: new(17.0), OursPeakRSS: new(21.0), TheirsPeakRSS: new(130.0),
			},
			{Scenario: "aead", What: "the cipher", Pairs: 3, Figure: Figure{"seal", "GB/s", Higher, s(1.9), nil, nil}},
			{Scenario: "tun-tcp1", What: "a TUN", Peer: "wireguard-go", Skipped: "needs root | and more"},
			{Scenario: "engine", What: "an engine", Peer: "wireguard-go", Failed: "exit status 1: <boom>"},
		},
	}
}

func TestJSONHasTheSameNamesForEveryScenario(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, example().JSON(&b))
	var rows []map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &rows))
	require.Len(t, rows, 4)

	names := []string{
		"scenario", "peer", "metric", "unit", "better", "pairs", "ours", "theirs", "ratio", "limit_fraction",
		"ours_allocs_per_mb", "theirs_allocs_per_mb", "ours_cpu_s_per_gb", "theirs_cpu_s_per_gb",
		"ours_peak_rss_mb", "theirs_peak_rss_mb", "more", "what",
	}
	for _, row := range rows[:2] {
		for _, name := range names {
			require.Contains(t, row, name)
		}
		require.Len(t, row, len(names))
	}
	full := rows[0]
	require.Equal(t, "netstack-tcp1", full["scenario"])
	require.Equal(t, "wireguard-go", full["peer"])
	require.Equal(t, "Gbit/s", full["unit"])
	require.Equal(t, "higher", full["better"])
	require.EqualValues(t, 3, full["pairs"])
	require.Equal(t, map[string]any{"median": 4.0, "min": 3.6, "max": 4.4}, full["ours"])
	require.Contains(t, full["theirs"], "median")
	require.Contains(t, full["ratio"], "median")
	require.EqualValues(t, 0.52, full["limit_fraction"])
	require.Len(t, full["more"], 1)

	require.Equal(t, "", rows[1]["peer"])
	require.Nil(t, rows[1]["theirs"])
	require.Nil(t, rows[1]["ratio"])
	require.Nil(t, rows[1]["limit_fraction"])
	require.Equal(t, map[string]any{"scenario": "tun-tcp1", "peer": "wireguard-go", "skipped": "needs root | and more"}, rows[2])
	require.Equal(t, map[string]any{"scenario": "engine", "peer": "wireguard-go", "failed": "exit status 1: <boom>"}, rows[3])
}

func TestNothingIsAnEmptyArray(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, new(Report).JSON(&b))
	require.JSONEq(t, "[]", b.String())
}

func TestHTMLIsWellFormedAndNeedsNothingElse(t *testing.T) {
	for name, r := range map[string]*Report{"full": example(), "empty": {}, "only skipped": {Rows: example().Rows[2:3]}} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.NoError(t, r.HTML(&b))
			d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
			elements := make(map[string]int)
			for {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				start, ok := token.(xml.StartElement)
				if !ok {
					continue
				}
				elements[start.Name.Local]++
				for _, a := range start.Attr {
					require.NotContains(t, []string{"src", "href"}, a.Name.Local, "a link to elsewhere")
					require.NotContains(t, a.Value, "NaN")
					require.NotContains(t, a.Value, "Inf")
				}
			}
			require.Equal(t, 1, elements["body"])
			require.Equal(t, len(r.Rows), elements["section"])
			require.Zero(t, elements["script"])
			require.NotContains(t, b.String(), "ZgotmplZ", "html/template refused a value")
			if name == "full" {
				require.Equal(t, 3, elements["svg"], "the ratios, and a chart for each measured scenario")
				require.Equal(t, 5, elements["rect"])
				require.Contains(t, b.String(), "needs root")
				require.Contains(t, b.String(), "&lt;CPU&gt;")
			}
		})
	}
}

func TestChartsKeepTheirScale(t *testing.T) {
	c := newBarChart(&example().Rows[0])
	require.Len(t, c.Figures, 2)
	first := c.Figures[0].Bars
	require.InDelta(t, 8, first[0].Width/first[1].Width, 1e-9)
	require.InDelta(t, labelWidth+barsWidth, first[0].Most, 1e-9, "the largest value fills the chart")

	r := newRatioChart(example().Rows)
	require.Len(t, r.Lines, 1)
	require.Greater(t, r.Lines[0].At, r.One)
	require.Less(t, r.Lines[0].Least, r.Lines[0].At)
	require.Nil(t, newRatioChart(example().Rows[1:]))
}

func TestMarkdownIsATable(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, example().Markdown(&b))
	text := b.String()
	require.Contains(t, text, "2 cores of A <CPU> & more, Linux 6.18 amd64, go1.26")
	require.Contains(t, text, "| `netstack-tcp1` | both ways, Gbit/s | 4.00 [3.60 to 4.40] | 0.500 [0.450 to 0.550] | **8.00×** [7.20 to 8.80] | 52% |")
	require.Contains(t, text, "| `netstack-tcp1` | 2.50 / 17.0 | 3.00 / 9,000 | 21.0 / 130 |")
	require.Contains(t, text, `needs root \| and more`)
	sameWidths(t, text)
}

// sameWidths checks that every table has as many columns in each line.
func sameWidths(t *testing.T, text string) {
	t.Helper()
	width := 0
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "|") {
			width = 0
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if width == 0 {
			width = n
		}
		require.Equal(t, width, n, line)
	}
}

func TestTextShowsEverythingOfARow(t *testing.T) {
	rows := example().Rows
	var b bytes.Buffer
	for i := range rows {
		require.NoError(t, rows[i].Text(&b))
	}
	for _, want := range []string{
		"netstack-tcp1 against wireguard-go, 3 pairs", "4.00 [3.60 to 4.40]", "ratio 8.00", "52% of the aead limit",
		"3.00 / 9,000 allocations/MB", "skipped: needs root", "failed: exit status 1",
	} {
		require.Contains(t, b.String(), want)
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 4: "4.00", 12.345: "12.3", 123.4: "123", 1234.5: "1,235", 1234567: "1,234,567", -1234: "-1,234",
		0.123456: "0.123", 0.01: "0.010", 0.0001: "1.0e-04", 999.7: "1,000",
	} {
		require.Equal(t, want, number(v))
	}
}

func TestTCPTable(t *testing.T) {
	table := &TCPTable{
		Machine: Machine{CPU: "CPU", Cores: 1, System: "Linux", Go: "go1.26"}, How: "Somehow.",
		Cells: []TCPCell{
			{RateMbits: 100, RTTMillis: 66, RACK: true, CongestionControl: "cubic", Mbits: 80, LinkFraction: 0.8},
			{RateMbits: 100, RTTMillis: 66, CongestionControl: "cubic", Mbits: 40, LinkFraction: 0.4},
			{RateMbits: 100, RTTMillis: 66, Loss: 0.001, Reordering: true, RACK: true, CongestionControl: "cubic", Mbits: 20, LinkFraction: 0.2},
			{RateMbits: 100, RTTMillis: 66, Loss: 0.001, Reordering: true, CongestionControl: "cubic", Mbits: 40, LinkFraction: 0.4},
		},
	}
	var b bytes.Buffer
	require.NoError(t, table.Markdown(&b))
	require.Contains(t, b.String(), "| 100 | 66.0 | 0% | no | **80.0** | 40.0 |\n| 100 | 66.0 | 0.100% | yes | 20.0 | **40.0** |\n")
	require.Contains(t, b.String(), "| all links | 40% | 40% |", "the geometric mean of 80 and 20")
	require.Contains(t, b.String(), "| reordering | 20% | 40% |")
	require.Contains(t, b.String(), "| loss, in order | – | – |")
	require.Contains(t, b.String(), "1 core of CPU")
	sameWidths(t, b.String())

	b.Reset()
	require.NoError(t, table.Text(&b))
	require.Contains(t, b.String(), "80.0 *")

	b.Reset()
	require.NoError(t, table.JSON(&b))
	var cells []map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &cells))
	require.Len(t, cells, 4)
	require.Equal(t, true, cells[0]["rack"])
	require.EqualValues(t, 80, cells[0]["mbit_s"])
}

func TestRowsComeBackFromTheirJSON(t *testing.T) {
	r := Report{Rows: []Row{
		{Scenario: "a", What: "bulk", Peer: "p", Pairs: 3, Figure: Figure{Metric: "m", Unit: "ns", Better: Lower, Ours: NewSpread([]float64{1, 2, 3})}},
		{Scenario: "b", Peer: "q", Skipped: "needs root"},
		{Scenario: "c", Failed: "exit status 1"},
	}}
	var b bytes.Buffer
	require.NoError(t, r.JSON(&b))
	rows, err := ParseRows(b.Bytes())
	require.NoError(t, err)
	require.Equal(t, r.Rows, rows)
	_, err = ParseRows([]byte("{"))
	require.Error(t, err)
}
