package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCut is under every error of Cutter.Start: the superpacket cannot be cut.
var ErrCut = errors.New("packet: cannot cut the superpacket")

var (
	errCutMalformed = fmt.Errorf("%w: its IP or transport header is malformed", ErrCut)
	errCutProtocol  = fmt.Errorf("%w: it is neither TCP nor UDP", ErrCut)
	errCutFragment  = fmt.Errorf("%w: it is a fragment", ErrCut)
	errCutRouted    = fmt.Errorf("%w: its checksum covers an address in its routing header", ErrCut)
	errCutHeader    = fmt.Errorf("%w: its headers exceed %d bytes", ErrCut, maxCutHeader)
	errCutSegments  = fmt.Errorf("%w: it has more than %d segments", ErrCut, maxSegments)
)

const (
	// maxCutHeader leaves, behind an IPv6 header and in front of the longest TCP
	// header, 156 bytes for extension headers; IPv4 and TCP need at most 120.
	maxCutHeader = 256

	// maxSegments is what Linux makes at worst: 64 KB in segments of the 8 bytes
	// that TCP_MIN_SND_MSS leaves behind 40 bytes of options.
	maxSegments = 8192
)

const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
	tcpECE
	tcpCWR
)

// A Cutter takes a superpacket apart, in place and without a copy of its
// payload. The zero value is ready, is used again for one packet after the
// other, and belongs to one goroutine.
type Cutter struct {
	data      []byte
	seg       int
	at        int // where in data the next segment starts, which is the payload cut before it
	end       int // value of at after the last segment
	transport int
	header    int // IP and transport header together
	protocol  uint8
	fixedID   bool
	first     bool
	flags     byte // TCP flags of the superpacket
	seq       uint32
	id        uint16
	saved     [maxCutHeader]byte
}

// Start begins with p, whose Data now belongs to the Cutter until Next returned
// nil; the superpacket is gone by then. An ordinary packet yields itself once,
// unchanged. The error is ErrCut with what is wrong with p, and Next then
// returns nil.
func (c *Cutter) Start(p *Packet) error {
	c.data, c.seg, c.at, c.end = p.Data, int(p.Seg), 0, 0
	if p.Seg == 0 {
		c.end = 1
		return nil
	}
	d := p.Data
	t := p.Transport()
	switch {
	case p.IsFragment():
		return errCutFragment
	case t == nil:
		return errCutMalformed
	case p.routed:
		return errCutRouted
	}
	c.transport = len(d) - len(t)
	c.protocol = p.protocol
	switch p.protocol {
	case ProtocolTCP:
		if len(t) < 20 || t[12]>>4 < 5 || len(t) < int(t[12]>>4)*4 {
			return errCutMalformed
		}
		c.header = c.transport + int(t[12]>>4)*4
		c.seq, c.flags = binary.BigEndian.Uint32(t[4:]), t[13]
	case ProtocolUDP:
		if len(t) < 8 {
			return errCutMalformed
		}
		c.header = c.transport + 8
	default:
		return errCutProtocol
	}
	if c.header > maxCutHeader {
		return errCutHeader
	}
	payload := len(d) - c.header
	segments := max((payload+c.seg-1)/c.seg, 1)
	if segments > maxSegments {
		return errCutSegments
	}
	if c.header+min(payload, c.seg) > MaxSize {
		return errCutMalformed
	}
	copy(c.saved[:c.header], d)
	c.id, c.fixedID = binary.BigEndian.Uint16(d[4:]), p.fixedID
	c.first = true
	c.end = segments * c.seg
	return nil
}

// Next returns the next segment as an ordinary, finished IP packet, or nil when
// there is none. It aliases the superpacket's Data and is the caller's to change
// until the next call. Behind it stand the payloads still to come: the caller
// may write there, up to Slack-1 bytes, only if it restores them.
//
// The lengths, the IPv4 identification and header checksum, the TCP sequence
// number and flags (FIN and PSH with the last segment, CWR with the first) and
// the transport checksum are each segment's own, as Linux 6.12 makes them in
// inet_gso_segment, tcp_gso_segment and __udp_gso_segment.
func (c *Cutter) Next() []byte {
	if c.at >= c.end {
		return nil
	}
	if c.seg == 0 {
		c.at = c.end
		return c.data
	}
	// A segment's header goes directly in front of its payload, over the end of
	// what was handed out before. So a segment starts where its payload starts in
	// the stream of payload.
	from := c.at
	to := min(from+c.header+c.seg, len(c.data))
	c.at += c.seg
	s := c.data[from:to]
	copy(s, c.saved[:c.header])
	last := c.at >= c.end

	t := s[c.transport:]
	if s[0]>>4 == 4 {
		binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
		binary.BigEndian.PutUint16(s[4:], c.id)
		if !c.fixedID {
			c.id++
		}
		finishIPv4(s[:int(s[0]&0x0f)*4])
	} else {
		binary.BigEndian.PutUint16(s[4:], uint16(len(s)-40))
	}

	at := 16
	if c.protocol == ProtocolTCP {
		binary.BigEndian.PutUint32(t[4:], c.seq)
		c.seq += uint32(c.seg)
		flags := c.flags
		if !last {
			flags &^= tcpFIN | tcpPSH
		}
		if !c.first {
			flags &^= tcpCWR
		}
		t[13] = flags
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		at = 6
	}
	c.first = false
	t[at], t[at+1] = 0, 0
	sum := ^fold(sum(t, pseudoHeader(s, c.protocol, len(t))))
	if sum == 0 && c.protocol == ProtocolUDP {
		sum = 0xffff // zero says there is none (RFC 768, RFC 8200 section 8.1)
	}
	binary.BigEndian.PutUint16(t[at:], sum)
	return s
}
