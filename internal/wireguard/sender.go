package wireguard

import (
	"encoding/binary"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"golang.org/x/crypto/chacha20poly1305"
)

// A sender seals packets into a fixed arena, side by side, and hands runs of
// equal datagrams to the socket. It belongs to one goroutine.
type sender struct {
	engine   *Engine
	lane     int
	mtu      int // for padding; of the device, read once a flow
	arena    []byte
	used     int
	messages []udp.Message
	targets  []target      // of the messages
	lastTo   *udp.Endpoint // of the last message, while it can take another datagram
	cutter   packet.Cutter
	nonce    [chacha20poly1305.NonceSize]byte
	tally    tally
	flow     flow
	errors   *allowance // of ICMP errors to the device; nil: none are sent
}

// A target is whom a message goes to, and where that was at the time.
type target struct {
	peer     *peer
	endpoint *udp.Endpoint
}

func newSender(e *Engine, lane, arena int) *sender {
	return &sender{
		engine:   e,
		lane:     lane,
		arena:    make([]byte, arena),
		messages: make([]udp.Message, 0, maxRuns),
		targets:  make([]target, 0, maxRuns),
	}
}

// A flow is packets of one batch to one peer: what is looked up, locked and
// counted once for all of them.
type flow struct {
	sender   *sender
	peer     *peer
	session  *session
	endpoint *udp.Endpoint
	now      int64
	packets  uint64
	plain    uint64 // bytes of packets
	sealed   uint64 // bytes of datagrams
}

// begin holds the session for sealing until end.
func (w *sender) begin(p *peer, s *session, now int64) *flow {
	s.sending.RLock()
	w.mtu = w.engine.config.Device.MTU()
	w.flow = flow{sender: w, peer: p, session: s, endpoint: p.endpoint.Load(), now: now}
	return &w.flow
}

// send seals pk, every segment of it, and queues it for the next flush.
func (f *flow) send(pk *packet.Packet) {
	w := f.sender
	switch {
	case f.endpoint == nil:
		w.tally.drop(packet.NoEndpoint, 1)
		return
	case f.session.send == nil:
		w.tally.drop(packet.Expired, 1)
		return
	}
	ecn := congestion(pk.Data)
	if err := w.cutter.Start(pk); err != nil {
		w.tally.drop(packet.Malformed, 1)
		return
	}
	for segment := w.cutter.Next(); segment != nil; segment = w.cutter.Next() {
		f.packets++
		f.plain += uint64(len(segment))
		w.seal(f, segment, ecn)
	}
}

// end counts what was sent, and does what sending makes due (whitepaper 6.2).
func (f *flow) end() {
	p, s, w := f.peer, f.session, f.sender
	s.sending.RUnlock()
	if f.sealed == 0 {
		return
	}
	p.txBytes.Add(f.sealed)
	if f.packets > 0 {
		p.txPackets.Add(f.packets)
		w.tally.txPackets += f.packets
		w.tally.txBytes += f.plain
	}
	p.sent(f.now, f.packets > 0)
	if s.stale(f.now) {
		p.requestInitiation(f.now)
	}
	f.sealed = 0
}

// seal encrypts one packet, or a keepalive when plain is empty, into the arena.
// plain may be anywhere: what needs no padding is read where it is.
func (w *sender) seal(f *flow, plain []byte, ecn byte) {
	s := f.session
	padded := paddedSize(len(plain), w.mtu)
	size := sizeTransportHeader + padded + sizeTag
	if w.used+size > len(w.arena) || len(w.messages) == cap(w.messages) {
		w.flush()
	}
	counter := s.counter.Add(1) - 1
	if counter >= rejectAfterMessages {
		s.counter.Store(rejectAfterMessages) // so that it never comes to 0 again
		w.tally.drop(packet.Expired, 1)
		return
	}
	out := w.arena[w.used : w.used+size : w.used+size]
	putTransportHeader(out, s.remote, counter)
	if padded != len(plain) {
		body := out[sizeTransportHeader : sizeTransportHeader+padded]
		clear(body[copy(body, plain):])
		plain = body
	}
	binary.LittleEndian.PutUint64(w.nonce[4:], counter)
	s.send.Seal(out[:sizeTransportHeader], w.nonce[:], plain, nil)
	w.used += size
	f.sealed += uint64(size)
	w.enqueue(out, f, ecn)
}

