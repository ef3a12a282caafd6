package dnsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/overlayd/overlayd/packet"
)

// A Stage answers queries in the packet path: the UDP datagrams sent to a virtual
// address, IPv4 or IPv6, become their answers in place, without a socket.
//
// What the in-place path does not know it hands to the server, whose answer
// follows later on the device the query came from; but only outbound. Inbound
// such a query passes, since behind the device a socket may listen on the address.
// So do fragments, superpackets, and TCP, which a client that was told of a
// truncated answer turns to: the address must lead to a listener of the server
// then.
type Stage struct {
	server *Server
	device packet.Device
	addrs  []netip.AddrPort
	free   chan *lateQuery // the places there are
	late   chan *lateQuery // queries for the general path
}

// maxLate is how many queries of a stage are on the general path at once. When
// there is no place, the answer is SERVFAIL.
const maxLate = 256

// A lateQuery is a copy of a query's packet, with room to become the answer.
type lateQuery struct {
	lane       int
	length     int // of the packet
	begin, end int // of the query in it
	from       client
	buf        [packetRoom]byte
}

// packetRoom holds the longest query read, or answer sent, over UDP, under any IP
// header.
const packetRoom = 60 + 8 + maxQuery + packet.Slack

var _ packet.Stage = (*Stage)(nil)

// NewStage makes a stage that answers at addrs. Late answers go to device, from a
// goroutine that ends with the server.
func (s *Server) NewStage(device packet.Device, addrs ...netip.AddrPort) (*Stage, error) {
	if device == nil || len(addrs) == 0 {
		return nil, errors.New("dnsd: a stage needs a device and an address")
	}
	st := &Stage{
		server: s, device: device,
		free: make(chan *lateQuery, maxLate), late: make(chan *lateQuery, maxLate),
	}
	for _, a := range addrs {
		if !a.Addr().IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Port() == 0 {
			return nil, fmt.Errorf("dnsd: stage at %v: not an address and port of one host", a)
		}
		st.addrs = append(st.addrs, plainAddr(a))
	}
	for range maxLate {
		st.free <- new(lateQuery)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("dnsd: stage: the server is closed: %w", net.ErrClosed)
	}
	for _, a := range st.addrs {
		s.self.add(a)
	}
	s.wg.Go(st.run)
	return st, nil
}

// Outbound answers the device's queries.
func (st *Stage) Outbound(b *packet.Batch) { st.each(b, true) }

// Inbound answers the peers' queries that need no more than a look.
func (st *Stage) Inbound(b *packet.Batch) { st.each(b, false) }

// each looks for the first query, so that a batch without one costs next to
// nothing.
func (st *Stage) each(b *packet.Batch, outbound bool) {
	for i := range b.Packets {
		if st.asks(&b.Packets[i]) {
			st.answer(b, i, outbound)
			return
		}
	}
}

// asks reports whether p is a datagram to one of the stage's addresses.
func (st *Stage) asks(p *packet.Packet) bool {
	if p.Protocol() != packet.ProtocolUDP {
		return false
	}
	t := p.Transport()
	if len(t) < 8 || p.Seg != 0 || p.IsFragment() || !p.Live() {
		return false
	}
	port := binary.BigEndian.Uint16(t[2:])
	for i := range st.addrs {
		if st.addrs[i].Port() == port && st.addrs[i].Addr() == p.DstAddr() {
			return true
		}
	}
	return false
}

// answer answers the queries among packets from the first on.
func (st *Stage) answer(b *packet.Batch, first int, outbound bool) {
	w := worker{server: st.server, now: st.server.clock()}
	mtu := st.device.MTU()
	for i := first; i < len(b.Packets); i++ {
		if p := &b.Packets[i]; st.asks(p) {
			st.one(&w, p, b.Lane, mtu, outbound)
		}
	}
	w.tally.flush(&st.server.counters)
}

// one answers a query. The device vouches for the checksum of what it lends, a
// peer does not.
func (st *Stage) one(w *worker, p *packet.Packet, lane, mtu int, outbound bool) {
	if !outbound && !p.ChecksumOK() {
		p.Drop(packet.BadChecksum)
		return
	}
	t := p.Transport()
	n := int(binary.BigEndian.Uint16(t[4:])) - 8
	if n < 0 || n > len(t)-8 {
		p.Drop(packet.Malformed)
		return
	}
	// The answer may fill the packet's room and the device's MTU.
	at := len(p.Data) - len(t) + 8
	room := max(min(cap(p.Data)-packet.Slack, mtu), at+n)
	buf := p.Data[at:room]
	from := client{addr: p.Src(), transport: inPath, room: min(mtu, packetRoom-packet.Slack) - at}
	length, v := w.receive(buf, n, &from)
	if v == general {
		if !outbound {
			w.tally.counts[queriesInline]-- // the server counts it
			return
		}
		if st.later(p, at, n, lane, from) {
			p.Drop(packet.Deferred)
			return
		}
		w.tally.add(droppedFull, 1)
		length, v = w.refuse(buf, n, &from, dns.RcodeServerFailure), answered
	}
	if v == ignored {
		p.Drop(packet.Filtered)
		return
	}
	if p.Reply(length) != nil {
		p.FinishChecksum()
		p.Bounce()
	}
}

// later hands a copy of a query to the general path. It is false when there is no
// place for it.
func (st *Stage) later(p *packet.Packet, at, n, lane int, from client) bool {
	if len(p.Data) > packetRoom-packet.Slack {
		return false
	}
	select {
	case q := <-st.free:
		q.lane, q.begin, q.end, q.from = lane, at, at+n, from
		q.length = copy(q.buf[:], p.Data)
		st.late <- q // there are no more queries than places
		return true
	default:
		return false
	}
}

// run starts the general path on each late query until the server ends.
func (st *Stage) run() {
	for {
		select {
		case q := <-st.late:
			st.server.wg.Go(func() {
				st.handle(q)
				st.free <- q
			})
		case <-st.server.ctx.Done():
			for _, a := range st.addrs {
				st.server.self.remove(a)
			}
			return
		}
	}
}

// handle answers a late query and writes the answer to the device.
func (st *Stage) handle(q *lateQuery) {
	s := st.server
	message := q.buf[q.begin:q.end]
	if !s.inFlight.enter(q.from.addr.Addr()) {
		s.counters.add(droppedFull, 1)
		st.write(q, s.headerReply(message, dns.RcodeServerFailure))
		return
	}
	if answer := s.admitted(message, q.from); answer != nil {
		st.write(q, answer)
	}
}

// write makes the query's packet the answer's.
func (st *Stage) write(q *lateQuery, answer []byte) {
	b := packet.Batch{Lane: q.lane, Packets: make([]packet.Packet, 0, 1)}
	end := max(min(len(q.buf), st.device.MTU()+packet.Slack), q.length)
	p := b.Append(q.buf[:q.length:end], 0)
	room := p.Reply(len(answer))
	if room == nil {
		return
	}
	copy(room, answer)
	p.FinishChecksum()
	if err := st.device.WriteBatch(&b); err != nil && !errors.Is(err, net.ErrClosed) {
		st.server.logger.Debug("dns: late answer", "device", st.device.Name(), "err", err)
	}
}

// Addrs are the addresses the stage answers at.
func (st *Stage) Addrs() []netip.AddrPort { return slices.Clone(st.addrs) }
