package packet

import "encoding/binary"

// IPv6 extension headers (RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401,
// RFC 5533) that stand between the fixed header and the transport.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
	extMobility    = 135
	extHIP         = 139
	extShim6       = 140
)

// maxExtensions bounds the walk over extension headers: eight kinds exist and
// one of them may stand twice.
const maxExtensions = 10

// parse finds the transport header, once.
func (p *Packet) parse() {
	if p.parsed {
		return
	}
	p.parsed = true
	switch p.Version() {
	case 4:
		p.parse4()
	case 6:
		p.parse6()
	}
}

func (p *Packet) parse4() {
	d := p.Data
	header := int(d[0]&0x0f) * 4
	if header < 20 || header > len(d) {
		return
	}
	p.protocol = d[9]
	frag := binary.BigEndian.Uint16(d[6:8])
	p.fragment = frag&0x3fff != 0 // more fragments, or an offset
	if frag&0x1fff == 0 {
		p.transport = uint16(header)
	}
}

func (p *Packet) parse6() {
	d := p.Data
	next, at, first := d[6], 40, true
	for range maxExtensions {
		switch next {
		case extHopByHop, extRouting, extDestination, extMobility, extHIP, extShim6:
			if at+8 > len(d) {
				return
			}
			if next == extRouting && d[at+3] != 0 {
				p.routed = true
			}
			next, at = d[at], at+(int(d[at+1])+1)*8
		case extAuth: // counted in 4-byte units, less two (RFC 4302 section 2.2)
			if at+8 > len(d) {
				return
			}
			next, at = d[at], at+(int(d[at+1])+2)*4
		case extFragment:
			if at+8 > len(d) {
				return
			}
			field := binary.BigEndian.Uint16(d[at+2:])
			p.fragment = p.fragment || field&^0x6 != 0 // an atomic fragment is whole (RFC 6946)
			first = field>>3 == 0
			next, at = d[at], at+8
			if !first {
				p.protocol = next
				return
			}
		case protocolNone:
			p.protocol = next
			return
		default:
			if at > len(d) {
				return
			}
			p.protocol = next
			p.transport = uint16(at)
			return
		}
		if at > len(d) {
			return
		}
	}
}

// Trim checks the IP header and shortens Data to the length it states, which
// takes encryption padding off. It reports whether p is a well-formed IP packet.
func (p *Packet) Trim() bool {
	d := p.Data
	var header, total int
	switch p.Version() {
	case 4:
		header, total = int(d[0]&0x0f)*4, int(binary.BigEndian.Uint16(d[2:4]))
	case 6:
		header, total = 40, 40+int(binary.BigEndian.Uint16(d[4:6]))
	default:
		return false
	}
	if header < 20 || total < header || total > len(d) {
		return false
	}
	p.Data = d[:total]
	return true
}
