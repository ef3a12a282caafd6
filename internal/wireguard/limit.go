package wireguard

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHandshakes is how many handshake messages may wait for their answer;
	// wireguard-go's queue has as many places.
	maxHandshakes = 1024
	// loadedHandshakes is how many have to wait for the engine to be under load.
	loadedHandshakes = maxHandshakes / 8
	// loadLinger is how long it stays under load after that.
	loadLinger = time.Second
)

// A load says whether handshakes come faster than they are answered. It counts
// those that wait, not those that come: so what is too many is what is too many
// for this machine at this moment, and a burst it can take costs nobody a round
// trip. The zero value is ready. Its methods may be called at once.
type load struct {
	waiting atomic.Int64
	until   atomic.Pointer[time.Time]
}

// arrive counts a handshake message that is about to wait for its answer. When it
// reports false too many do already, and the message is to be dropped.
func (l *load) arrive() bool {
	if l.waiting.Add(1) > maxHandshakes {
		l.waiting.Add(-1)
		return false
	}
	return true
}

// done ends the wait of a message that arrive took.
func (l *load) done() { l.waiting.Add(-1) }

// under reports whether the engine is under load, so that initiations and
// responses have to prove their source address with a cookie.
func (l *load) under(now time.Time) bool {
	if l.waiting.Load() >= loadedHandshakes {
		until := now.Add(loadLinger)
		l.until.Store(&until)
		return true
	}
	until := l.until.Load()
	return until != nil && now.Before(*until)
}

const (
	// handshakeInterval and handshakeBurst are wireguard-go's: 20 a second, and
	// 5 at once, for each source.
	handshakeInterval = time.Second / 20
	handshakeBurst    = 5
	// maxSources bounds the sources a limiter tells apart. As many at their limit
	// send 80,000 handshakes a second, far more than are answered.
	maxSources = 4096
)

// A limiter limits the handshakes of each source that has proven its address.
// A source is an IPv4 address or an IPv6 /64, the least a host can be expected to
// own. wireguard-go's ratelimiter, which this is in place of, takes each IPv6
// address by itself, has no bound, and keeps a goroutine. The zero value is
// ready. Its methods may be called at once.
type limiter struct {
	mu      sync.Mutex
	sources map[netip.Addr]time.Time // when all that a source was allowed is spent: the theoretical arrival time of GCRA
	swept   time.Time
}

// allow reports whether a handshake from this address is within its limit, and
// counts it if so.
func (l *limiter) allow(from netip.Addr, now time.Time) bool {
	source := sourceOf(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	spent, known := l.sources[source]
	if spent.Before(now) {
		spent = now
	}
	spent = spent.Add(handshakeInterval)
	if spent.Sub(now) > handshakeBurst*handshakeInterval {
		return false
	}
	if !known {
		l.makeRoom(now)
	}
	l.sources[source] = spent
	return true
}

// makeRoom makes room for one more source. When all of them are busy one has to
// go, and gets a new burst if it comes back: an attacker with thousands of
// addresses is not held back by this limit anyway, and must not lock others out.
func (l *limiter) makeRoom(now time.Time) {
	if l.sources == nil {
		l.sources = make(map[netip.Addr]time.Time)
	}
	if len(l.sources) < maxSources {
		return
	}
	if now.Sub(l.swept) >= handshakeInterval { // not for each packet of a flood
		l.swept = now
		for source, spent := range l.sources {
			if !spent.After(now) { // as good as never seen
				delete(l.sources, source)
			}
		}
	}
	for source := range l.sources {
		if len(l.sources) < maxSources {
			break
		}
		delete(l.sources, source)
	}
}

// sourceOf is what tells one source from another: an IPv4 address or the first
// address of an IPv6 /64.
func sourceOf(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
