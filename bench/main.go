package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"

	"github.com/overlayd/overlayd/bench/internal/report"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		os.Exit(childMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	quick    bool
	tcp      bool
	run      string
	json     string
	markdown string
	html     string

	outside []outsideRun // wanted, as run says
}

// command runs the bench and returns the exit status: 1 when something failed, 2
// when the command line is wrong.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "measure with three pairs of short runs rather than five of longer ones")
	flags.StringVar(&o.run, "run", "", "run only the scenarios whose names match this `regexp`")
	flags.StringVar(&o.json, "json", "", "write the figures to this `file`")
	flags.StringVar(&o.markdown, "markdown", "", "write a table to this `file`")
	flags.StringVar(&o.html, "report", "", "write a page with charts to this `file`")
	flags.BoolVar(&o.tcp, "tcp", false, "measure TCP's settings over simulated links instead")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	selected, err := o.check(flags.Args())
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	measure := func() (*output, error) { return measureScenarios(ctx, selected, o.outside, o.quick, stdout, stderr) }
	if o.tcp {
		measure = func() (*output, error) { return measureTCP(ctx, o.quick, stdout, stderr) }
	}
	out, err := measure()
	if out != nil {
		err = errors.Join(err, out.save(o))
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// check returns the scenarios that are wanted, or what is wrong with the command
// line: before anything is measured that could then not be kept.
func (o *options) check(rest []string) ([]*scenario, error) {
	if len(rest) > 0 {
		return nil, fmt.Errorf("unexpected argument %q", rest[0])
	}
	if o.tcp && (o.run != "" || o.html != "") {
		return nil, errors.New("-tcp measures all of its table, and draws no charts: leave out -run and -report")
	}
	for _, file := range []string{o.json, o.markdown, o.html} {
		if file == "" {
			continue
		}
		if at, err := os.Stat(filepath.Dir(file)); err != nil {
			return nil, err
		} else if !at.IsDir() {
			return nil, fmt.Errorf("%s is not a folder", filepath.Dir(file))
		}
	}
	want, err := regexp.Compile(o.run)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	var selected []*scenario
	for i := range scenarios {
		if want.MatchString(scenarios[i].name) {
			selected = append(selected, &scenarios[i])
		}
	}
	for i := range outsides {
		for _, name := range outsides[i].names {
			if want.MatchString(name) {
				o.outside = append(o.outside, outsideRun{&outsides[i], name})
			}
		}
	}
	if len(selected)+len(o.outside) == 0 {
		return nil, fmt.Errorf("-run %q: no scenario has such a name", o.run)
	}
	return selected, nil
}

// An output is what was measured, in the forms it is kept in; a form that is nil
// does not exist.
type output struct {
	json, markdown, html func(io.Writer) error
}

func (out *output) save(o options) error {
	return errors.Join(
		writeFile(o.json, out.json),
		writeFile(o.markdown, out.markdown),
		writeFile(o.html, out.html),
	)
}

// writeFile writes a file unless it has no name.
func writeFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// measureScenarios runs the scenarios and prints each when it is done. It fails
// when one of them did, with what the others measured.
func measureScenarios(ctx context.Context, selected []*scenario, outside []outsideRun, quick bool, stdout, stderr io.Writer) (*output, error) {
	r := &report.Report{Machine: thisMachine(), Quick: quick}
	fmt.Fprintf(stdout, "%s\n\n", r.Machine)
	run := newRunner(selected, quick, newProgress(stderr))
	var failed []error
	keep := func(rows ...report.Row) error {
		for _, row := range rows {
			if err := ctx.Err(); err != nil {
				return err
			}
			if row.Failed != "" {
				failed = append(failed, fmt.Errorf("%s: %s", row.Scenario, row.Failed))
			}
			if err := row.Text(stdout); err != nil {
				return err
			}
			r.Rows = append(r.Rows, row)
		}
		return nil
	}
	for _, s := range selected {
		if err := keep(run.row(ctx, s)); err != nil {
			return nil, err
		}
	}
	for _, o := range outside {
		fmt.Fprintf(stderr, "%s, by a command of bench/peers\n", o.name)
		if err := keep(o.rows(ctx, o.name, quick)...); err != nil {
			return nil, err
		}
	}
	return &output{json: r.JSON, markdown: r.Markdown, html: r.HTML}, errors.Join(failed...)
}
