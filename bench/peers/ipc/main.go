// Command ipc measures overlayd through its socket:
//
//	go run ./ipc [-json] [-run regexp] [-rounds n] [-time d] [-cycles n] [-crowd n]
//
// It builds overlayd and runs it in a network namespace of its own, with
// containers that are processes in namespaces of theirs, and so it needs root.
//
// What an orchestrator waits for when it attaches a container is compared with
// CNI's bridge and host-local plugins, built from
// github.com/containernetworking/plugins and run as container runtimes run them: a
// process for each ADD and DEL, the configuration on its standard input. Either
// gives the container an address, a cable to a bridge whose address is the gateway,
// and a default route; neither masquerades. Ours and theirs run in turn, and what
// counts is the ratio of neighbouring rounds.
package main

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/internal/testnet"
)

func main() {
	log.SetFlags(0)
	asJSON := flag.Bool("json", false, "print an array of JSON objects, as go run ./bench -json writes")
	run := flag.String("run", "", "only scenarios that match this regular `expression`")
	b := new(bench)
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, of each side in turn")
	flag.DurationVar(&b.length, "time", 2*time.Second, "length of a round that has one")
	flag.IntVar(&b.cycles, "cycles", 100, "containers attached and detached in a round that counts them")
	flag.IntVar(&b.crowd, "crowd", 500, "containers that are there already, where some are")
	flag.Parse()
	selected, err := regexp.Compile(*run)
	if err != nil || b.rounds < 1 || b.cycles < 1 || b.crowd < 1 || b.crowd > maxCrowd || b.length <= 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rows, err := b.run(ctx, selected)
	if err != nil {
		log.Fatal(err)
	}
	if *asJSON {
		if err := (&report.Report{Rows: rows}).JSON(os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	for _, row := range rows {
		if err := row.Text(os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
}

// A bench is how to measure.
type bench struct {
	rounds int
	length time.Duration
	cycles int
	crowd  int

	dir      string // for all that is written
	overlayd string // the program
}

// A scenario is something to measure.
type scenario struct {
	name, what, peer string
	run              func(ctx context.Context, b *bench) ([]report.Figure, error)
}

var scenarios = []scenario{
	{"ipc-attach", "containers attached and detached, through the socket and by plugins, one after the other", "CNI bridge and host-local", attach},
	{"ipc-status", "status of a daemon with many containers in 50 services, asked every 2 ms while others are attached and detached", "", status},
	{"ipc-throughput", "requests for the status of an empty daemon; pipelined: 64 at once, on all connections together", "", throughput},
}

// missing is why a scenario is skipped: something is not to be had here.
type missing struct{ error }

// run measures the scenarios that are selected.
func (b *bench) run(ctx context.Context, selected *regexp.Regexp) (rows []report.Row, err error) {
	if b.dir, err = os.MkdirTemp("", "ipc-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	for _, s := range scenarios {
		if !selected.MatchString(s.name) {
			continue
		}
		row := report.Row{Scenario: s.name, What: s.what, Peer: s.peer, Pairs: b.rounds}
		figures, err := b.measure(ctx, s)
		if m, ok := errors.AsType[missing](err); ok {
			row.Skipped = m.Error()
		} else if err != nil {
			row.Failed = err.Error()
		} else {
			row.Figure, row.More = figures[0], figures[1:]
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (b *bench) measure(ctx context.Context, s scenario) ([]report.Figure, error) {
	if err := checkNamespaces(); err != nil {
		return nil, err
	}
	if b.overlayd == "" {
		program, err := buildOverlayd(ctx, b.dir)
		if err != nil {
			return nil, err
		}
		b.overlayd = program
	}
	return s.run(ctx, b)
}

// checkNamespaces says why there can be no namespaces.
func checkNamespaces() error {
	ns, err := testnet.OpenNamespace()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return missing{errors.New("it needs root, for network namespaces")}
	case errors.Is(err, errors.ErrUnsupported):
		return missing{errors.New("it needs Linux, for network namespaces")}
	case err != nil:
		return err
	}
	return ns.Close()
}
