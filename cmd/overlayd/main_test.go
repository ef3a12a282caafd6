package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what was printed into the scripts")

// The race detector has a program wait for a second at its end, and here many end.
const noWait = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	os.Setenv("GORACE", noWait) //nolint:errcheck // it is only slower without
	testscript.Main(m, map[string]func(){"overlayd": main, "stubborn": stubborn})
}

// stubborn is a daemon that never comes to its end when it is asked to.
func stubborn() {
	onSignals(slog.New(slog.NewJSONHandler(os.Stderr, nil)), func() {})
	fmt.Fprintln(os.Stderr, `{"msg":"ready"}`)
	select {}
}

// The scripts run the command itself, in a process of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_RUNTIME_DIR", "")
			env.Setenv("XDG_STATE_HOME", "")
			env.Setenv("NO_COLOR", "")
			env.Setenv("GORACE", noWait)
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"fake":   fakeDaemon,
			"until":  until,
			"signal": signalTo,
			"lines":  lines,
		},
	})
}

// condition are the scripts' own: [root].
func condition(name string) (bool, error) {
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	return false, errors.New("there is no such condition")
}

// exits CODE COMMAND... runs a command, which must exit with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := code(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("%s exited with %d and not %d", strings.Join(args[1:], " "), got, want)
	}
}

func code(ts *testscript.TestScript, err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

// patience is how long a script waits for what ought to happen.
const patience = time.Minute

// until COMMAND... runs a command again and again until it succeeds, or with ! fails.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: until COMMAND [ARG]...")
	}
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if (ts.Exec(args[0], args[1:]...) == nil) != neg {
			return
		}
		if time.Since(begin) > patience {
			ts.Fatalf("%s did not come about", strings.Join(args, " "))
		}
	}
}

// signal NAME sends a signal to the commands in the background.
func signalTo(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP}[strings.Join(args, " ")]
	if neg || !ok {
		ts.Fatalf("usage: signal INT|TERM|HUP")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(s))
	}
}

// lines N FILE: the file has so many lines.
func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines N FILE")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := strings.Count(ts.ReadFile(args[1]), "\n"); got != want {
		ts.Fatalf("%s has %d lines and not %d:\n%s", args[1], got, want, ts.ReadFile(args[1]))
	}
}
