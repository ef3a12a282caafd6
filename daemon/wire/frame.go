package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"slices"
)

// MaxFrame is the size of the largest body, in bytes.
const MaxFrame = 8 << 20

const prefixSize = 4

// A Frame is a RequestFrame, a ResponseFrame or an EventFrame.
type Frame interface{ frame() string }

// A RequestFrame carries a request from a client.
type RequestFrame struct {
	ID      uint64  `json:"id"` // the client's choice; the response has the same
	Request Request `json:"request"`
}

// A ResponseFrame carries the answer to the request with its id. Id 0 with an Err
// is about a frame whose id could not be read.
type ResponseFrame struct {
	ID       uint64   `json:"id"`
	Response Response `json:"response"`
}

// An EventFrame carries an event to a client that subscribed.
type EventFrame struct {
	Event Event
}

func (RequestFrame) frame() string  { return "request" }
func (ResponseFrame) frame() string { return "response" }
func (EventFrame) frame() string    { return "event" }

// ReadFrame reads the body of one frame into buf, which it grows if need be, and
// returns it. It takes no more memory than twice what has arrived and a little,
// whatever length the frame announces.
//
// The error is io.EOF if the stream ended before a frame began, wraps
// io.ErrUnexpectedEOF if it ended inside one, and wraps FrameTooLarge if the
// announced length is over MaxFrame. After any error the framing is lost.
func ReadFrame(r io.Reader, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], prefixSize)[:prefixSize]
	if _, err := io.ReadFull(r, buf); err != nil {
		if err == io.EOF {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("wire: reading a frame's length: %w", err)
	}
	n := binary.LittleEndian.Uint32(buf)
	if n > MaxFrame {
		return nil, fmt.Errorf("wire: %w: %d bytes, and %d are allowed", FrameTooLarge, n, MaxFrame)
	}
	const step = 4096
	for buf = buf[:0]; len(buf) < int(n); {
		have := len(buf)
		room := min(int(n)-have, max(cap(buf)-have, have, step))
		buf = slices.Grow(buf, room)[:have+room]
		if m, err := io.ReadFull(r, buf[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("wire: reading a frame: %d of %d bytes arrived: %w", have+m, n, err)
		}
	}
	return buf, nil
}

// AppendFrame appends a frame, length and body, to dst, ready to be sent with one
// Write. The error is an *EncodeError, and dst is then returned as it was.
func AppendFrame(dst []byte, f Frame) ([]byte, error) {
	start := len(dst)
	out, err := appendAny(append(dst, make([]byte, prefixSize)...), f)
	if err != nil {
		return dst, err
	}
	n := len(out) - start - prefixSize
	if n > MaxFrame {
		return dst, &EncodeError{Msg: fmt.Sprintf("a frame of %d bytes, and %d are allowed", n, MaxFrame)}
	}
	binary.LittleEndian.PutUint32(out[start:], uint32(n))
	return out, nil
}

// Decode is the frame in a body. The error is a *DecodeError. The frame shares no
// memory with the body.
func Decode(body []byte) (Frame, error) {
	if err := validate(body); err != nil {
		return nil, &DecodeError{Code: InvalidJSON, ID: peekID(body), Msg: err.Error()}
	}
	body = trim(body)
	var kind string
	if flt := decodeTag(body, "frame", &kind); flt != nil {
		return nil, frameError("", body, flt)
	}
	var f Frame
	var flt *fault
	switch kind {
	case RequestFrame{}.frame():
		f, flt = decodeFrame[RequestFrame](body)
	case ResponseFrame{}.frame():
		f, flt = decodeFrame[ResponseFrame](body)
	case EventFrame{}.frame():
		f, flt = decodeEvent(body)
	default:
		return nil, frameError("", body, faultf("%s is not a kind of frame", clip(kind)).in("frame"))
	}
	if flt != nil {
		return nil, frameError(kind, body, flt)
	}
	return f, nil
}

func decodeFrame[F Frame](body []byte) (Frame, *fault) {
	var f F
	flt := decodeStruct(body, reflect.ValueOf(&f).Elem())
	return f, flt
}

func decodeEvent(body []byte) (Frame, *fault) {
	var f EventFrame
	flt := decodeUnion(body, events, reflect.ValueOf(&f.Event).Elem())
	return f, flt
}

// frameError makes the error of a fault found in a frame.
func frameError(kind string, body []byte, flt *fault) *DecodeError {
	e := &DecodeError{Code: flt.code, Frame: kind, Name: flt.name, Field: flt.field, Msg: flt.msg}
	if kind != "event" {
		e.ID = peekID(body)
	}
	switch {
	case e.Code != "": // it is the name that is not known, so there is no field at fault
		e.Field = ""
	case kind == "" || e.Field == "id":
		e.Code = InvalidFrame
	default:
		e.Code = map[string]Code{"request": InvalidRequest, "response": InvalidResponse, "event": InvalidEvent}[kind]
	}
	// "request.handle.pid" is the handle.pid of the request: everyone knows that.
	if inner := len(kind) + 1; kind != "" && len(e.Field) > inner && e.Field[:inner] == kind+"." {
		e.Field = e.Field[inner:]
	}
	return e
}

// peekID is the id of a frame that may be anything, even no JSON from some byte
// on: 0 if there is none, if it is no id, or if there are two.
func peekID(body []byte) (id uint64) {
	body = trim(body)
	if len(body) == 0 || body[0] != '{' {
		return 0
	}
	found := false
	skipMembers(body, 0, 0, func(key, value []byte) error { //nolint:errcheck // what was found before the error is what is wanted
		if keyIs(key, "id") {
			if found || decodeValue(value, reflect.ValueOf(&id).Elem()) != nil {
				id = 0
			}
			found = true
		}
		return nil
	})
	return id
}
