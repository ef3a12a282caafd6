package packet

import (
	"encoding/binary"
	"net/netip"
)

// MaxSize is the largest IP packet or superpacket in bytes, header included: an
// IPv4 total length has 16 bits (RFC 791 section 3.1), and an IPv6 packet
// without a jumbo payload is kept to the same figure.
const MaxSize = 65535

// Slack is how many bytes past its end a device leaves free behind every packet
// it lends, so that padding before encryption happens in place.
const Slack = 16

// IP protocol numbers the data path looks at.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
	protocolNone   = 59
)

// A Packet is one IP packet, or a superpacket: one header and the payload of
// many segments of one flow.
//
// Data is borrowed from whoever filled the batch and is valid only as long as
// its lender says. A stage may write into it, shorten it, or grow it into its
// capacity; it may not keep it.
type Packet struct {
	// Data starts at the IP header.
	Data []byte
	// Seg is the payload bytes of each segment of a superpacket, the last one
	// excepted, which may be shorter; 0 means an ordinary packet. The IP length,
	// and the transport checksum, of a superpacket are those of the whole and are
	// not meant for the wire: Cutter computes each segment's own.
	Seg uint16

	transport uint16 // offset of the transport header in Data; 0: there is none
	protocol  uint8
	parsed    bool
	fragment  bool // any fragment, the first included
	routed    bool // an IPv6 routing header has segments left, so the destination is not the final one
	fixedID   bool // the segments of a superpacket share one IPv4 identification
	fate      fate
	reason    Reason
}

type fate uint8

const (
	alive fate = iota
	dropped
	bounced
)

// Set makes p a new, live packet over data.
func (p *Packet) Set(data []byte, seg uint16) {
	*p = Packet{Data: data, Seg: seg}
}

// Version is 4 or 6, or 0 when Data does not begin with a whole IP header.
func (p *Packet) Version() int {
	if len(p.Data) >= 20 && p.Data[0]>>4 == 4 {
		return 4
	}
	if len(p.Data) >= 40 && p.Data[0]>>4 == 6 {
		return 6
	}
	return 0
}

// Protocol is the transport protocol's IP number, past any IPv6 extension
// headers; 0 when the headers are malformed.
func (p *Packet) Protocol() uint8 {
	p.parse()
	return p.protocol
}

// Transport returns the transport header and what follows it, or nil when there
// is none to be read: a malformed packet, or a fragment that is not the first.
func (p *Packet) Transport() []byte {
	p.parse()
	if p.transport == 0 || int(p.transport) > len(p.Data) {
		return nil
	}
	return p.Data[p.transport:]
}

// IsFragment reports whether p is a fragment, the first included.
func (p *Packet) IsFragment() bool {
	p.parse()
	return p.fragment
}

// SrcAddr is the source address, or the zero Addr when there is no IP header.
func (p *Packet) SrcAddr() netip.Addr {
	switch p.Version() {
	case 4:
		return netip.AddrFrom4([4]byte(p.Data[12:16]))
	case 6:
		return netip.AddrFrom16([16]byte(p.Data[8:24]))
	}
	return netip.Addr{}
}

// DstAddr is the destination address, or the zero Addr when there is no IP header.
func (p *Packet) DstAddr() netip.Addr {
	switch p.Version() {
	case 4:
		return netip.AddrFrom4([4]byte(p.Data[16:20]))
	case 6:
		return netip.AddrFrom16([16]byte(p.Data[24:40]))
	}
	return netip.Addr{}
}

// Src is the source address and, for TCP and UDP, the source port.
func (p *Packet) Src() netip.AddrPort { return netip.AddrPortFrom(p.SrcAddr(), p.port(0)) }

// Dst is the destination address and, for TCP and UDP, the destination port.
func (p *Packet) Dst() netip.AddrPort { return netip.AddrPortFrom(p.DstAddr(), p.port(2)) }

func (p *Packet) port(at int) uint16 {
	t := p.Transport()
	if len(t) < 4 || (p.protocol != ProtocolTCP && p.protocol != ProtocolUDP) {
		return 0
	}
	return binary.BigEndian.Uint16(t[at:])
}

// Drop ends p's way here. The first reason stands.
func (p *Packet) Drop(why Reason) {
	if p.fate != dropped {
		p.fate, p.reason = dropped, why
	}
}

// Bounce sends p back to where it was read from: outbound to the device,
// inbound to the peer. It is how an answer written over the packet that asked
// for it gets home. A dropped packet stays dropped.
func (p *Packet) Bounce() {
	if p.fate == alive {
		p.fate = bounced
	}
}

// Live reports whether p was neither dropped nor bounced.
func (p *Packet) Live() bool { return p.fate == alive }
