package wireguard

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/packet"
)

// never is the engine time of something that is not to happen.
const never = math.MaxInt64

// activity is what the lanes note about a peer, once a batch, and what one timer
// a peer acts on (whitepaper 6.1, 6.5; wireguard-go's five timers). Times are
// engine time; 0 means no.
type activity struct {
	unanswered atomic.Int64 // when data sent since we last heard from the peer has waited too long
	unreplied  atomic.Int64 // first data received since we last sent anything
	again      atomic.Bool  // more data came after unreplied
	traversed  atomic.Int64 // last authenticated message either way

	timerAt atomic.Int64 // when the timer fires
	timerMu sync.Mutex
	timer   *time.Timer
	stopped bool
}

// sent notes that messages left for the peer, some with data.
func (p *peer) sent(now int64, data bool) {
	a := &p.activity
	if a.unreplied.Load() != 0 {
		a.unreplied.Store(0)
	}
	a.traversed.Store(now)
	if data && a.unanswered.Load() == 0 {
		at := now + int64(keepaliveTimeout+rekeyTimeout) + jitter()
		a.unanswered.Store(at)
		p.wake(at)
	}
}

// heard notes that authenticated messages came from the peer, some with data.
func (p *peer) heard(now int64, data bool) {
	a := &p.activity
	if a.unanswered.Load() != 0 {
		a.unanswered.Store(0)
	}
	a.traversed.Store(now)
	if !data {
		return
	}
	if a.unreplied.Load() == 0 {
		a.unreplied.Store(now)
		p.wake(now + int64(keepaliveTimeout))
	} else if !a.again.Load() {
		a.again.Store(true)
	}
}

// wake makes the timer fire no later than at. In steady traffic the timer is
// armed already and this is one load and a comparison.
func (p *peer) wake(at int64) {
	a := &p.activity
	if at >= a.timerAt.Load() {
		return
	}
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if a.stopped || at >= a.timerAt.Load() {
		return
	}
	a.timerAt.Store(at)
	delay := time.Duration(at - p.engine.now())
	if a.timer == nil {
		p.engine.running.Add(1)
		a.timer = time.AfterFunc(delay, p.tick)
		return
	}
	if !a.timer.Reset(delay) {
		p.engine.running.Add(1)
	}
}

// stopTimer ends the timer; a tick already under way sees removed.
func (p *peer) stopTimer() {
	a := &p.activity
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	a.stopped = true
	if a.timer != nil && a.timer.Stop() {
		p.engine.running.Done()
	}
}

// tick does what is due and arms the timer for what is next.
func (p *peer) tick() {
	defer p.engine.running.Done()
	p.activity.timerAt.Store(never)
	next, unreachable := p.due(p.engine.now())
	if next != never {
		p.wake(next)
	}
	if unreachable && p.engine.config.Unreachable != nil {
		p.engine.config.Unreachable(p.key)
	}
}

// due acts on every deadline that has passed and returns the next one, and
// whether the peer has left a handshake unanswered.
func (p *peer) due(now int64) (next int64, unreachable bool) {
	a := &p.activity
	next = never
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return never, false
	}
	deadline := func(at int64) (passed bool) {
		if at > now {
			next = min(next, at)
		}
		return at <= now
	}

	if p.retryAt != 0 {
		p.retryAt = max(p.retryAt, p.quietUntil.Load()) // a response of ours puts our next call off
	}
	if p.retryAt != 0 && deadline(p.retryAt) {
		switch {
		case p.initiation == nil: // it was not made yet
			p.retryAt = 0
			p.initiate(now, false)
		case p.attempts > maxHandshakeAttempts:
			unreachable = true
			p.giveUp()
		default:
			unreachable = true
			p.attempts++
			p.forgetSource()
			p.initiate(now, true)
		}
	}
	if at := a.unanswered.Load(); at != 0 && deadline(at) {
		a.unanswered.Store(0)
		p.forgetSource()
		p.initiate(now, false)
	}
	if at := a.unreplied.Load(); at != 0 && deadline(at+int64(keepaliveTimeout)) {
		a.unreplied.Store(0)
		p.sendKeepalive(now)
		if a.again.Swap(false) {
			a.unreplied.Store(now)
		}
	}
	if every := p.keepalive.Load(); every != 0 && deadline(a.traversed.Load()+every) {
		a.traversed.Store(now)
		p.sendKeepalive(now)
	}
	if p.sessionDerivedAt != 0 && deadline(p.sessionDerivedAt+int64(forgetKeysAfter)) {
		p.forget()
	}

	// What was just done set new deadlines.
	for _, at := range []int64{
		p.retryAt,
		a.unanswered.Load(),
		after(a.unreplied.Load(), keepaliveTimeout),
		after(p.sessionDerivedAt, forgetKeysAfter),
	} {
		if at != 0 {
			next = min(next, at)
		}
	}
	if every := p.keepalive.Load(); every != 0 {
		next = min(next, a.traversed.Load()+every)
	}
	return max(next, now+int64(time.Millisecond)), unreachable
}

// after is at plus d, or 0 where at is none.
func after(at int64, d time.Duration) int64 {
	if at == 0 {
		return 0
	}
	return at + int64(d)
}

// giveUp ends the attempts at a handshake: nobody is there. Call with mu held.
func (p *peer) giveUp() {
	p.retryAt = 0
	p.activity.unreplied.Store(0)
	p.dropInitiation()
	p.engine.drops[packet.NoSession].Add(uint64(len(p.unstage())))
}

// jitter is a random part of rekeyJitter.
func jitter() int64 { return rand.Int64N(int64(rekeyJitter)) }
