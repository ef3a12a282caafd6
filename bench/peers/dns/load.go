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
)

// steadyRate is the load at which times of single queries are compared: one that
// every server keeps up with on two cores shared with the loader.
const steadyRate = 10_000

var queriesPerSecond = regexp.MustCompile(`Queries per second: +([0-9.]+)`)

// measure starts a server and returns how many queries a second it answers, and
// the median and the 99th percentile of the time one takes, in µs.
func measure(ctx context.Context, b *bench, s scenario, kind server, dir, upstream string) (rate float64, latency [2]float64, err error) {
	p, err := start(ctx, kind, dir, upstream)
	if err != nil {
		return 0, latency, err
	}
	defer p.stop()
	args := append([]string{
		"-s", p.addr.Addr().String(), "-p", strconv.Itoa(int(p.addr.Port())), "-d", filepath.Join(dir, "queries"),
		"-c", "16", "-T", "2", "-l", strconv.FormatFloat(b.length.Seconds(), 'f', -1, 64),
	}, s.flags...)
	warm := slices.Concat(args, []string{"-n", "1"})
	if _, err := dnsperf(ctx, warm); err != nil {
		return 0, latency, err
	}
	out, err := dnsperf(ctx, slices.Concat(args, []string{"-v", "-Q", strconv.Itoa(steadyRate)}))
	if err != nil {
		return 0, latency, err
	}
	if latency, err = percentiles(out); err != nil {
		return 0, latency, err
	}
	out, err = dnsperf(ctx, slices.Concat(args, []string{"-q", "256"}))
	if err != nil {
		return 0, latency, err
	}
	match := queriesPerSecond.FindSubmatch(out)
	if match == nil {
		return 0, latency, fmt.Errorf("dnsperf says nothing of queries per second:\n%s", out)
	}
	rate, err = strconv.ParseFloat(string(match[1]), 64)
	return rate, latency, err
}

func dnsperf(ctx context.Context, args []string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "dnsperf", args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("dnsperf %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	if bytes.Contains(out, []byte("SERVFAIL")) || bytes.Contains(out, []byte("REFUSED")) {
		return nil, fmt.Errorf("the server does not answer as it should:\n%s", out)
	}
	return out, nil
}

// percentiles reads the time of each query from dnsperf -v: lines of a response
// code, a name, a type and a number of seconds.
func percentiles(out []byte) (latency [2]float64, err error) {
	var times []float64
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
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
		return latency, errors.New("dnsperf says nothing of single queries")
	}
	slices.Sort(times)
	return [2]float64{times[len(times)/2], times[len(times)*99/100]}, nil
}
