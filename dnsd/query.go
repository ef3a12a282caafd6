package dnsd

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Header bits (RFC 1035 section 4.1.1, RFC 4035 section 3.2), in bytes 2 and 3.
const (
	flagQR = 0x80
	flagAA = 0x04
	flagTC = 0x02
	flagRD = 0x01

	flagRA = 0x80
	flagCD = 0x10

	opcodeMask = 0x78
)

// optSize is an OPT record without options.
const optSize = 11

// A query is an ordinary question taken apart: one question, and at most an OPT
// record behind it. It is large, and meant to be used again.
type query struct {
	name
	recordType uint16
	class      uint16
	end        int  // of the question in the message
	edns       bool // there is an OPT record
	udpSize    uint16
	version    uint8
	do         bool
	rd, cd     bool
}

// parse takes message apart. It is false for everything out of the ordinary,
// which is the general path's to judge.
func (q *query) parse(message []byte) bool {
	if len(message) < headerSize || message[2]&(flagQR|opcodeMask|flagTC) != 0 {
		return false
	}
	q.rd, q.cd = message[2]&flagRD != 0, message[3]&flagCD != 0
	// One question, no answer, no authority, at most one additional record.
	const counts = 1 << 48
	additional := binary.BigEndian.Uint64(message[4:]) - counts
	if additional > 1 {
		return false
	}
	size := q.name.read(message[headerSize:])
	q.end = headerSize + size + 4
	if size == 0 || q.end > len(message) {
		return false
	}
	q.recordType = binary.BigEndian.Uint16(message[q.end-4:])
	q.class = binary.BigEndian.Uint16(message[q.end-2:])
	if q.edns = additional == 1; !q.edns {
		q.udpSize, q.version, q.do = 0, 0, false
		return q.end == len(message)
	}
	opt := message[q.end:] // RFC 6891 section 6.1.2
	if len(opt) < optSize || opt[0] != 0 || binary.BigEndian.Uint16(opt[1:]) != dns.TypeOPT {
		return false
	}
	q.udpSize = binary.BigEndian.Uint16(opt[3:])
	q.version = opt[6]
	q.do = opt[7]&0x80 != 0
	options := opt[optSize:]
	if len(options) != int(binary.BigEndian.Uint16(opt[9:])) {
		return false
	}
	for len(options) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if n > len(options) {
			return false
		}
		options = options[n:]
	}
	return len(options) == 0
}

// limit is how long an answer over UDP may be.
func (q *query) limit() int { return udpLimit(q.edns, q.udpSize) }

// udpLimit is how long an answer over UDP may be: 512 bytes, or what the client
// takes if that is more, up to what is good for the path (RFC 6891 section
// 6.2.3 to 6.2.5).
func udpLimit(edns bool, size uint16) int {
	if !edns {
		return dns.MinMsgSize
	}
	return min(max(int(size), dns.MinMsgSize), udpSize)
}

// appendOPT ends an answer with an OPT record (RFC 6891 section 6.1.2), which
// every answer to a query with one carries.
func appendOPT(b []byte, do bool) []byte {
	var flags byte
	if do { // RFC 3225 section 3: copied into the answer
		flags = 0x80
	}
	return append(b, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, 0, 0, flags, 0, 0, 0)
}
