package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
)

// An Error is a request that was refused or failed.
type Error struct {
	Code  wire.Code
	Field string // the path of the request's field at fault; "": none
	Msg   string // what, which, and what to do
	Err   error  // why; may be nil

	exact bool // Msg begins to the letter of the contract, so that Field is not put before it
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Field != "" && !e.exact {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the code and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// invalid is a field that makes no sense.
func invalid(field, format string, args ...any) *Error {
	return &Error{Code: wire.InvalidRequest, Field: field, Msg: fmt.Sprintf(format, args...)}
}

// failed is what a code stands for, in words.
func failed(code wire.Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// notSetUp is a service that there is not.
func notSetUp(name string) *Error {
	return &Error{Code: wire.NotFound, Field: "service", Msg: "service " + quote(name) + " is not set up: send setup_service_overlay first"}
}

// because is what could not be done, and why, with the code that the cause calls
// for.
func because(err error, format string, args ...any) *Error {
	return &Error{Code: codeOf(err), Msg: fmt.Sprintf(format, args...), Err: err}
}

// codes are what errors of other packages and of the system mean to a client. An
// error may be several of them: the first counts.
var codes = []struct {
	err  error
	code wire.Code
}{
	{context.DeadlineExceeded, wire.Timeout},
	{os.ErrDeadlineExceeded, wire.Timeout},
	{context.Canceled, wire.ShuttingDown},
	{ipam.ErrExhausted, wire.Exhausted},
	{ipam.ErrTaken, wire.Conflict},
	{ipam.ErrResting, wire.Conflict},
	{ipam.ErrOverlap, wire.Conflict},
	{ipam.ErrInUse, wire.Conflict},
	{ipam.ErrNotHeld, wire.NotFound},
	{ipam.ErrNoPool, wire.NotReady},
	{ipam.ErrOutOfRange, wire.InvalidRequest},
	{ipam.ErrNotUsable, wire.InvalidRequest},
	{ipam.ErrInvalid, wire.InvalidRequest},
	{overlay.ErrUnknownPeer, wire.NotFound},
	{overlay.ErrTUNUnavailable, wire.Unsupported},
	{syscall.EADDRINUSE, wire.Conflict},
	{fs.ErrExist, wire.Conflict},
	{syscall.ENOSPC, wire.Exhausted},
	{fs.ErrPermission, wire.Permission},
	{errors.ErrUnsupported, wire.Unsupported},
	{net.ErrClosed, wire.ShuttingDown},
}

// codeOf is what an error means to a client.
func codeOf(err error) wire.Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if code, ok := errors.AsType[wire.Code](err); ok {
		return code
	}
	if _, ok := errors.AsType[*overlay.OverlapError](err); ok {
		return wire.Conflict
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if _, ok := errors.AsType[*overlay.ConfigError](err); ok {
		return wire.InvalidRequest
	}
	return wire.Internal
}

// retryable are the codes of what may be different a moment later.
var retryable = []wire.Code{wire.NotReady, wire.Timeout, wire.Overloaded, wire.ShuttingDown}

// reply is how a client is told of an error.
func reply(err error) wire.Err {
	answer := wire.Err{Message: err.Error(), Code: codeOf(err)}
	answer.Field = fieldOf(err)
	answer.Retryable = slices.Contains(retryable, answer.Code)
	return answer
}

// fieldOf is the first field that an error, or what is under it, names.
func fieldOf(err error) string {
	switch e := err.(type) {
	case *Error:
		if e.Field != "" {
			return e.Field
		}
		return fieldOf(e.Err)
	case interface{ Unwrap() error }:
		return fieldOf(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, under := range e.Unwrap() {
			if field := fieldOf(under); field != "" {
				return field
			}
		}
	}
	return ""
}

// renamed is an error that names a field as another op has it.
func renamed(err error, fields map[string]string) error {
	if e, ok := errors.AsType[*Error](err); ok && fields[e.Field] != "" {
		e.Field = fields[e.Field]
	}
	return err
}
