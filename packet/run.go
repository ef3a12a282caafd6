package packet

import (
	"bytes"
	"encoding/binary"
)

// maxUDPRun is how many datagrams make a superpacket at most: UDP_GRO_CNT_MAX of
// Linux's net/ipv4/udp_offload.c.
const maxUDPRun = 64

// A run is what is known about the last packet of a batch while others may still
// be added to it.
//
// The rules are those of Linux 6.12: inet_gro_receive, ipv6_gro_receive,
// inet_gro_flush, tcp_gro_receive and udp_gro_receive_segment. Stricter than
// those, so that cutting gives back every byte: the TCP window and urgent
// pointer must be equal too, and a packet with FIN stays alone.
type run struct {
	open     bool
	verified bool // checksums of the first packet
	fixedID  bool // second and later packets carry the first one's IPv4 identification
	protocol uint8
	ip       int // length of the IP header
	header   int // length of IP and transport header
	seg      int // payload of each packet, a shorter one ends the run
	count    int
	seq      uint32 // next TCP sequence number
}

// A segment is what decides about a single packet whether it may be in a run.
type segment struct {
	protocol uint8
	ip       int  // length of the IP header
	header   int  // length of IP and transport header
	last     bool // nothing may follow it: TCP's PSH
}

// parseSegment looks at a packet trimmed to its IP length, and reports whether it
// may be in a run at all: a TCP segment with payload and no flags but ACK, PSH
// and ECE, or, when asked for, a UDP datagram with payload and checksum; not a
// fragment, without IPv4 options.
func parseSegment(d []byte, udp bool) (s segment, ok bool) {
	if d[0]>>4 == 4 {
		// No options, no fragment, no reserved bit (inet_gro_receive).
		if d[0] != 0x45 || binary.BigEndian.Uint16(d[6:])&^0x4000 != 0 {
			return s, false
		}
		s.ip, s.protocol = 20, d[9]
	} else if s.ip, s.protocol = skipExtensions(d); s.ip == 0 {
		return s, false
	}
	t := d[s.ip:]
	switch {
	case s.protocol == ProtocolTCP:
		if len(t) < 20 {
			return s, false
		}
		header := int(t[12]>>4) * 4
		if header < 20 || t[13]&^(tcpPSH|tcpECE) != tcpACK {
			return s, false
		}
		s.header = s.ip + header
		s.last = t[13]&tcpPSH != 0
	case s.protocol == ProtocolUDP && udp:
		if len(t) < 8 || int(binary.BigEndian.Uint16(t[4:])) != len(t) || t[6]|t[7] == 0 {
			return s, false
		}
		s.header = s.ip + 8
	default:
		return s, false
	}
	return s, s.header <= maxMergeHeader && s.header < len(d)
}

// skipExtensions returns the length of an IPv6 header with its extension headers,
// of the kinds that may be in a run (those with an offload in Linux), and the
// transport protocol; 0 when there is another one, or too much of them.
func skipExtensions(d []byte) (header int, protocol uint8) {
	header, protocol = 40, d[6]
	for header <= maxMergeHeader {
		switch protocol {
		case extHopByHop, extRouting, extDestination:
			if header+8 > len(d) || protocol == extRouting && d[header+3] != 0 {
				return 0, 0
			}
			protocol, header = d[header], header+(int(d[header+1])+1)*8
		default:
			if header > len(d) {
				return 0, 0
			}
			return header, protocol
		}
	}
	return 0, 0
}

// begin starts a run with its first packet.
func (r *run) begin(d []byte, s *segment) {
	*r = run{
		open:     !s.last,
		protocol: s.protocol,
		ip:       s.ip,
		header:   s.header,
		seg:      len(d) - s.header,
		count:    1,
	}
	if s.protocol == ProtocolTCP {
		r.seq = binary.BigEndian.Uint32(d[s.ip+4:]) + uint32(r.seg)
	}
}

