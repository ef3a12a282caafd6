// Package wire is the contract between overlayd and its clients: what the frames
// on its socket hold, to the byte.
//
// A frame is a length of four bytes, little-endian, and as many bytes of JSON.
// ReadFrame and Decode take one in, AppendFrame puts one together:
//
//	body, err := wire.ReadFrame(conn, buf)
//	frame, err := wire.Decode(body)
//	switch f := frame.(type) {
//	case wire.RequestFrame:
//		…
//		buf, err = wire.AppendFrame(buf[:0], wire.ResponseFrame{ID: f.ID, Response: wire.OK{}})
//		_, err = conn.Write(buf)
//	}
//
// # Types
//
// A client sends a [Request] and gets one [Response] with the same id; each type
// of request says which result answers it, and an [Err] may answer any. An
// [Event] is sent to those who asked with [SubscribeEvents]. A request, response,
// event, [Handle] or [PeerScope] is one of several types, and its JSON says which
// in its first key: "op", "result", "event", "platform", "scope".
//
// Fields whose tag has omitzero are optional: left out when they are zero, and
// zero when they are absent or null. All others must be there and not be null,
// but for a scope, which means [GlobalScope] when it is absent. Prefixes named
// …cidr or subnet and allowed IPs in the contract's own types are text, and may
// be lists with commas between the items. Keys are standard base64 of 32 bytes.
// Times are Unix seconds, 0 for never.
//
// # JSON
//
// Output is compact and has the tag first, then the fields in the order in which
// the types list them; < and > and & stand as they are. Input is taken in any
// order and with keys nobody knows, but otherwise to the letter: keys are
// case-sensitive, none that is known may come twice, integers are exact,
// addresses have no zone. encoding/json knows neither the tags nor these rules,
// and hides a [Secret]: use [Marshal], [Decode] and [ParseRequest].
//
// The first nineteen ops, in request.go with their results in response.go, are
// those every daemon of this contract has. The ops in extension.go are later
// ones; a daemon that has them answers [HelloRequest].
package wire
