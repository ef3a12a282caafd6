package client

import (
	"errors"
	"fmt"
	"net"

	"github.com/overlayd/overlayd/daemon/wire"
)

// What an [Error] matches by its code. Any wire.Code can be used in the same way.
var (
	ErrInvalid      error = wire.InvalidRequest // a field makes no sense
	ErrUnknownOp    error = wire.UnknownOp      // the daemon does not know the operation
	ErrNotFound     error = wire.NotFound       // what the request names does not exist
	ErrConflict     error = wire.Conflict       // it contradicts what is there
	ErrExhausted    error = wire.Exhausted      // addresses, ports or room are used up
	ErrNotReady     error = wire.NotReady       // something has to be set up first
	ErrPermission   error = wire.Permission     // not allowed
	ErrUnsupported  error = wire.Unsupported    // not on this system or in this mode
	ErrTimeout      error = wire.Timeout        // it took the daemon too long
	ErrOverloaded   error = wire.Overloaded     // too many requests or connections
	ErrShuttingDown error = wire.ShuttingDown   // the daemon is about to end
	ErrInternal     error = wire.Internal       // a fault of the daemon or the host
)

var (
	// ErrUnreachable is returned when no attempt to reach the daemon succeeded.
	ErrUnreachable = errors.New("no daemon answers")

	// ErrLost is returned when the connection ended between a request and its
	// answer: whether it was done is not known.
	ErrLost = errors.New("the connection was lost before the answer came")

	// ErrProtocol is returned when what the daemon sends is not the contract's.
	ErrProtocol = errors.New("the daemon does not keep to the contract")

	// ErrGap is what [Client.Events] yields when events may have been missed.
	ErrGap = errors.New("events may have been missed")
)

var errClosed = fmt.Errorf("the client is closed: %w", net.ErrClosed)

// An Error is a request the daemon refused or failed to do.
type Error struct {
	Op        string    // as in "attach_container"
	Code      wire.Code // "" from a daemon without codes
	Message   string    // for people
	Field     string    // of the request, at fault; may be empty
	Retryable bool      // whether the same request may succeed later
}

// Error is the operation, the message and the code.
func (e *Error) Error() string { return "overlayd: " + e.Op + ": " + e.reason() }

func (e *Error) reason() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Message + " (" + string(e.Code) + ")"
}

// Unwrap is the code, or nil if there is none.
func (e *Error) Unwrap() error {
	if e.Code == "" {
		return nil
	}
	return e.Code
}

func refused(op string, e wire.Err) *Error {
	return &Error{Op: op, Code: e.Code, Message: e.Message, Field: e.Field, Retryable: e.Retryable}
}

// A lostError is why a connection ended while there was something to do on it.
type lostError struct{ err error }

func (e *lostError) Error() string {
	if refusal, ok := e.err.(*Error); ok {
		return ErrLost.Error() + ": " + refusal.reason()
	}
	return ErrLost.Error() + ": " + e.err.Error()
}

func (e *lostError) Unwrap() error        { return e.err }
func (e *lostError) Is(target error) bool { return target == ErrLost }

// hungUp reports whether an error is a connection that ended without a reason: not
// because the daemon gave one, broke the contract, or because of Close.
func hungUp(err error) bool {
	lost, ok := errors.AsType[*lostError](err)
	if !ok {
		return false
	}
	_, reason := errors.AsType[*Error](lost.err)
	return !reason && !errors.Is(lost.err, ErrProtocol) && !errors.Is(lost.err, errClosed)
}

// failed says which operation an error is about.
func failed(op string, err error) error {
	if lost, ok := err.(*lostError); ok {
		if errors.Is(lost.err, errClosed) {
			err = errClosed // and whoever called Close knows
		}
		return fmt.Errorf("overlayd: %s: %w", op, err)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		about := *e
		about.Op = op
		return &about
	}
	return fmt.Errorf("overlayd: %s: %w", op, err)
}
