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
	{name: "dns-udp", what: "queries over UDP by dnsperf, a zone of 10,000 names; times at a fixed rate", flags: []string{"-m", "udp"}, run: loaded},
	{name: "dns-tcp", what: "the same over TCP", flags: []string{"-m", "tcp"}, run: loaded},
	{name: "dns-cached", what: "queries over UDP that are forwarded once and answered from the cache", flags: []string{"-m", "udp"}, cache: true, run: loaded},
	{name: "dns-inline", what: "one query answered in the packet path, and by miekg/dns without any packet", run: inline},
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
			both := func(of func(load) float64) (ours, theirs []float64) {
				for round := range b.rounds {
					ours, theirs = append(ours, of(loads[0][round])), append(theirs, of(loads[i+1][round]))
				}
				return ours, theirs
			}
			compare := func(metric, unit, better string, of func(load) float64) report.Figure {
				ours, theirs := both(of)
				return report.Compare(metric, unit, better, ours, theirs)
			}
			r.Figure = compare("answered", "queries/s", report.Higher, func(l load) float64 { return l.rate })
			r.More = []report.Figure{
				compare("CPU of a query", "µs", report.Lower, func(l load) float64 { return l.cpu }),
				compare("p50", "µs", report.Lower, func(l load) float64 { return l.p50 }),
				compare("p99", "µs", report.Lower, func(l load) float64 { return l.p99 }),
			}
		}
		results = append(results, r)
	}
	return results, nil
}
