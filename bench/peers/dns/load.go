package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/overlayd/overlayd/bench/internal/report"
)

// steadyRate is the load at which times of single queries are compared: one that
// every server keeps up with on two cores shared with the loader.
const steadyRate = 10_000

// lines is how much is shown of what a program said that failed: dnsperf -v says a
// line for each query.
const lines = 10

// A load is what was measured of one server in one round.
type load struct {
	rate     float64 // queries answered a second
	cpu      float64 // of the server, in µs a query
	p50, p99 float64 // of a query's time, in µs
}

var (
	queriesPerSecond = regexp.MustCompile(`Queries per second: +([0-9.]+)`)
	queriesCompleted = regexp.MustCompile(`Queries completed: +([0-9]+)`)
)

// tries is how often a server is measured before the loader's failure counts: now
// and then dnsperf fails by itself ("failed to receive packet: Bad file descriptor").
const tries = 3

var errLoader = errors.New("the loader failed")

// measure measures a server.
func measure(ctx context.Context, b *bench, s scenario, kind server, dir, upstream string) (l load, err error) {
	for range tries {
		l, err = measureOnce(ctx, b, s, kind, dir, upstream)
		if !errors.Is(err, errLoader) || ctx.Err() != nil {
			break
		}
	}
	return l, err
}

// measureOnce starts a server and puts it under load.
func measureOnce(ctx context.Context, b *bench, s scenario, kind server, dir, upstream string) (l load, err error) {
	p, err := start(ctx, kind, dir, upstream)
	if err != nil {
		return l, err
	}
	defer p.stop()
	args := append([]string{
		"-s", p.addr.Addr().String(), "-p", strconv.Itoa(int(p.addr.Port())), "-d", filepath.Join(dir, "queries"),
		"-c", "16", "-T", "2", "-l", strconv.FormatFloat(b.length.Seconds(), 'f', -1, 64),
	}, s.flags...)
	warm, err := dnsperf(ctx, slices.Concat(args, []string{"-n", "1"}))
	if err != nil {
		return l, err
	}
	steady, err := dnsperf(ctx, slices.Concat(args, []string{"-v", "-Q", strconv.Itoa(steadyRate)}))
	if err != nil {
		return l, err
	}
	full, err := dnsperf(ctx, slices.Concat(args, []string{"-q", "256"}))
	if err != nil {
		return l, err
	}
	cpu, queries := p.stop(), 0.0
	for _, out := range [][]byte{warm, steady, full} {
		n, err := figure(queriesCompleted, out)
		if err != nil {
			return l, err
		}
		queries += n
	}
	l.cpu = float64(cpu.Microseconds()) / queries
	if l.p50, l.p99, err = percentiles(steady); err != nil {
		return l, err
	}
	l.rate, err = figure(queriesPerSecond, full)
	return l, err
}

// figure is the number in a line of what dnsperf says.
func figure(line *regexp.Regexp, out []byte) (float64, error) {
	match := line.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("dnsperf says nothing of %v:\n%s", line, report.LastLines(string(out), lines))
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

// dnsperf runs it and returns what it says.
func dnsperf(ctx context.Context, args []string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "dnsperf", args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: dnsperf %s: %w\n%s", errLoader, strings.Join(args, " "), err, report.LastLines(string(out), lines))
	}
	if bytes.Contains(out, []byte("SERVFAIL")) || bytes.Contains(out, []byte("REFUSED")) {
		return nil, fmt.Errorf("the server does not answer as it should:\n%s", report.LastLines(string(out), lines))
	}
	return out, nil
}

// percentiles reads the time of each query from dnsperf -v: lines of a response
// code, a name, a type and a number of seconds.
func percentiles(out []byte) (p50, p99 float64, err error) {
	var times []float64
	said := bufio.NewScanner(bytes.NewReader(out))
	for said.Scan() {
		fields := strings.Fields(said.Text())
		if len(fields) != 5 || fields[0] != ">" {
			continue
		}
		t, err := strconv.ParseFloat(fields[4], 64)
		if err != nil {
			continue // a query that timed out
		}
		times = append(times, t*1e6)
	}
	if len(times) == 0 {
		return 0, 0, errors.New("dnsperf says nothing of single queries")
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], nil
}
