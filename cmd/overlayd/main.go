// Command overlayd is the daemon that puts containers on the overlay, and the
// command that asks it things.
//
//	overlayd serve                 # the daemon; see overlayd.service for systemd
//	overlayd status --watch        # how it is
//	overlayd call setup_service_overlay '{"service":"web","mode":"auto"}'
//
// Every operation of the contract, which package daemon/wire describes, can be
// called; the ones that ask something have subcommands that show the answer to a
// person, or with --json to a program.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now}
	os.Exit(a.run(os.Args[1:]))
}

// An app is one run of the command.
type app struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time

	socket, dataDir string
	json            bool
	timeout         time.Duration

	understood bool // the command line; what goes wrong after that is no wrong usage
}

// run does what a command line says, and returns the exit code.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	if !a.understood {
		err = &usageError{err}
	}
	fmt.Fprintln(a.err, "overlayd: "+explain(err))
	if _, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(a.err, "usage: %s (more with --help)\n", cmd.UseLine())
	}
	return exitCode(err)
}
