package wire

import (
	"fmt"
	"reflect"
	"strings"
)

// A Code is the stable name of a kind of failure, as an Err result carries it. It
// is an error itself, so that errors.Is finds it in whatever wraps it.
type Code string

// The codes of an Err result. A daemon may send others: treat those as Internal.
const (
	InvalidJSON    Code = "invalid_json"    // the body is not JSON
	InvalidFrame   Code = "invalid_frame"   // JSON, but no frame
	FrameTooLarge  Code = "frame_too_large" // longer than MaxFrame; the connection is closed
	UnknownOp      Code = "unknown_op"      // the daemon does not know the op
	InvalidRequest Code = "invalid_request" // a field is missing, ill-typed or makes no sense
	NotFound       Code = "not_found"       // what the request names does not exist
	Conflict       Code = "conflict"        // it contradicts what is there
	Exhausted      Code = "exhausted"       // addresses, ports or room in a table are used up
	NotReady       Code = "not_ready"       // something has to be set up first
	Permission     Code = "permission"      // the caller, or the daemon, may not do that
	Unsupported    Code = "unsupported"     // this system or mode cannot do that
	Timeout        Code = "timeout"         // it took too long
	Overloaded     Code = "overloaded"      // too many requests or connections at once
	ShuttingDown   Code = "shutting_down"   // the daemon is about to end
	Internal       Code = "internal"        // a fault of the daemon or of the host
)

// The codes of a DecodeError that no Err result has, as they are about what a
// daemon sends.
const (
	UnknownResult   Code = "unknown_result"
	UnknownEvent    Code = "unknown_event"
	InvalidResponse Code = "invalid_response"
	InvalidEvent    Code = "invalid_event"
)

// Error is the code in words: its underscores are spaces.
func (c Code) Error() string { return strings.ReplaceAll(string(c), "_", " ") }

// A DecodeError says why a body was refused. The framing is intact: the
// connection can go on. Unwrap gives its Code.
type DecodeError struct {
	Code  Code
	ID    uint64 // of the request or response; 0: none could be read
	Frame string // "request", "response", "event"; "": not known
	Name  string // the op, result or event; "": not known
	Field string // the path of the field at fault, as in "handle.pid"; "": none
	Msg   string // what is wrong
}

// Error is a sentence such as
// "invalid request attach_container: handle.pid: 4294967296 does not fit in 32 bits".
func (e *DecodeError) Error() string {
	var b strings.Builder
	b.WriteString(e.Code.Error())
	if e.Name != "" {
		if e.Code == InvalidJSON {
			b.WriteString(" for")
		}
		b.WriteString(" " + clip(e.Name))
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Unwrap is the code.
func (e *DecodeError) Unwrap() error { return e.Code }

// Reply is the frame that tells the sender of a bad request about it.
func (e *DecodeError) Reply() ResponseFrame {
	return ResponseFrame{ID: e.ID, Response: Err{Message: e.Error(), Code: e.Code, Field: e.Field}}
}

// An EncodeError is a value that cannot be sent: a required field is not set, or
// the frame would be longer than MaxFrame. Nothing was written.
type EncodeError struct {
	Field string // the path of the field at fault; "": none
	Msg   string
}

func (e *EncodeError) Error() string {
	if e.Field == "" {
		return "wire: " + e.Msg
	}
	return "wire: " + e.Field + ": " + e.Msg
}

// A fault is a DecodeError or EncodeError in the making: it collects the path of
// the field on the way out.
type fault struct {
	code  Code // "": that of the frame
	name  string
	field string
	msg   string

	missing reflect.Type // of the object that lacks the field, if that is the fault
}

func (f *fault) Error() string { return f.msg }

func faultf(format string, args ...any) *fault {
	return &fault{msg: fmt.Sprintf(format, args...)}
}

// in puts the fault into a field.
func (f *fault) in(field string) *fault {
	switch {
	case f.field == "":
		f.field = field
	case f.field[0] == '[':
		f.field = field + f.field
	default:
		f.field = field + "." + f.field
	}
	return f
}

// clip shortens what a stranger sent, for a message: whatever it holds, it ends
// up on one line.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if quoted := fmt.Sprintf("%q", s); s == "" || len(quoted) != len(s)+2 {
		return quoted
	}
	return s
}
