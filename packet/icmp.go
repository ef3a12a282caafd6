package packet

import (
	"encoding/binary"
	"net/netip"
)

// ICMP (RFC 792) and ICMPv6 (RFC 4443) message types.
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpTimestamp    = 13 // the first of the other queries and replies to them
	icmpAddressReply = 18 // the last of those

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Echo         = 128 // below are errors
	icmp6EchoReply    = 129
	icmp6Redirect     = 137

	icmpHeader = 8

	icmpFragmentationNeeded = 4    // code of icmpUnreachable
	internetworkControl     = 0xc0 // precedence of ICMP errors (RFC 1812 section 4.3.2.5)
)

// How long an ICMP error with its quotation may be: RFC 1812 section 4.3.2.3, RFC
// 4443 section 2.4 c.
const (
	icmpErrorSize  = 576
	icmp6ErrorSize = 1280
)

// A Code says why a destination is unreachable, in either family.
type Code uint8

const (
	NoRoute         Code = iota // no route to the network
	HostUnreachable             // the address is not reachable
	PortUnreachable             // nobody listens there
	Prohibited                  // refused by policy
)

// Codes of ICMP's (RFC 1812 section 5.2.7.1) and ICMPv6's destination unreachable.
var icmpCodes = [...][2]uint8{
	NoRoute:         {0, 0},
	HostUnreachable: {1, 3},
	PortUnreachable: {3, 4},
	Prohibited:      {13, 1},
}

// Unreachable answers p with an ICMP error that its destination is unreachable,
// and bounces it. from is who says so, an address of p's family.
//
// An error quotes the beginning of p. It is about the first segment of a
// superpacket. No error is written, and p is dropped with NoReply, about an ICMP
// error, a fragment that is not the first, a malformed packet, or one whose source
// is not one single host or whose destination is a group or all hosts (RFC 1122
// section 3.2.2, RFC 4443 section 2.4 e); nor when Data has no capacity for it. How
// many errors are sent in a second is for the caller to bound (RFC 4443 section
// 2.4 f).
func (p *Packet) Unreachable(from netip.Addr, code Code) {
	codes := icmpCodes[min(int(code), len(icmpCodes)-1)]
	if p.Version() == 4 {
		p.fail(from, icmpUnreachable, codes[0], 0)
	} else {
		p.fail(from, icmp6Unreachable, codes[1], 0)
	}
}

// TooBig answers p with the MTU of the next hop, by ICMP's fragmentation needed
// (RFC 1191 section 4) or ICMPv6's packet too big, and bounces it, as Unreachable
// does. Whether an IPv4 packet may be fragmented is for the caller to ask. ICMPv6's
// is also sent about a packet to a group (RFC 4443 section 2.4 e.3).
func (p *Packet) TooBig(from netip.Addr, mtu int) {
	mtu = min(max(mtu, 0), MaxSize)
	if p.Version() == 4 {
		p.fail(from, icmpUnreachable, icmpFragmentationNeeded, uint32(mtu))
	} else {
		p.fail(from, icmp6TooBig, 0, uint32(mtu))
	}
}

// HopLimit answers p with an ICMP error that its time to live ran out on the way,
// and bounces it, as Unreachable does.
func (p *Packet) HopLimit(from netip.Addr) {
	if p.Version() == 4 {
		p.fail(from, icmpTimeExceeded, 0, 0)
	} else {
		p.fail(from, icmp6TimeExceeded, 0, 0)
	}
}

// fail writes an ICMP error over p and bounces it, or drops p.
func (p *Packet) fail(from netip.Addr, kind, code uint8, info uint32) {
	if !p.mayFail(from, kind) {
		p.Drop(NoReply)
		return
	}
	ip, limit, protocol := ipv4Header, icmpErrorSize, uint8(ProtocolICMP)
	if p.Version() == 6 {
		ip, limit, protocol = ipv6Header, icmp6ErrorSize, ProtocolICMPv6
	}
	room := p.room()
	p.firstSegment()
	quoted := min(len(p.Data), min(limit, room)-ip-icmpHeader)
	if quoted < min(len(p.Data), int(p.transport)+8) {
		p.Drop(NoReply)
		return
	}

	to := p.SrcAddr()
	d := p.Data[:ip+icmpHeader+quoted]
	copy(d[ip+icmpHeader:], p.Data[:quoted])
	t := d[ip:]
	t[0], t[1], t[2], t[3] = kind, code, 0, 0
	binary.BigEndian.PutUint32(t[4:], info)
	p.Set(d, 0)
	if ip == ipv4Header {
		writeIPv4(d, internetworkControl, protocol, from, to)
	} else {
		writeIPv6(d, 0, protocol, from, to)
	}
	p.FinishChecksum()
	p.Bounce()
}

// mayFail reports whether an ICMP error of that kind about p may be sent.
func (p *Packet) mayFail(from netip.Addr, kind uint8) bool {
	t := p.Transport()
	if !p.Live() || t == nil || !oneHost(p.SrcAddr()) || !oneHost(from) {
		return false
	}
	if p.Version() == 4 {
		if !from.Is4() || !oneHost(p.DstAddr()) {
			return false
		}
		if p.protocol != ProtocolICMP {
			return true
		}
		return len(t) > 0 && (t[0] == icmpEchoReply || t[0] == icmpEcho ||
			t[0] >= icmpTimestamp && t[0] <= icmpAddressReply)
	}
	if !from.Is6() || !oneHost(p.DstAddr()) && (kind != icmp6TooBig || !p.DstAddr().IsMulticast()) {
		return false
	}
	if p.protocol != ProtocolICMPv6 {
		return true
	}
	return len(t) > 0 && t[0] >= icmp6Echo && t[0] != icmp6Redirect
}

// firstSegment shortens a superpacket to its first segment, whose transport
// checksum stays unfinished.
func (p *Packet) firstSegment() {
	t := p.Transport()
	header := 8
	if p.protocol == ProtocolTCP && len(t) >= 20 {
		header = int(t[12]>>4) * 4
	}
	if size := int(p.transport) + header + int(p.Seg); p.Seg != 0 && size < len(p.Data) {
		p.Data, p.Seg = p.Data[:size], 0
		p.setLengths()
	}
}
