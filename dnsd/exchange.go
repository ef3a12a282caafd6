package dnsd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// A question is what an upstream is asked.
type question struct {
	name string // canonical
	kind
}

// A kind is what of a question is not its name: answers to other kinds differ.
type kind struct {
	recordType uint16
	do, cd     bool // DNSSEC OK, checking disabled
}

// maxRejected is how many datagrams that are no answer to our query are read
// before the question is asked over TCP, where nobody can guess (RFC 5452
// section 9.3 leaves the reaction to the resolver).
const maxRejected = 16

var (
	errReply    = errors.New("dnsd: malformed answer")
	errRejected = errors.New("dnsd: answers to other questions")
)

// A sent query is what an answer is held against.
type sent struct {
	message []byte
	end     int // of the question
}

// newSent makes the query for a question. Its identifier is random, and so is
// the case of its name, which an answer must repeat (draft-vixie-dnsext-dns0x20):
// with the source port, that is what someone who cannot see the query has to
// guess (RFC 5452).
func newSent(q question, edns bool, pad int) sent {
	random := make([]byte, 2+(len(q.name)+7)/8)
	rand.Read(random) // never fails
	m := make([]byte, headerSize, 512)
	copy(m, random[:2])
	m[2] = flagRD
	if q.cd {
		m[3] = flagCD
	}
	m[5] = 1
	bits := random[2:]
	for i := range len(q.name) {
		c := q.name[i]
		if 'a' <= c && c <= 'z' && bits[i/8]>>(i%8)&1 == 1 {
			c -= 'a' - 'A'
		}
		m = append(m, c)
	}
	m = binary.BigEndian.AppendUint16(m, q.recordType)
	m = binary.BigEndian.AppendUint16(m, dns.ClassINET)
	s := sent{end: len(m)}
	if edns {
		m[11] = 1
		m = appendOPT(m, q.do)
		if pad > 0 { // RFC 7830, RFC 8467 section 4.1
			n := (pad - (len(m)+4)%pad) % pad
			binary.BigEndian.PutUint16(m[len(m)-2:], uint16(4+n))
			m = binary.BigEndian.AppendUint16(m, dns.EDNS0PADDING)
			m = binary.BigEndian.AppendUint16(m, uint16(n))
			m = append(m, make([]byte, n)...)
		}
	}
	s.message = m
	return s
}

func (s *sent) id() uint16   { return binary.BigEndian.Uint16(s.message) }
func (s *sent) name() []byte { return s.message[headerSize : s.end-4] }

// match says how far a reply answers the query: its identifier and question must
// be ours, the name to the letter. folded is true where only the case differs. A
// resolver that could not read the query may leave the question out, but then
// says nothing else either.
func (s *sent) match(reply []byte) (ok, folded bool) {
	if len(reply) < headerSize || reply[0] != s.message[0] || reply[1] != s.message[1] {
		return false, false
	}
	if reply[2]&flagQR == 0 || reply[2]&opcodeMask != 0 {
		return false, false
	}
	switch questions := binary.BigEndian.Uint16(reply[4:]); {
	case questions == 0:
		return !conclusive(int(reply[3] & 0xf)), false
	case questions != 1, len(reply) < s.end:
		return false, false
	}
	ours, theirs := s.message[headerSize:s.end], reply[headerSize:s.end]
	if bytes.Equal(ours, theirs) {
		return true, false
	}
	if !bytes.Equal(ours[len(ours)-4:], theirs[len(theirs)-4:]) {
		return false, false
	}
	for i := range ours[:len(ours)-4] {
		if lower[ours[i]] != lower[theirs[i]] {
			return false, false
		}
	}
	return false, true
}

// exchange asks the resolver. The reply it returns answers the question asked and
// is well formed; that it tells the truth is another matter.
func (r *resolver) exchange(ctx context.Context, q question, asked func(name []byte), c *counters) (*dns.Msg, error) {
	reply, err := r.exchangeOnce(ctx, q, true, asked, c)
	if err != nil {
		return nil, err
	}
	if (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented) && reply.IsEdns0() == nil {
		// It knows nothing of EDNS (RFC 6891 section 7).
		return r.exchangeOnce(ctx, q, false, asked, c)
	}
	return reply, nil
}

func (r *resolver) exchangeOnce(ctx context.Context, q question, edns bool, asked func(name []byte), c *counters) (*dns.Msg, error) {
	pad := 0
	if r.TLS != nil {
		pad = 128
	}
	query := newSent(q, edns, pad)
	asked(query.name())
	if r.TLS == nil {
		reply, err := r.datagram(ctx, query, c)
		if err == nil && !reply.Truncated {
			return reply, nil
		}
		if err != nil && !errors.Is(err, errRejected) {
			return nil, err
		}
		c.add(upstreamTCP, 1)
	}
	raw, err := r.stream.exchange(ctx, query)
	if err != nil {
		return nil, err
	}
	return unpackReply(raw)
}

func unpackReply(raw []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errReply, err)
	}
	return m, nil
}

// datagram asks over UDP, from a socket and port of its own. The socket is
// connected, so that the system takes datagrams from the resolver only.
func (r *resolver) datagram(ctx context.Context, query sent, c *counters) (*dns.Msg, error) {
	conn, err := r.dial(ctx, "udp", r.Addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := conn.Write(query.message); err != nil {
		return nil, ctxError(ctx, err)
	}
	buf := make([]byte, udpSize+1)
	for range maxRejected {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, ctxError(ctx, err)
		}
		ok, folded := query.match(buf[:n])
		if folded {
			break // it does not keep the case, or somebody guesses: TCP tells
		}
		if ok {
			if buf[2]&flagTC != 0 {
				return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}, nil
			}
			if m, err := unpackReply(buf[:n]); err == nil {
				return m, nil
			}
		}
		c.add(upstreamRejected, 1)
	}
	return nil, errRejected
}

// ctxError prefers why ctx ended over the deadline that made it known.
func ctxError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return err
}