// enqueue adds a datagram, which lies at the end of the arena, to the last run
// if it belongs there.
func (w *sender) enqueue(datagram []byte, f *flow, ecn byte) {
	to := f.endpoint
	if w.lastTo == to {
		last := &w.messages[len(w.messages)-1]
		if last.ECN == ecn && len(datagram) <= last.Seg {
			last.Data = last.Data[:len(last.Data)+len(datagram)]
			if len(datagram) < last.Seg {
				w.lastTo = nil // only a run's last datagram may be short
			}
			return
		}
	}
	start := w.used - len(datagram)
	w.messages = append(w.messages, udp.Message{
		Data:     w.arena[start:w.used],
		Seg:      len(datagram),
		Endpoint: *to,
		ECN:      ecn,
	})
	w.targets = append(w.targets, target{f.peer, to})
	w.lastTo = to
}

// flush sends what is queued.
func (w *sender) flush() {
	if len(w.messages) == 0 {
		return
	}
	if _, err := w.engine.transport.Send(w.lane, w.messages); err != nil {
		w.engine.sendFailed(err)
		for i := range w.messages {
			if m := &w.messages[i]; m.Err != nil {
				w.tally.drop(packet.SendFailed, uint64((len(m.Data)+m.Seg-1)/m.Seg))
			}
		}
	}
	for i, t := range w.targets {
		if t.endpoint.Src.IsValid() && !w.messages[i].Endpoint.Src.IsValid() {
			t.peer.sourceGone(t.endpoint)
		}
	}
	clear(w.targets)
	w.targets = w.targets[:0]
	w.messages = w.messages[:0]
	w.lastTo = nil
	w.used = 0
}

// paddedSize is the length of a plaintext with its padding: up to the next
// multiple of 16, but never over the MTU (whitepaper 5.4.6; wireguard-go's
// calculatePaddingSize).
func paddedSize(size, mtu int) int {
	if mtu <= 0 {
		return (size + paddingMultiple - 1) &^ (paddingMultiple - 1)
	}
	last := size
	if last > mtu {
		last %= mtu
	}
	padded := min((last+paddingMultiple-1)&^(paddingMultiple-1), mtu)
	return size - last + padded
}

// congestion is the inner packet's ECN field, which the datagram that carries
// it shows too (RFC 6040 section 4.1, normal mode).
func congestion(data []byte) byte {
	if len(data) < 20 {
		return 0
	}
	if data[0]>>4 == 6 {
		return data[1] >> 4 & 3
	}
	return data[1] & 3
}

// tally is what one goroutine counted since it last told the engine.
type tally struct {
	rxPackets, rxBytes, txPackets, txBytes, bounces uint64
	drops                                           [packet.NumReasons]uint64
	dropped                                         bool
}

func (t *tally) drop(why packet.Reason, n uint64) {
	t.drops[why] += n
	t.dropped = true
}

// stages counts what the stages did with b.
func (t *tally) stages(b *packet.Batch) {
	t.bounces += uint64(len(b.Bounced()))
	b.TakeDrops(t.drop)
}

// tell adds t to the engine's counters and empties it.
func (t *tally) tell(e *Engine) {
	if !t.dropped && t.rxPackets|t.txPackets|t.bounces == 0 {
		return
	}
	add := func(to interface{ Add(uint64) uint64 }, n uint64) {
		if n != 0 {
			to.Add(n)
		}
	}
	add(&e.rxPackets, t.rxPackets)
	add(&e.rxBytes, t.rxBytes)
	add(&e.txPackets, t.txPackets)
	add(&e.txBytes, t.txBytes)
	add(&e.bounces, t.bounces)
	if t.dropped {
		for why, n := range t.drops {
			add(&e.drops[why], n)
		}
	}
	*t = tally{}
}
