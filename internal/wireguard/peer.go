package wireguard

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"golang.zx2c4.com/wireguard/tai64n"
)

// A peer is one other node. What a lane reads or counts is atomic; the rest
// belongs to mu, which a lane takes only where there is no usable session.
type peer struct {
	engine  *Engine
	key     [32]byte
	allowed []netip.Prefix // masked; belongs to the engine's mu

	endpoint  atomic.Pointer[udp.Endpoint] // nil: not known yet
	keepalive atomic.Int64                 // persistent, in nanoseconds; 0: none
	current   atomic.Pointer[session]      // what we seal with
	next      atomic.Pointer[session]      // answered by us, not yet confirmed by its initiator
	activity  activity

	rxBytes, txBytes, rxPackets, txPackets atomic.Uint64
	lastHandshake                          atomic.Int64 // Unix nanoseconds
	initiationQueued                       atomic.Bool
	quietUntil                             atomic.Int64 // no initiation before, engine time

	mu               sync.Mutex
	removed          bool
	presharedKey     [32]byte
	previous         [2]*session // newest first
	cookies          *cookieJar
	known            bool       // the identity keeps the secret shared with the peer
	initiation       *initiator // the handshake we wait to be answered
	initiationIndex  uint32
	retryAt          int64 // when to call, or call again; 0: not waiting
	attempts         int
	lastTimestamp    tai64n.Timestamp
	initiationSeen   int64
	sessionDerivedAt int64 // 0: no keys to forget
	staged           []stagedPacket
	stagedBytes      int
}

// A stagedPacket waits for a handshake.
type stagedPacket struct {
	data []byte
	seg  uint16
}

func newPeer(e *Engine, key [32]byte) *peer {
	p := &peer{engine: e, key: key, cookies: newCookieJar(key)}
	p.activity.timerAt.Store(never)
	return p
}

// stage keeps a copy of pk until there is a session, and asks for one. It
// reports how many packets had to make room. When a session appeared meanwhile
// it stages nothing and returns the session.
func (p *peer) stage(pk *packet.Packet, now int64) (ready *session, dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return nil, 1
	}
	if s := p.current.Load(); s.usable(now) {
		return s, 0
	}
	for len(p.staged) > 0 && (len(p.staged) >= maxStagedPackets || p.stagedBytes+len(pk.Data) > maxStagedBytes) {
		p.stagedBytes -= len(p.staged[0].data)
		p.staged[0] = stagedPacket{}
		p.staged = p.staged[1:]
		dropped++
	}
	data := make([]byte, len(pk.Data), len(pk.Data)+packet.Slack)
	copy(data, pk.Data)
	p.staged = append(p.staged, stagedPacket{data, pk.Seg})
	p.stagedBytes += len(data)
	if p.retryAt == 0 {
		// The call the caller is about to ask for may not be made now: after a
		// response of ours, or when too many others are asked for.
		p.retryAt = now + int64(rekeyTimeout)
		p.wake(p.retryAt)
	}
	return nil, dropped
}

// unstage empties the waiting room. Call with mu held.
func (p *peer) unstage() []stagedPacket {
	staged := p.staged
	p.staged, p.stagedBytes = nil, 0
	return staged
}

// setEndpoint records where the peer was last heard, which is how it roams.
//
// Answers leave from the address it spoke to, but by whichever interface the
// route says: an interface that is insisted on makes Linux take the peer for a
// neighbour there, and where the routes are not symmetric it is none.
func (p *peer) setEndpoint(from udp.Endpoint) {
	from.Interface = 0
	if known := p.endpoint.Load(); known == nil || *known != from {
		roamed := from // only here does it have to outlive the call
		p.endpoint.Store(&roamed)
	}
}

// forgetSource lets the system choose the local address again, in case the one
// in use is why nothing arrives.
func (p *peer) forgetSource() {
	if known := p.endpoint.Load(); known != nil {
		p.sourceGone(known)
	}
}

// sourceGone does the same when a socket refused the local address of known,
// unless the peer has been heard elsewhere since.
func (p *peer) sourceGone(known *udp.Endpoint) {
	if known.Src.IsValid() {
		p.endpoint.CompareAndSwap(known, &udp.Endpoint{Addr: known.Addr})
	}
}

