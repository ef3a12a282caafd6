package daemon

import (
	"fmt"

	"github.com/overlayd/overlayd/daemon/wire"
)

// An Error is a request that was refused or failed.
type Error struct {
	Code  wire.Code
	Field string // the path of the request's field at fault; "": none
	Msg   string // what, which, and what to do
	Err   error  // why; may be nil
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Field != "" {
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
