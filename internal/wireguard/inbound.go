package wireguard

import (
	"encoding/binary"
	"net/netip"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"golang.org/x/crypto/chacha20poly1305"
)

// An inbound takes the datagrams of one socket to the device: receive, open,
// check, merge, stages, write, each batch to its end before the next.
type inbound struct {
	engine   *Engine
	receiver receiver
	lane     int // of the device
	messages []udp.Message
	batch    *packet.Batch
	merger   *packet.Merger
	sender   *sender // for what a stage bounces
	nonce    [chacha20poly1305.NonceSize]byte
	now      int64

	// What the last datagram belonged to, so that a run costs one look-up.
	session *session     // its receiving is held
	met     *udp.Message // whose endpoint the peer was given
	arrival arrival
	source  netip.Addr
	allowed bool
}

// arrival is what came from one peer in a row, counted once.
type arrival struct {
	packets, plain, sealed uint64
	data                   bool // more than keepalives, be it accepted or not
}

func newInbound(e *Engine, r receiver) *inbound {
	lane := r.Lane() % e.config.Device.Lanes()
	in := &inbound{
		engine:   e,
		receiver: r,
		lane:     lane,
		messages: make([]udp.Message, maxReceive),
		batch:    packet.NewBatch(lane),
		merger:   packet.NewMerger(openArena),
		sender:   newSender(e, r.Lane(), packet.MaxSize+packet.BatchSize),
	}
	if d, ok := e.config.Device.(interface{ TakesUDPSegments() bool }); ok {
		in.merger.UDP = d.TakesUDPSegments()
	}
	return in
}

// run returns when the socket ends.
func (in *inbound) run() {
	in.merger.Reset(in.batch)
	for {
		n, err := in.receiver.Receive(in.messages)
		if err != nil {
			in.engine.fail("receive from the socket", err)
			return
		}
		in.process(in.messages[:n])
	}
}

func (in *inbound) process(messages []udp.Message) {
	in.now = in.engine.now()
	for i := range messages {
		in.take(&messages[i])
	}
	in.part()
	in.deliver()
	in.sender.tally.tell(in.engine)
}

// take handles one run of datagrams.
func (in *inbound) take(m *udp.Message) {
	for data := m.Data; len(data) > 0; {
		size := len(data)
		if m.Seg > 0 && m.Seg < size {
			size = m.Seg
		}
		datagram := data[:size]
		data = data[size:]
		switch messageType(datagram) {
		case typeTransport:
			in.open(datagram, m)
		case typeInitiation, typeResponse, typeCookie:
			in.engine.handshake(datagram, m.Endpoint, in.receiver.Lane())
		default:
			in.sender.tally.drop(packet.Malformed, 1)
		}
	}
}

// open decrypts one transport message (whitepaper 5.4.6).
func (in *inbound) open(datagram []byte, m *udp.Message) {
	index := binary.LittleEndian.Uint32(datagram[4:])
	if in.session == nil || in.session.local != index {
		in.part()
		s := in.engine.sessions.session(index)
		if s == nil {
			in.sender.tally.drop(packet.UnknownIndex, 1)
			return
		}
		in.meet(s)
	}
	s := in.session
	counter := transportCounter(datagram)
	sealed := datagram[sizeTransportHeader:]
	room := in.merger.Reserve(max(1, len(sealed)-sizeTag))
	if room == nil {
		in.part()
		in.deliver()
		in.meet(s)
		room = in.merger.Reserve(max(1, len(sealed)-sizeTag))
	}
	if s.receive == nil || in.now-s.created >= int64(rejectAfterTime) {
		in.merger.Cancel()
		in.sender.tally.drop(packet.Expired, 1)
		return
	}
	binary.LittleEndian.PutUint64(in.nonce[4:], counter)
	plain, err := s.receive.Open(room[:0], in.nonce[:], sealed, nil)
	if err != nil {
		in.merger.Cancel()
		in.sender.tally.drop(packet.Unauthentic, 1)
		return
	}
	if !s.window.ValidateCounter(counter, rejectAfterMessages) {
		in.merger.Cancel()
		in.sender.tally.drop(packet.Replayed, 1)
		return
	}

	in.arrival.sealed += uint64(len(datagram))
	p := s.peer
	if in.met != m {
		in.met = m
		p.setEndpoint(m.Endpoint)
	}
	if p.next.Load() == s {
		p.confirm(s, in.sender, in.now)
	}
	if len(plain) == 0 {
		in.merger.Cancel() // a keepalive
		return
	}
	in.arrival.data = true
	if m.ECN == congestionExperienced && !markCongestion(plain) {
		in.merger.Cancel()
		in.sender.tally.drop(packet.Congested, 1)
		return
	}
	in.accept(p, plain)
}

