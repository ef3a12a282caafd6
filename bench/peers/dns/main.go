// Command dns measures this project's dnsd and other DNS servers side by side:
//
//	go run ./dns [-json] [-run regexp] [-rounds n] [-time d]
//
// It runs dnsperf against each server in turn, with the same zone and the same
// queries: our dnsd, CoreDNS's file plugin, and dnsmasq, unbound and knot where
// they are installed. Each server is a process of its own, and only one runs at a
// time. What counts is the ratio of neighbouring runs; times of single queries are
// taken at a fixed rate all servers keep up with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
)

<<<<<<< HEAD
=======
// A result compares us with one peer in one scenario.
type result struct {
	Scenario string  `json:"scenario"`
	Peer     string  `json:"peer"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"` // median of the rounds
	Theirs   float64 `json:"theirs"`
	Ratio    spread  `json:"ratio"`            // ours to theirs, as many times better as it says
	CPU      *pair   `json:"cpu_us,omitempty"` // of the server, a query
	P50      *pair   `json:"p50_us,omitempty"` // of a query's time, at a fixed rate
	P99      *pair   `json:"p99_us,omitempty"`
	Skipped  string  `json:"skipped,omitempty"`
}

// A pair is the medians of the rounds, in µs, for both.
type pair struct {
	Ours   float64 `json:"ours"`
	Theirs float64 `json:"theirs"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

>>>>>>> wip/dnsd
func main() {
	log.SetFlags(0)
	serve := flag.String("serve", "", "serve as `ours` or `coredns`, from the folder given as argument (used by the command itself)")
	asJSON := flag.Bool("json", false, "print an array of JSON objects, as go run ./bench -json writes")
	run := flag.String("run", "", "only scenarios that match this regular `expression`")
	rounds := flag.Int("rounds", 5, "rounds of each server in turn")
	length := flag.Duration("time", 2*time.Second, "length of one run")
	names := flag.Int("names", 10_000, "names in the zone")
	flag.Parse()
	if *serve != "" {
		log.Fatal(serveChild(*serve, flag.Arg(0)))
	}
	selected, err := regexp.Compile(*run)
	if err != nil || *rounds < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{rounds: *rounds, length: *length, names: *names}
	var rows []report.Row
	for _, s := range scenarios {
		if !selected.MatchString(s.name) {
			continue
		}
		results, err := s.run(ctx, b, s)
		if err != nil {
			log.Fatalf("%s: %v", s.name, err)
		}
		rows = append(rows, results...)
		if *asJSON {
			continue
		}
		for _, r := range results {
			if err := r.Text(os.Stdout); err != nil {
				log.Fatal(err)
			}
		}
	}
	if *asJSON {
		if err := (&report.Report{Rows: rows}).JSON(os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
}

// A bench is how to measure.
type bench struct {
	rounds int
	length time.Duration
	names  int
}

// A scenario is something to measure.
type scenario struct {
	name  string
	what  string
	flags []string // of dnsperf
	cache bool     // the answers are an upstream's, and cached
	run   func(ctx context.Context, b *bench, s scenario) ([]report.Row, error)
}

var scenarios = []scenario{
<<<<<<< HEAD
	{name: "dns-udp", what: "queries over UDP by dnsperf, a zone of 10,000 names; times at a fixed rate", flags: []string{"-m", "udp"}, run: loaded},
	{name: "dns-tcp", what: "the same over TCP", flags: []string{"-m", "tcp"}, run: loaded},
	{name: "dns-cached", what: "queries over UDP that are forwarded once and answered from the cache", flags: []string{"-m", "udp"}, cache: true, run: loaded},
	{name: "dns-inline", what: "one query answered in the packet path, and by miekg/dns without any packet", run: inline},
=======
	{name: "dns-udp", flags: []string{"-m", "udp"}, run: loaded},
	{name: "dns-tcp", flags: []string{"-m", "tcp"}, run: loaded},
	{name: "dns-cached", flags: []string{"-m", "udp"}, cache: true, run: loaded},
	{name: "dns-inline", run: inline},
}

func show(r result, asJSON bool) {
	if asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			log.Fatal(err)
		}
		return
	}
	if r.Skipped != "" {
		fmt.Printf("%-11s %-34s %s\n", r.Scenario, r.Peer, r.Skipped)
		return
	}
	fmt.Printf("%-11s %-34s %9.0f to %9.0f %-9s ×%.2f [%.2f to %.2f]", r.Scenario, r.Peer,
		r.Ours, r.Theirs, r.Unit, r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
	if r.P99 != nil {
		fmt.Printf("   CPU %.1f to %.1f µs, p50 %.0f to %.0f µs, p99 %.0f to %.0f µs",
			r.CPU.Ours, r.CPU.Theirs, r.P50.Ours, r.P50.Theirs, r.P99.Ours, r.P99.Theirs)
	}
	fmt.Println()
>>>>>>> wip/dnsd
}

// loaded puts every server under load in turn.
func loaded(ctx context.Context, b *bench, s scenario) ([]report.Row, error) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		return []report.Row{{Scenario: s.name, Skipped: "dnsperf is not installed"}}, nil
	}
	dir, err := os.MkdirTemp("", "dns-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeFiles(dir, b.names); err != nil {
		return nil, err
	}
	upstream := ""
	if s.cache {
		up, err := start(ctx, ours, dir, "")
		if err != nil {
			return nil, err
		}
		defer up.stop()
		upstream = up.addr.String()
	}
	loads := make([][]load, len(servers))
	missing := make([]string, len(servers))
	for range b.rounds {
		for i, server := range servers {
			if missing[i] != "" {
				continue
			}
			l, err := measure(ctx, b, s, server, dir, upstream)
			if errors.Is(err, errMissing) {
				missing[i] = err.Error()
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", server.name, err)
			}
			loads[i] = append(loads[i], l)
		}
	}
	var results []report.Row
	for i, server := range servers[1:] {
		r := report.Row{Scenario: s.name, What: s.what, Peer: server.name, Pairs: b.rounds, Skipped: missing[i+1]}
		if r.Skipped == "" {
<<<<<<< HEAD
			r.Figure = figure("answered", "queries/s", report.Higher, rates[0], rates[i+1])
			for j, name := range []string{"p50", "p99"} {
				r.More = append(r.More, figure(name, "µs", report.Lower, latencies[0][j], latencies[i+1][j]))
			}
=======
			both := func(of func(load) float64) (ours, theirs []float64) {
				for round := range b.rounds {
					ours, theirs = append(ours, of(loads[0][round])), append(theirs, of(loads[i+1][round]))
				}
				return ours, theirs
			}
			medians := func(of func(load) float64) *pair {
				ours, theirs := both(of)
				return &pair{median(ours), median(theirs)}
			}
			ours, theirs := both(func(l load) float64 { return l.rate })
			r.compare(ours, theirs, func(ours, theirs float64) float64 { return ours / theirs })
			r.CPU = medians(func(l load) float64 { return l.cpu })
			r.P50 = medians(func(l load) float64 { return l.p50 })
			r.P99 = medians(func(l load) float64 { return l.p99 })
>>>>>>> wip/dnsd
		}
		results = append(results, r)
	}
	return results, nil
}

func figure(metric, unit, better string, ours, theirs []float64) report.Figure {
	return report.Figure{
		Metric: metric, Unit: unit, Better: better,
		Ours: report.NewSpread(ours), Theirs: report.NewSpread(theirs),
		Ratio: report.NewSpread(report.Ratios(ours, theirs, better)),
	}
}
