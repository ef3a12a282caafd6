package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// gVisor's TCP acknowledges what it received before the program that reads it
// has run. Where the program answers at once, as in any request and response, or
// closes, the acknowledgement is then followed by a segment that says the same and
// more.
// It costs as much as the answer: a datagram, and everything on its way.

// The longest header of a pure acknowledgement that may be superseded: IPv6, TCP
// and timestamps. One with SACK blocks is longer.
const pureAckSize = header.IPv6MinimumSize + header.TCPMinimumSize + 12

// pureAck returns the TCP header of a packet that only acknowledges, with nothing
// about segments that are missing; otherwise nil.
func pureAck(t *queued) header.TCP {
	if t.size > pureAckSize || t.pkt.TransportProtocolNumber != header.TCPProtocolNumber || t.pkt.Data().Size() != 0 {
		return nil
	}
	h := header.TCP(t.pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags() != header.TCPFlagAck {
		return nil
	}
	if options := h.Options(); len(options) != 0 && (len(options) != 12 || binary.BigEndian.Uint32(options) != 0x0101080a) {
		return nil
	}
	return h
}

// supersedes reports whether next, sent right after last, carries data or the end
// of it on the same connection and acknowledges at least as much as last, which does nothing
// else. Acknowledgements are cumulative (RFC 9293 section 3.4), so last says
// nothing then. Those that count by themselves, as duplicates, tell of missing
// segments and are not pure; where SACK was not agreed on they may be taken for
// pure ones, and fast retransmission waits for the next.
func supersedes(next, last *queued) bool {
	p := next.pkt
	if p.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	ack := pureAck(last)
	if ack == nil || p.NetworkProtocolNumber != last.pkt.NetworkProtocolNumber {
		return false
	}
	h := header.TCP(p.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && h.Flags()&header.TCPFlagAck != 0 &&
		(p.Data().Size() != 0 || h.Flags()&header.TCPFlagFin != 0) &&
		h.SourcePort() == ack.SourcePort() && h.DestinationPort() == ack.DestinationPort() &&
		int32(h.AckNumber()-ack.AckNumber()) >= 0 &&
		p.EgressRoute.RemoteAddress == last.pkt.EgressRoute.RemoteAddress &&
		p.EgressRoute.LocalAddress == last.pkt.EgressRoute.LocalAddress
}
