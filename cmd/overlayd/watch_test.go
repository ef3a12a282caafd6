package main

import (
	"bufio"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An output is what a command in this process prints, line by line.
type output struct {
	*io.PipeWriter
	*bufio.Scanner
}

func newOutput(t *testing.T) *output {
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	return &output{w, bufio.NewScanner(r)}
}

func (o *output) line(t *testing.T) string {
	t.Helper()
	require.True(t, o.Scan(), "there is another line")
	return o.Text()
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// running starts what a command does, which is to return nil when it is interrupted.
func running(t *testing.T, a *app, do func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	t.Cleanup(func() {
		cancel()
		a.out.(*output).Close() //nolint:errcheck // never fails
		require.NoError(t, <-done)
	})
}

func TestEventsAreALineEachAndAGapIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s")
	f, err := startFake(path, "")
	require.NoError(t, err)
	out, errs := newOutput(t), newOutput(t)
	a := &app{out: out, err: errs, now: func() time.Time { return noon }, socket: path, timeout: patience}
	running(t, a, func(ctx context.Context) error {
		if err := a.follow(ctx, nil); ctx.Err() == nil {
			return err
		}
		return nil
	})

	want := []string{
		"peer " + keyB + " has ceased to answer",
		"peer " + keyB + " answers again",
		"peer " + keyB + " is reached at 198.51.100.4:40123",
		"process 4711, 10.200.74.18 of service web, is attached",
		"guest vm, 10.200.74.19 of service web, is no longer attached: it died",
		"pool 10.200.74.16/28 of service web is nearly used up: 12 of 13 addresses",
		`dns does not work as it should: port 53 is taken\u001b[2J\u000aby another`,
		"dns works again",
	}
	for _, w := range want {
		require.Equal(t, "2026-11-23 12:00:00  "+w, out.line(t))
	}

	f.stop()
	f, err = startFake(path, "")
	require.NoError(t, err)
	t.Cleanup(f.stop)
	require.Contains(t, errs.line(t), "overlayd: events may have been missed: ")
	require.Contains(t, out.line(t), want[0])
}

func TestEventsAreJSONForPrograms(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s")
	f, err := startFake(path, "")
	require.NoError(t, err)
	t.Cleanup(f.stop)
	out := newOutput(t)
	a := &app{out: out, err: io.Discard, now: time.Now, json: true, socket: path, timeout: patience}
	running(t, a, func(ctx context.Context) error {
		if err := a.follow(ctx, []string{"degraded"}); ctx.Err() == nil {
			return err
		}
		return nil
	})
	require.Equal(t, `{"event":"peer_health_changed","pubkey":"`+keyB+`","healthy":false}`, out.line(t))
}

func TestAWatchedStatusIsAppendedWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s")
	f, err := startFake(path, "")
	require.NoError(t, err)
	out, errs := newOutput(t), newOutput(t)
	a := &app{out: out, err: errs, now: func() time.Time { return noon }, socket: path, timeout: patience}
	running(t, a, a.watch)

	readOne := func() {
		require.Equal(t, "2026-11-23 12:00:00", out.line(t))
		require.True(t, strings.HasPrefix(out.line(t), "overlayd v1.2.3, tun"))
		for !strings.HasPrefix(out.line(t), "  ! the key") {
		}
	}
	readOne()
	require.Empty(t, out.line(t))
	readOne()

	// A daemon that goes away is told once, and shown again when it is back.
	f.stop()
	require.Contains(t, errs.line(t), "overlayd: no daemon answers at "+path)
	f, err = startFake(path, "")
	require.NoError(t, err)
	t.Cleanup(f.stop)
	require.Empty(t, out.line(t))
	readOne()
}

func TestAWatchedStatusIsAnObjectALineForPrograms(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s")
	f, err := startFake(path, "")
	require.NoError(t, err)
	t.Cleanup(f.stop)
	out := newOutput(t)
	a := &app{out: out, err: io.Discard, now: time.Now, json: true, socket: path, timeout: patience}
	running(t, a, a.watch)
	for range 2 {
		require.True(t, strings.HasPrefix(out.line(t), `{"result":"status","interface":"ovl-prod-1-g"`))
	}
}
