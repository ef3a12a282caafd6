package wireguard

import (
	"time"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"golang.zx2c4.com/wireguard/tai64n"
)

// A handshakeMessage is a copy of a datagram that a socket's goroutine passed on
// to a worker, so that Diffie-Hellman never delays a packet.
type handshakeMessage struct {
	from udp.Endpoint
	lane int
	size int
	data [sizeInitiation]byte
}

// handshake queues a handshake message for a worker, or drops it when there are
// too many.
func (e *Engine) handshake(datagram []byte, from udp.Endpoint, lane int) {
	if !e.load.arrive() {
		e.drops[packet.Overloaded].Add(1)
		return
	}
	m := handshakeMessage{from: from, lane: lane, size: len(datagram)}
	copy(m.data[:], datagram)
	e.handshakes <- m // has room for as many as arrive lets in
}

// work does what the lanes must not wait for.
func (e *Engine) work() {
	w := newSender(e, 0, packet.MaxSize+packet.BatchSize)
	for {
		select {
		case <-e.closing:
			return
		case m := <-e.handshakes:
			e.answer(&m, w)
			e.load.done()
		case p := <-e.initiations:
			p.initiationQueued.Store(false)
			p.mu.Lock()
			p.initiate(e.now(), false)
			p.mu.Unlock()
		}
		w.tally.tell(e)
	}
}

// answer handles one handshake message. Whatever is wrong with it is met with
// silence (whitepaper 5.1).
func (e *Engine) answer(m *handshakeMessage, w *sender) {
	data := m.data[:m.size]
	kind := messageType(data)
	if kind == typeCookie {
		e.takeCookie(data)
		return
	}
	if !e.cookies.checkMAC1(data) {
		e.drops[packet.Unauthentic].Add(1)
		return
	}
	if e.load.under(time.Now()) {
		// A claimed source has to be proved before it is worth a Diffie-Hellman,
		// and is then held to a rate (whitepaper 5.3, 5.4.7).
		if !e.cookies.checkMAC2(data, m.from.Addr) {
			reply := e.cookies.reply(data, senderIndex(data), m.from.Addr)
			e.sendHandshake(m.lane, reply[:], m.from)
			e.drops[packet.Overloaded].Add(1)
			return
		}
		if !e.limiter.allow(m.from.Addr.Addr(), time.Now()) {
			e.drops[packet.Overloaded].Add(1)
			return
		}
	}
	ok := false
	if kind == typeInitiation {
		ok = e.answerInitiation(m, data)
	} else {
		ok = e.answerResponse(m, data, w)
	}
	if !ok {
		e.drops[packet.Unauthentic].Add(1)
	}
}

// takeCookie keeps the cookie that answers an initiation, or a response, whose
// session may have begun.
func (e *Engine) takeCookie(data []byte) {
	index := receiverIndex(data)
	p := e.sessions.initiating(index)
	if s := e.sessions.session(index); p == nil && s != nil {
		p = s.peer
	}
	switch {
	case p == nil:
		e.drops[packet.UnknownIndex].Add(1)
	case !p.cookies.consumeReply(data):
		e.drops[packet.Unauthentic].Add(1)
	default:
		p.rxBytes.Add(uint64(len(data)))
	}
}

// answerInitiation is the responder's half of a handshake (whitepaper 5.4.2, 5.4.3).
func (e *Engine) answerInitiation(m *handshakeMessage, data []byte) bool {
	hs, err := e.identity.receive(data)
	if err != nil {
		return false
	}
	defer hs.wipe()
	p := e.peer(hs.peer)
	if p == nil {
		return false
	}
	now := e.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed || !hs.timestamp.After(p.lastTimestamp) {
		return false
	}
	if p.initiationSeen != 0 && now-p.initiationSeen < int64(initiationInterval) {
		return false
	}
	p.know()
	p.lastTimestamp = hs.timestamp
	p.initiationSeen = now
	p.setEndpoint(m.from)
	p.rxBytes.Add(uint64(len(data)))
	p.heard(now, false)

	index := e.sessions.reserve(p)
	response, keys, err := hs.respond(p.presharedKey, index)
	if err != nil {
		e.sessions.release(index)
		return false
	}
	defer keys.wipe()
	s, err := newSession(p, &keys, index, hs.remoteIndex, false, now)
	if err != nil {
		e.sessions.release(index)
		e.config.Logger.Error("cannot make a session", "peer", p.name(), "error", err)
		return true
	}
	e.sessions.establish(s)
	p.adopt(s)
	p.wake(now + int64(forgetKeysAfter))
	p.cookies.addMACs(response[:])
	p.sendHandshake(m.lane, response[:], now)
	p.quietUntil.Store(now + int64(rekeyTimeout))
	return true
}

