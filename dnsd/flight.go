package dnsd

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// resolveTimeout is how long a question is asked all in all: a stub resolver
	// gives up after five seconds (resolv.conf(5)).
	resolveTimeout = 4500 * time.Millisecond
	// staleAfter is how long a client waits for a new answer before it gets the
	// old one, and staleRetry how long after a failure nobody is asked again (RFC
	// 8767 section 5: client response timer, failure recheck timer).
	staleAfter = 1800 * time.Millisecond
	staleRetry = 30 * time.Second
)

var (
	errLoop = errors.New("dnsd: the query came back to us")
	errBusy = errors.New("dnsd: too many questions are being asked")
)

// A flight is a question that is being asked. Who asks the same waits for it.
type flight struct {
	done  chan struct{}
	entry *entry                // when done is closed
	asked atomic.Pointer[asked] // what was sent out last
}

type asked struct {
	name     string // in the case it was sent in
	resolver *resolver
}

// resolve finds the answer to a question, in the cache or from an upstream; it is
// stale when it has expired and nobody has a new one. name is as the client wrote
// it. The error is nil, errLoop, errBusy or ctx's.
func (f *forwarder) resolve(ctx context.Context, q question, name []byte) (e *entry, stale bool, err error) {
	if e := f.special(q); e != nil {
		return e, false, nil
	}
	c := &f.server.counters
	now := f.server.clock()
	kept := f.cache.get(q.hash(), []byte(q.name), q.kind)
	if kept != nil {
		if kept.fresh(now) {
			c.add(cacheHits, 1)
			f.hit(kept, now)
			return kept, false, nil
		}
		if now >= kept.keep {
			kept = nil
		} else if now < kept.retry.Load() {
			c.add(cacheStale, 1)
			return kept, true, nil
		}
	}
	c.add(cacheMisses, 1)
	fl, err := f.join(q, name)
	if err != nil {
		return nil, false, err
	}
	var late <-chan time.Time
	if kept != nil {
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-fl.done:
		if kept == nil || conclusive(int(fl.entry.rcode)) {
			return fl.entry, false, nil
		}
	case <-late:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	c.add(cacheStale, 1)
	return kept, true, nil
}

// hit is what else happens when an entry is served.
func (f *forwarder) hit(e *entry, now int64) {
	if now-e.used.Load() > int64(time.Second) {
		e.used.Store(now)
	}
	if e.due(now) {
		select {
		case f.renew <- e:
		default:
		}
	}
}

// renewals asks again for what is about to expire, until the server ends.
func (f *forwarder) renewals() {
	for {
		select {
		case e := <-f.renew:
			if _, err := f.join(e.question, nil); err == nil {
				f.server.counters.add(cachePrefetches, 1)
			}
		case <-f.server.ctx.Done():
			return
		}
	}
}

// join returns the flight of a question, and starts it if there is none.
func (f *forwarder) join(q question, name []byte) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[q]; fl != nil {
		if r := fl.echoed(name); r != nil {
			r.looped(time.Now())
			f.server.counters.add(upstreamLoops, 1)
			return nil, errLoop
		}
		f.server.counters.add(joined, 1)
		return fl, nil
	}
	if len(f.flights) >= f.max {
		return nil, errBusy
	}
	fl := &flight{done: make(chan struct{})}
	f.flights[q] = fl
	f.server.wg.Go(func() {
		fl.entry = f.fly(q, fl)
		f.mu.Lock()
		delete(f.flights, q)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, nil
}

// echoed returns the resolver a query comes back from: the one we sent its name
// to in the very case it now has. Chance does that once in 256 times at most. A
// loop nobody sees does no harm, since the query then waits for itself and is not
// sent again, but it costs the client its patience.
func (fl *flight) echoed(name []byte) *resolver {
	const letters = 8
	last := fl.asked.Load()
	if last == nil || last.name != string(name) {
		return nil
	}
	n, upper := 0, false
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			n, upper = n+1, true
		} else if 'a' <= c && c <= 'z' {
			n++
		}
	}
	if n < letters || !upper {
		return nil
	}
	return last.resolver
}

// fly asks and remembers the answer, or that there was none.
func (f *forwarder) fly(q question, fl *flight) *entry {
	ctx, cancel := context.WithTimeout(f.server.ctx, resolveTimeout)
	defer cancel()
	m, err := f.ask(ctx, q, fl)
	now := f.server.clock()
	var e *entry
	if err == nil {
		e, err = newEntry(q, m, now)
	}
	if err != nil {
		e = failure(q, now)
		if f.server.ctx.Err() == nil {
			f.server.logger.Debug("dns: forward", "name", nameText(q.name), "err", err)
		}
	}
	if !conclusive(int(e.rcode)) {
		old := f.cache.get(q.hash(), []byte(q.name), q.kind)
		if old != nil && conclusive(int(old.rcode)) && now < old.keep {
			old.retry.Store(now + int64(staleRetry))
			return e
		}
	}
	f.cache.put(e, now)
	return e
}

// conclusive reports whether a response code settles a question: that there is an
// answer, or that there is none. Any other is one resolver's trouble.
func conclusive(rcode int) bool {
	return rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError
}

// failure is what is remembered of a question nobody answered.
func failure(q question, now int64) *entry {
	expires := now + failureTTL*int64(time.Second)
	return &entry{question: q, rcode: dns.RcodeServerFailure, stored: now, expires: expires, keep: expires}
}
