package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// gVisor's TCP acknowledges what it received before the program that reads it
// has run. Where the program answers at once, as in any request and response, or
// closes, the acknowledgement is then followed by a segment that says the same and
// more. It also ends a connection with a segment that says nothing else, right
// after the last data. Either costs as much as an answer: a datagram, and
// everything on its way. Without them a connection of one request takes six or
// seven segments instead of ten.

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

// maxWaitingAcks is how many acknowledgements wait at most.
const maxWaitingAcks = 16

// waitingAcks are pure acknowledgements that wait, in the order they came: while
// what was sent with them goes out, or if there is nothing else for one turn of the
// scheduler, but never for time to pass. Those of them give way that are superseded
// meanwhile.
type waitingAcks struct {
	list  [maxWaitingAcks]queued
	count int
}

// hold lets t wait if it may, and reports whether it does.
func (w *waitingAcks) hold(t queued) bool {
	if w.count == maxWaitingAcks || pureAck(&t) == nil {
		return false
	}
	w.list[w.count] = t
	w.count++
	return true
}

// giveWay drops what next supersedes, and keeps count of how many of the first due
// are left. It reports false if one has to go before next.
func (w *waitingAcks) giveWay(next *queued, due *int) bool {
	if next.pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return true
	}
	for i := 0; i < w.count; {
		switch last := &w.list[i]; {
		case !sameConnection(next, last):
			i++
		case !supersedes(next, last):
			return false
		default:
			last.pkt.DecRef()
			w.remove(i)
			if i < *due {
				*due--
			}
		}
	}
	return true
}

func (w *waitingAcks) remove(i int) {
	copy(w.list[i:], w.list[i+1:w.count])
	w.count--
	w.list[w.count] = queued{}
}

// sameConnection reports whether two segments of TCP are of one connection.
func sameConnection(a, b *queued) bool {
	h, k := header.TCP(a.pkt.TransportHeader().Slice()), header.TCP(b.pkt.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && len(k) >= header.TCPMinimumSize &&
		h.SourcePort() == k.SourcePort() && h.DestinationPort() == k.DestinationPort() &&
		a.pkt.NetworkProtocolNumber == b.pkt.NetworkProtocolNumber &&
		a.pkt.EgressRoute.RemoteAddress == b.pkt.EgressRoute.RemoteAddress &&
		a.pkt.EgressRoute.LocalAddress == b.pkt.EgressRoute.LocalAddress
}

// supersedes reports whether next, sent after last on the same connection, carries
// data or the end of it and acknowledges at least as much as last, a pure
// acknowledgement. Acknowledgements are cumulative (RFC 9293 section 3.4), so last
// says nothing then. Those that count by themselves, as duplicates, tell of missing
// segments and are not pure; where SACK was not agreed on they may be taken for
// pure ones, and what they tell of is sent again only when its time is up.
func supersedes(next, last *queued) bool {
	h := header.TCP(next.pkt.TransportHeader().Slice())
	return h.Flags()&header.TCPFlagAck != 0 &&
		(next.pkt.Data().Size() != 0 || h.Flags()&header.TCPFlagFin != 0) &&
		int32(h.AckNumber()-pureAck(last).AckNumber()) >= 0
}

// maxLookBack is how many segments back the last data of a connection is looked for.
const maxLookBack = 16

// endsWith reports whether end is a FIN without data that follows on the last
// segment of the same connection in sent, which then carries the FIN too
// (RFC 9293 section 3.10.4: the last buffer to be sent has it).
func endsWith(sent []queued, end *queued) bool {
	if end.pkt.TransportProtocolNumber != header.TCPProtocolNumber || end.pkt.Data().Size() != 0 {
		return false
	}
	fin := header.TCP(end.pkt.TransportHeader().Slice())
	if len(fin) < header.TCPMinimumSize || fin.Flags() != header.TCPFlagFin|header.TCPFlagAck {
		return false
	}
	for i := len(sent) - 1; i >= max(0, len(sent)-maxLookBack); i-- {
		last := &sent[i]
		if last.pkt.TransportProtocolNumber != header.TCPProtocolNumber || !sameConnection(end, last) {
			continue
		}
		h := header.TCP(last.pkt.TransportHeader().Slice())
		size := last.pkt.Data().Size()
		if size == 0 || h.Flags()&^header.TCPFlagPsh != header.TCPFlagAck || !last.pkt.GSOOptions.NeedsCsum ||
			h.SequenceNumber()+uint32(size) != fin.SequenceNumber() || h.AckNumber() != fin.AckNumber() {
			return false
		}
		last.fin = true
		return true
	}
	return false
}