// adopt puts a new, established session in its place. Call with mu held.
func (p *peer) adopt(s *session) {
	next := p.next.Load()
	switch {
	case !s.initiator:
		p.engine.retire(p.next.Swap(s))
	case next == nil || crossed(s, next) && p.yields():
		p.supersede(p.current.Swap(s))
	default:
		// Unconfirmed as it is, the peer may have begun to send on it. Or it never
		// will, and still sends on the current one.
		p.supersede(p.current.Swap(s))
		p.supersede(next)
		p.next.Store(nil)
	}
	p.sessionDerivedAt = p.engine.now()
}

// supersede keeps a session, which may be nil, for what is still on its way.
//
// wireguard-go and Linux keep one, and none from an initiation of the peer's on.
// That loses packets when the two sides did not agree on which was the current
// one, as after handshakes that crossed or confirmations that were lost.
func (p *peer) supersede(s *session) {
	if s != nil {
		p.engine.retire(p.previous[1])
		p.previous[1], p.previous[0] = p.previous[0], s
	}
}

// Two handshakes that crossed on the way make two sessions, and each side would
// keep to its own. wireguard-go and Linux hold one handshake at a time, so that
// neither is answered and one is begun again. Ours are both answered, and then both
// sides settle for the session begun by the larger public key: else both would be
// renewed at the same time, for ever.

// yields reports whether, of two sessions, it is the peer's that remains.
func (p *peer) yields() bool { return bytes.Compare(p.key[:], p.engine.identity.key[:]) > 0 }

// crossed reports whether two sessions come of handshakes that crossed.
func crossed(a, b *session) bool {
	return max(a.created-b.created, b.created-a.created) < int64(crossingTime)
}

// confirm makes the session we answered with the current one, at its first
// packet: only now is it sure that the initiation was not a replay.
func (p *peer) confirm(s *session, sender *sender, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Load() != s {
		return
	}
	// A call that crosses ours on the way comes in before the answer to ours does. One
	// that comes later is of a peer that has started anew, and forgot our session.
	if own := p.current.Load(); own != nil && own.initiator && own.created >= s.created && crossed(own, s) && !p.yields() && now-own.created < int64(crossingTime) {
		return // the peer has yet to learn of ours; if it never does, it has started anew too
	}
	p.supersede(p.current.Load())
	p.dropInitiation() // a call of ours, if there is one, is answered by this
	p.handshakeComplete()
	p.flushStaged(s, sender)
	p.current.Store(s)
	p.next.Store(nil)
}

// handshakeComplete ends the waiting for an answer. Call with mu held.
func (p *peer) handshakeComplete() {
	p.retryAt = 0
	p.attempts = 0
	p.lastHandshake.Store(time.Now().UnixNano())
}

// flushStaged sends what waited for s, before s is published, so that the lanes
// cannot overtake it. It reports whether anything was sent. Call with mu held.
func (p *peer) flushStaged(s *session, sender *sender) bool {
	staged := p.unstage()
	if len(staged) == 0 {
		return false
	}
	f := sender.begin(p, s, p.engine.now())
	for i := range staged {
		var pk packet.Packet
		pk.Set(staged[i].data, staged[i].seg)
		f.send(&pk)
	}
	sent := f.packets > 0
	f.end()
	sender.flush()
	return sent
}

// forget ends every session and handshake of p. Call with mu held.
func (p *peer) forget() {
	retire := p.engine.retire
	retire(p.current.Swap(nil))
	retire(p.next.Swap(nil))
	for i, s := range p.previous {
		retire(s)
		p.previous[i] = nil
	}
	p.dropInitiation()
	p.sessionDerivedAt = 0
	p.engine.drops[packet.NoSession].Add(uint64(len(p.unstage())))
}

// dropInitiation wipes the handshake that waits for its answer. Call with mu held.
func (p *peer) dropInitiation() {
	if p.initiation != nil {
		p.initiation.wipe()
		p.initiation = nil
	}
	p.engine.sessions.release(p.initiationIndex)
	p.initiationIndex = 0
}

// status is p as it is now.
func (p *peer) status() PeerStatus {
	st := PeerStatus{
		RxBytes: p.rxBytes.Load(), TxBytes: p.txBytes.Load(),
		RxPackets: p.rxPackets.Load(), TxPackets: p.txPackets.Load(),
	}
	st.PublicKey = p.key
	st.Keepalive = time.Duration(p.keepalive.Load())
	if known := p.endpoint.Load(); known != nil {
		st.Endpoint = known.Addr
	}
	if at := p.lastHandshake.Load(); at != 0 {
		st.LastHandshake = time.Unix(0, at)
	}
	p.mu.Lock()
	st.PresharedKey = p.presharedKey
	p.mu.Unlock()
	return st
}
