package dnsd

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// A transport is how a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	inPath // as a packet, through a Stage
)

var transportNames = [...]string{"udp", "tcp", "inline"}

// A client is where a query came from.
type client struct {
	addr      netip.AddrPort // zero when the transport has no such thing
	transport transport
	recurse   bool // it may have queries forwarded
	room      int  // how long an answer may be, besides what the protocol says; 0: any length
}

// A worker is what one goroutine needs to take queries in and answer them in
// place.
type worker struct {
	server *Server
	query  query
	target name // of an alias
	tally  tally
	now    int64 // of the server's clock, read once per batch
}

// receive applies the server's policy to the message in buf[:n], and answers it
// in place if it can. The answer is at most len(buf) long.
func (w *worker) receive(buf []byte, n int, from *client) (int, verdict) {
	s := w.server
	w.tally.add(queriesUDP+counter(from.transport), 1)
	source := from.addr.Addr()
	if !s.rate.allow(source, w.now) {
		w.tally.add(droppedRate, 1)
		return 0, ignored
	}
	// To answer an answer could set two servers talking for ever.
	if n < headerSize || buf[2]&flagQR != 0 {
		w.tally.add(droppedMalformed, 1)
		return 0, ignored
	}
	if !s.ask.hold(source) {
		w.tally.add(refusedPolicy, 1)
		return w.refuse(buf, n, from, dns.RcodeRefused), answered
	}
	from.recurse = s.forward != nil && s.recurse.hold(source)
	length, v := w.answer(buf, n, from)
	if v == answered {
		w.logInPlace(from, buf)
	}
	return length, v
}

// admit makes room for a query the in-place path left and returns 0, or, if there
// is none, the length of the answer that says so, in the query's place.
func (w *worker) admit(buf []byte, n int, from *client) int {
	if w.server.inFlight.enter(from.addr.Addr()) {
		return 0
	}
	w.tally.add(droppedFull, 1)
	return w.refuse(buf, n, from, dns.RcodeServerFailure)
}

// refuse turns a query into an answer that has a response code and nothing else.
// It is never longer than the query.
func (w *worker) refuse(buf []byte, n int, from *client, rcode byte) int {
	w.tally.add(rcodes+counter(rcode), 1)
	out, questions, additional := buf[:headerSize], uint16(0), uint16(0)
	if w.query.parse(buf[:n]) {
		out, questions = buf[:w.query.end], 1
		if w.query.edns {
			out, additional = appendOPT(out, w.query.do), 1
		}
	}
	setHeader(out, flagQR, rcode, questions, 0, 0, additional)
	if questions > 0 {
		w.logInPlace(from, out)
	}
	return len(out)
}

// setHeader makes the header of a query that of its answer: identifier, opcode,
// RD and CD stay.
func setHeader(m []byte, flags byte, rcode byte, questions, answers, authorities, additional uint16) {
	m[2] = flags | m[2]&(opcodeMask|flagRD)
	m[3] = m[3]&flagCD | rcode
	binary.BigEndian.PutUint16(m[4:], questions)
	binary.BigEndian.PutUint16(m[6:], answers)
	binary.BigEndian.PutUint16(m[8:], authorities)
	binary.BigEndian.PutUint16(m[10:], additional)
}