// answerResponse is the end of the initiator's half (whitepaper 5.4.3, 5.4.5).
func (e *Engine) answerResponse(m *handshakeMessage, data []byte, w *sender) bool {
	index := receiverIndex(data)
	p := e.sessions.initiating(index)
	if p == nil {
		return false
	}
	now := e.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed || p.initiation == nil || p.initiationIndex != index {
		return false
	}
	keys, remote, err := p.initiation.finish(data)
	if err != nil {
		return false
	}
	defer keys.wipe()
	s, err := newSession(p, &keys, index, remote, true, now)
	if err != nil {
		e.config.Logger.Error("cannot make a session", "peer", p.name(), "error", err)
		return true
	}
	p.initiation.wipe()
	p.initiation, p.initiationIndex = nil, 0
	p.setEndpoint(m.from)
	p.rxBytes.Add(uint64(len(data)))
	p.heard(now, false)
	p.handshakeComplete()

	// The responder may only send after it has heard from us, so there is always
	// a first packet: one that waited, or a keepalive. What it answers names the
	// session, which must be found by then.
	e.sessions.establish(s)
	if !p.flushStaged(s, w) {
		e.keepalive(p, s, w)
	}
	p.adopt(s)
	p.wake(now + int64(forgetKeysAfter))
	return true
}

// requestInitiation asks a worker to begin a handshake with p, unless one was
// begun just now.
func (p *peer) requestInitiation(now int64) {
	if now < p.quietUntil.Load() || !p.initiationQueued.CompareAndSwap(false, true) {
		return
	}
	select {
	case p.engine.initiations <- p:
	default:
		p.initiationQueued.Store(false)
	}
}

// initiate begins a handshake, at most one each rekeyTimeout (whitepaper 6.1,
// 6.4). Call with mu held.
func (p *peer) initiate(now int64, retry bool) {
	e := p.engine
	if !retry {
		p.attempts = 0
	}
	if p.removed || now < p.quietUntil.Load() {
		return
	}
	if p.endpoint.Load() == nil {
		e.drops[packet.NoEndpoint].Add(uint64(len(p.unstage())))
		return
	}
	p.quietUntil.Store(now + int64(rekeyTimeout)) // whether or not it succeeds
	p.dropInitiation()
	p.know()
	index := e.sessions.reserve(p)
	message, hs, err := e.identity.initiate(p.key, p.presharedKey, index, tai64n.Now())
	if err != nil {
		e.sessions.release(index)
		e.config.Logger.Error("cannot begin a handshake", "peer", p.name(), "error", err)
		return
	}
	p.initiation, p.initiationIndex = hs, index
	p.cookies.addMACs(message[:])
	p.sendHandshake(0, message[:], now)
	p.retryAt = now + int64(rekeyTimeout) + jitter()
	p.wake(p.retryAt)
}

// know computes, at the first handshake, the secret that all handshakes with p
// share. Where that fails the handshake itself says why. Call with mu held.
func (p *peer) know() {
	if !p.known {
		p.known = p.engine.identity.know(p.key) == nil
	}
}

// sendKeepalive sends an empty message if there is a session to send it on, and
// begins a handshake otherwise. Call with mu held.
func (p *peer) sendKeepalive(now int64) {
	s := p.current.Load()
	if !s.usable(now) {
		p.initiate(now, false)
		return
	}
	e := p.engine
	e.control.Lock()
	defer e.control.Unlock()
	e.keepalive(p, s, e.control.sender)
	e.control.sender.tally.tell(e)
}

func (e *Engine) keepalive(p *peer, s *session, w *sender) {
	f := w.begin(p, s, e.now())
	if f.endpoint != nil && s.send != nil {
		w.seal(f, nil, 0)
	}
	f.end()
	w.flush()
}

// sendHandshake sends a handshake message to where p was last heard.
func (p *peer) sendHandshake(lane int, message []byte, now int64) {
	known := p.endpoint.Load()
	if known == nil {
		return
	}
	p.txBytes.Add(uint64(len(message)))
	p.sent(now, false)
	p.engine.sendHandshake(lane, message, *known)
}

func (e *Engine) sendHandshake(lane int, message []byte, to udp.Endpoint) {
	m := [1]udp.Message{{Data: message, Seg: len(message), Endpoint: to}}
	if _, err := e.transport.Send(lane, m[:]); err != nil {
		e.drops[packet.SendFailed].Add(1)
		e.sendFailed(err)
	}
}
