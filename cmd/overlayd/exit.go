package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

// The exit codes, which are stable. exitCodes says what they mean.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitUnreachable
	exitNotFound
	exitPermission
	exitConflict
	exitTimeout
)

// exitCodes is the part of the help about them.
const exitCodes = `Exit codes:
  0  it is done
  1  it failed
  2  the command line, or a field of the request, makes no sense
  3  no daemon could be reached
  4  what was asked for does not exist
  5  the permission for it is missing
  6  it contradicts what is there, or addresses, ports or room are used up
  7  it took too long`

// A usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func misused(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// An unreachableError is a daemon that could not be reached.
type unreachableError struct {
	endpoint string
	err      error
}

func (e *unreachableError) Unwrap() error { return e.err }

// Error says where it was looked for, and what to do.
func (e *unreachableError) Error() string {
	if errors.Is(e.err, fs.ErrPermission) {
		return fmt.Sprintf("the socket %s is not for this user: run this as root, or as a member of the group that owns the socket", e.endpoint)
	}
	return fmt.Sprintf("no daemon answers at %s (%s): start it with \"overlayd serve\" or \"systemctl start overlayd\", or say with --socket or --data-dir where it is",
		e.endpoint, e.cause())
}

// cause is the innermost error, which is what the system or the daemon said.
func (e *unreachableError) cause() string {
	if sys, ok := errors.AsType[*os.SyscallError](e.err); ok {
		return sys.Err.Error()
	}
	if op, ok := errors.AsType[*net.OpError](e.err); ok {
		return op.Err.Error()
	}
	text := e.err.Error()
	if _, after, ok := strings.Cut(text, client.ErrUnreachable.Error()+" (attempts: 1): "); ok {
		return after
	}
	return text
}

// A slowError is an answer that did not come in time.
type slowError struct {
	what  string
	limit time.Duration
}

func (e *slowError) Error() string {
	return fmt.Sprintf("%s: no answer within %v: the daemon may still be at it; --timeout sets how long to wait", e.what, e.limit)
}

func (e *slowError) Unwrap() error { return context.DeadlineExceeded }

// exitCode is what tells a script about an error.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	for _, known := range []struct {
		err  error
		code int
	}{
		{fs.ErrPermission, exitPermission}, // also of a socket, so before those that cannot be reached
		{wire.Permission, exitPermission},
		{client.ErrUnreachable, exitUnreachable},
		{wire.InvalidRequest, exitUsage},
		{wire.NotFound, exitNotFound},
		{wire.Conflict, exitConflict},
		{wire.Exhausted, exitConflict},
		{syscall.EADDRINUSE, exitConflict}, // of the daemon's socket, or of its metrics
		{syscall.ENOSPC, exitConflict},
		{wire.Timeout, exitTimeout},
		{context.DeadlineExceeded, exitTimeout},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return exitFailed
}

// explain is an error on one line, without the name of the program.
func explain(err error) string {
	return clean(strings.TrimPrefix(strings.TrimSpace(err.Error()), "overlayd: "))
}