// accept adds the packet just opened to the batch if its sender may use its
// source address.
func (in *inbound) accept(p *peer, plain []byte) {
	var unpadded packet.Packet
	unpadded.Set(plain, 0)
	unpadded.Trim()
	size := len(unpadded.Data) // asked before Commit, which may write a run's header over it
	pk, merged := in.merger.Commit(len(plain))
	if pk == nil {
		in.sender.tally.drop(packet.Malformed, 1)
		return
	}
	in.arrival.packets++
	in.arrival.plain += uint64(size)
	if merged {
		return // the source is that of the run's first packet
	}
	if source := pk.SrcAddr(); source != in.source {
		owner, _ := in.engine.routes.Load().Lookup(source)
		in.source, in.allowed = source, owner == p
	}
	if !in.allowed {
		pk.Drop(packet.NotAllowed)
		in.arrival.packets--
		in.arrival.plain -= uint64(size)
	}
}

// meet begins a row of datagrams of one session.
func (in *inbound) meet(s *session) {
	s.receiving.Lock()
	in.session = s
	in.met = nil
	in.source = netip.Addr{}
	in.merger.Break()
}

// part ends it: what came is counted, and what receiving makes due is done
// (whitepaper 6.2).
func (in *inbound) part() {
	s := in.session
	if s == nil {
		return
	}
	in.session = nil
	s.receiving.Unlock()
	a := in.arrival
	in.arrival = arrival{}
	if a.sealed == 0 {
		return
	}
	p := s.peer
	p.rxBytes.Add(a.sealed)
	if a.packets > 0 {
		p.rxPackets.Add(a.packets)
		in.sender.tally.rxPackets += a.packets
		in.sender.tally.rxBytes += a.plain
	}
	p.heard(in.now, a.data)
	if s.ageing(in.now) && s.renewed.CompareAndSwap(false, true) {
		p.requestInitiation(in.now)
	}
}

// deliver passes the batch through the stages to the device.
func (in *inbound) deliver() {
	e := in.engine
	in.merger.Flush()
	if len(in.batch.Packets) == 0 {
		return
	}
	in.batch.Lane = in.lane
	in.batch.Sweep()
	lane := &e.lanes[in.lane]
	lane.Lock() // the two families' sockets share a lane
	e.config.Stages.Inbound(in.batch)
	lane.Unlock()
	in.sender.tally.stages(in.batch)
	in.sender.tally.tell(e) // before anyone can see the packets
	if len(in.batch.Packets) > 0 {
		if err := e.config.Device.WriteBatch(in.batch); err != nil {
			e.fail("write to the device", err)
		}
		in.batch.TakeDrops(in.sender.tally.drop)
	}
	if bounced := in.batch.Bounced(); len(bounced) > 0 {
		in.sender.route(bounced)
	}
	in.merger.Reset(in.batch)
}

const congestionExperienced = 3

// markCongestion carries a mark that the network put on the datagram over to
// the packet inside (RFC 6040 section 4.2). It reports false when the packet
// does not speak ECN, so that dropping it is the only way to say it.
func markCongestion(plain []byte) bool {
	ecn := congestion(plain)
	switch {
	case len(plain) < 20:
		return true // the merger refuses it
	case ecn == 0:
		return false
	case ecn == congestionExperienced:
		return true
	}
	if plain[0]>>4 == 6 {
		plain[1] |= congestionExperienced << 4
		return true
	}
	marked := [2]byte{plain[0], plain[1] | congestionExperienced}
	packet.Rewrite(plain[:2], marked[:], plain[10:12])
	return true
}
