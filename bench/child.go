package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
)

// childArg is the first argument of a process that the bench starts to do one
// job. The second is the job in JSON; the process writes what came of it to its
// standard output, and ends early when its standard input does.
const childArg = "-child"

// A job is what one process does: exactly one of its fields.
type job struct {
	Measure *measureJob `json:",omitempty"`
	Traffic *trafficJob `json:",omitempty"`
	Serve   *serveJob   `json:",omitempty"`
	Cell    *cell       `json:",omitempty"`
}

// A measureJob is one run of one side of a scenario; it yields a sample.
type measureJob struct {
	Scenario string
	Side     side
	Time     time.Duration
}

// childSlack is how long a job may take beyond its time.
const childSlack = time.Minute

// childMain does the job and returns the exit status.
func childMain(args []string) int {
	// Ctrl-C is the parent's, who ends us in order.
	signal.Ignore(os.Interrupt)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
		time.Sleep(5 * time.Second)
		os.Exit(1) // what we have made, the system takes away
	}()
	if err := doJob(ctx, args, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func doJob(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("a child has one argument")
	}
	var j job
	if err := json.Unmarshal([]byte(args[0]), &j); err != nil {
		return err
	}
	var result any
	var err error
	switch {
	case j.Measure != nil:
		result, err = j.Measure.do(ctx)
	case j.Traffic != nil:
		result, err = j.Traffic.do(ctx)
	case j.Serve != nil:
		return j.Serve.do(ctx, stdout)
	case j.Cell != nil:
		result, err = j.Cell.measure(ctx)
	default:
		err = errors.New("no job")
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(result)
}

func (j *measureJob) do(ctx context.Context) (sample, error) {
	s := findScenario(j.Scenario)
	if s == nil {
		return sample{}, fmt.Errorf("there is no scenario %q", j.Scenario)
	}
	var m meter
	values, err := s.run(ctx, j.Side, &m, j.Time)
	if err != nil {
		return sample{}, err
	}
	if len(values) != len(s.metrics) {
		return sample{}, fmt.Errorf("%s: %d values for %d metrics", s.name, len(values), len(s.metrics))
	}
	return m.sample(values), nil
}

// commander makes the command for a program: exec.Command, or that of a
// namespace.
type commander func(name string, args ...string) *exec.Cmd

// childCommand is the command that does a job.
func childCommand(make commander, j job) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	return make(self, childArg, string(text)), nil
}

// spawn has a process do a job that takes about a time d, and puts what came of
// it into result. The process is gone when it returns.
func spawn(ctx context.Context, make commander, j job, d time.Duration, result any) error {
	ctx, cancel := context.WithTimeout(ctx, d+childSlack)
	defer cancel()
	cmd, err := childCommand(make, j)
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	stdin.Close()
	if ctx.Err() != nil {
		return fmt.Errorf("a process was ended: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, report.LastLines(stderr.String(), 20))
	}
	return json.Unmarshal(stdout.Bytes(), result)
}
