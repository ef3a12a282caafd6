package netstack

import (
	"encoding/binary"
	"net/netip"

	"github.com/overlayd/overlayd/packet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// tcpSegments is what TCP takes the segments of its connections by.
type tcpSegments interface {
	QueuePacket(ep stack.TransportEndpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer)
}

// ownAddrs are the stack's addresses, for looking them up.
type ownAddrs map[netip.Addr]struct{}

func (own ownAddrs) has(a netip.Addr) bool {
	_, ok := own[a]
	return ok
}

// deliverSegment hands p to its TCP connection, if it is a segment of one that was
// begun, and reports whether it was. Whatever else it may be, the network endpoint
// finds out. What that does for every packet, such as copying an IPv6 packet to look
// for extension headers and taking its locks to look for broadcast addresses, would
// cost as much as the connection itself has to do for an acknowledgement.
func (s *Stack) deliverSegment(p *packet.Packet, verified bool) bool {
	d, t := p.Data, p.Transport()
	network := len(d) - len(t)
	if p.Protocol() != packet.ProtocolTCP || len(t) < header.TCPMinimumSize {
		return false
	}
	transport := int(header.TCP(t).DataOffset())
	if transport < header.TCPMinimumSize || transport > len(t) {
		return false
	}
	var id stack.TransportEndpointID
	protocol := ipv4.ProtocolNumber
	switch {
	case p.Version() == 4 && network == header.IPv4MinimumSize:
		h := header.IPv4(d)
		if p.IsFragment() || int(h.TotalLength()) != len(d) || !verified && !h.IsChecksumValid() {
			return false
		}
		id.LocalAddress, id.RemoteAddress = h.DestinationAddress(), h.SourceAddress()
	case p.Version() == 6 && network == header.IPv6MinimumSize:
		h := header.IPv6(d)
		if network+int(h.PayloadLength()) != len(d) {
			return false
		}
		protocol = ipv6.ProtocolNumber
		id.LocalAddress, id.RemoteAddress = h.DestinationAddress(), h.SourceAddress()
	default:
		return false
	}
	own := *s.own.Load()
	if !own.has(p.DstAddr()) || own.has(p.SrcAddr()) {
		return false
	}
	id.RemotePort, id.LocalPort = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	ep, ok := s.ip.FindTransportEndpoint(protocol, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	if !ok || !begun(ep.EndpointState()) {
		return false
	}
	pkt := newPacketBuffer(p, verified)
	defer pkt.DecRef()
	pkt.NICID = nicID
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = protocol, tcp.ProtocolNumber
	pkt.NetworkHeader().Consume(network)
	pkt.TransportHeader().Consume(transport)
	s.segments.QueuePacket(ep, id, pkt)
	return true
}

// begun reports whether an endpoint is one of a connection, which is only found by
// both its addresses and ports.
func begun(state tcp.EndpointState) bool {
	switch state {
	case tcp.StateSynSent, tcp.StateSynRecv, tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2,
		tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait:
		return true
	}
	return false
}