// continues reports whether packet d may be added to the run that is in first.
// over says that the run's end is overwritten, and so that its first packet was
// verified before.
func (r *run) continues(first, d []byte, s *segment, over bool) bool {
	payload := len(d) - s.header
	limit := maxSegments
	if r.protocol == ProtocolUDP {
		limit = maxUDPRun
	}
	if s.protocol != r.protocol || s.ip != r.ip || s.header != r.header ||
		payload > r.seg || len(first)+payload > MaxSize || r.count == limit {
		return false
	}
	if !sameIP(first, d, s.ip) || !r.sameTransport(first[s.ip:s.header], d[s.ip:s.header]) || !r.nextID(first, d) {
		return false
	}
	if !over && !r.verify(first) {
		return false
	}
	return s.checksumOK(d)
}

// sameIP compares IP headers of one length, all but the length, the IPv4
// identification and checksum.
func sameIP(a, b []byte, header int) bool {
	if a[0] != b[0] || a[1] != b[1] {
		return false // version, header length, type of service or traffic class with ECN
	}
	if a[0]>>4 == 4 {
		return bytes.Equal(a[6:10], b[6:10]) && bytes.Equal(a[12:20], b[12:20])
	}
	return bytes.Equal(a[2:4], b[2:4]) && bytes.Equal(a[6:header], b[6:header])
}

// sameTransport compares a transport header with that of the first packet, all
// but the checksum, the UDP length and the PSH flag; TCP's sequence number must be
// the next.
func (r *run) sameTransport(first, t []byte) bool {
	if !bytes.Equal(first[:4], t[:4]) {
		return false // ports
	}
	if r.protocol == ProtocolUDP {
		return true
	}
	return binary.BigEndian.Uint32(t[4:]) == r.seq &&
		bytes.Equal(first[8:13], t[8:13]) && // acknowledgment and data offset
		first[13]&^tcpPSH == t[13]&^tcpPSH && // ECE; more flags do not come here
		bytes.Equal(first[14:16], t[14:16]) && // window
		bytes.Equal(first[18:], t[18:]) // urgent pointer and options
}

// nextID reports whether the IPv4 identification follows: it counts up, or it
// stays the same in packets that may not be fragmented, where it means nothing
// (RFC 6864 section 4.1). The second packet decides which.
func (r *run) nextID(first, d []byte) bool {
	if d[0]>>4 != 4 {
		return true
	}
	ahead := binary.BigEndian.Uint16(d[4:]) - binary.BigEndian.Uint16(first[4:])
	if r.count == 1 {
		r.fixedID = ahead == 0 && d[6]&0x40 != 0
	}
	if r.fixedID {
		return ahead == 0
	}
	return ahead == uint16(r.count)
}

// verify checks the first packet's checksums, once, before a second one joins it:
// a wrong one must not be made right. It closes the run when they are wrong.
func (r *run) verify(first []byte) bool {
	if !r.verified {
		s := segment{protocol: r.protocol, ip: r.ip}
		r.verified = s.checksumOK(first)
		r.open = r.verified
	}
	return r.verified
}

// checksumOK verifies the IPv4 header checksum and the transport checksum. It
// also refuses the other form of zero, 0xffff in IPv4 and TCP, which is correct
// but is not what Cutter would make of it.
func (s *segment) checksumOK(d []byte) bool {
	if d[0]>>4 == 4 && (fold(sumHeader(d)) != 0xffff || d[10]&d[11] == 0xff) {
		return false
	}
	t := d[s.ip:]
	if s.protocol == ProtocolTCP && t[16]&t[17] == 0xff {
		return false
	}
	return fold(sum(t, pseudoHeader(d, s.protocol, len(t)))) == 0xffff
}

// add counts a packet that was added to p, the run.
func (r *run) add(p *Packet, s *segment) {
	payload := (len(p.Data)-r.header-1)%r.seg + 1 // of the one added
	r.count++
	r.seq += uint32(payload)
	p.fixedID = r.fixedID
	r.open = !s.last && payload == r.seg
	if s.last {
		p.Data[r.ip+13] |= tcpPSH
	}
}
