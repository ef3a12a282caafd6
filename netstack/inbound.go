package netstack

import (
	"github.com/overlayd/overlayd/packet"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// deliver hands one packet to the protocols.
func (s *Stack) deliver(p *packet.Packet) {
	switch {
	case p.Version() == 0 || martian(p) || lowersTooFar(p):
		p.Drop(packet.Malformed)
	case p.Seg != 0 && p.Protocol() == packet.ProtocolUDP:
		s.deliverDatagrams(p)
	default:
		s.handle(p, p.Seg != 0)
	}
}

// deliverDatagrams takes a superpacket of UDP apart: every datagram is a message
// of its own to whoever reads it.
func (s *Stack) deliverDatagrams(p *packet.Packet) {
	var c packet.Cutter
	if c.Start(p) != nil {
		p.Drop(packet.Malformed)
		return
	}
	for d := c.Next(); d != nil; d = c.Next() {
		var one packet.Packet
		one.Set(d, 0)
		s.handle(&one, true)
	}
}

// handle has a copy of p processed. The network endpoint is called directly rather
// than through its interface, which would give one answer for all packets to the
// question whether checksums are verified: those of a superpacket were when it was
// merged.
func (s *Stack) handle(p *packet.Packet, verified bool) {
	if s.deliverSegment(p, verified) {
		return
	}
	in := s.in4
	if p.Version() == 6 {
		in = s.in6
	}
	pkt := newPacketBuffer(p, verified)
	in.HandlePacket(pkt)
	pkt.DecRef()
}

// newPacketBuffer copies p.
func newPacketBuffer(p *packet.Packet, verified bool) *stack.PacketBuffer {
	// The headers lie apart from the payload, because gVisor copies the memory a
	// header lies in, all of it, whenever the packet has a clone.
	headers := headerSize(p)
	payload := buffer.MakeWithView(buffer.NewViewWithData(p.Data[:headers]))
	if headers < len(p.Data) {
		payload.Append(buffer.NewViewWithData(p.Data[headers:]))
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	pkt.RXChecksumValidated = verified
	return pkt
}

// headerSize is how many bytes at the beginning of p are headers, or all of p if
// that cannot be told.
func headerSize(p *packet.Packet) int {
	t := p.Transport()
	size := len(p.Data) - len(t)
	switch {
	case p.Protocol() == packet.ProtocolTCP && len(t) >= header.TCPMinimumSize:
		size += int(header.TCP(t).DataOffset())
	case p.Protocol() == packet.ProtocolUDP:
		size += header.UDPMinimumSize
	default:
		return len(p.Data)
	}
	return min(size, len(p.Data))
}

// martian reports whether p is from or to a loopback address, which no packet
// outside a host may be (RFC 1122 section 3.2.1.3). gVisor drops those too, but
// writes to standard error about it.
func martian(p *packet.Packet) bool {
	return p.SrcAddr().IsLoopback() || p.DstAddr().IsLoopback()
}

// minPathMTU is the smallest path MTU that an IPv4 message is believed: Linux's
// ip_rt_min_pmtu (RFC 1191 section 3 would go down to 68).
const minPathMTU = 552

// lowersTooFar reports whether p says that a packet was too big for an MTU that
// no path of today has. gVisor believes any, and a connection would then send in
// segments of a single byte. RFC 8201 section 4 has such messages discarded.
func lowersTooFar(p *packet.Packet) bool {
	switch p.Protocol() {
	case packet.ProtocolICMP:
		h := header.ICMPv4(p.Transport())
		return len(h) >= header.ICMPv4MinimumSize && h.Type() == header.ICMPv4DstUnreachable &&
			h.Code() == header.ICMPv4FragmentationNeeded && h.MTU() < minPathMTU
	case packet.ProtocolICMPv6:
		h := header.ICMPv6(p.Transport())
		return len(h) >= header.ICMPv6MinimumSize && h.Type() == header.ICMPv6PacketTooBig && h.MTU() < minMTU6
	}
	return false
}
