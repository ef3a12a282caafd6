package dnsd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Forward says where queries for names outside the zones go. No resolver is
// asked that is not named here or in ResolvConf.
type Forward struct {
	// Upstreams are asked in this order: the first that works answers. One that
	// does not is passed over until it works again.
	Upstreams []Upstream
	// Routes are other upstreams for the names of some domains, also within a
	// zone; the longest domain counts. A domain with none is never forwarded: its
	// names do not exist (RFC 6761 calls such names special).
	Routes map[string][]Upstream
	// ResolvConf is the path of a file in the form of resolv.conf(5), whose name
	// servers are asked after Upstreams. It is followed when it changes.
	ResolvConf string
	// CacheSize is how many answers are kept. Default 10,000; negative: none.
	CacheSize int
	// Dial connects to upstreams, over "udp" or "tcp". Default: the system.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

var (
	// attemptTimeouts is how long each upstream in turn is waited for, the first
	// time round and the next; resolveTimeout is how long all in all. A stub
	// resolver gives up after five seconds (resolv.conf(5)).
	attemptTimeouts = [...]time.Duration{800 * time.Millisecond, 1200 * time.Millisecond, 2500 * time.Millisecond}
	resolveTimeout  = 4500 * time.Millisecond
)

const (
	// staleAfter is how long a client waits for a new answer before it gets the
	// old one, and staleRetry how long after a failure nobody is asked again (RFC
	// 8767 section 5: client response timer, failure recheck timer).
	staleAfter = 1800 * time.Millisecond
	staleRetry = 30 * time.Second
	// tlsTimeout replaces a shorter attempt with a handshake to make.
	tlsTimeout = 2 * time.Second
)

var (
	errNoUpstream = errors.New("dnsd: no upstream to ask")
	errLoop       = errors.New("dnsd: the query came back to us")
	errBusy       = errors.New("dnsd: too many questions are being asked")
)

// A forwarder asks upstreams and remembers what they say.
type forwarder struct {
	server *Server
	dial   dialFunc
	named  []*resolver
	routes []route // longest domain first
	conf   *resolvConf
	cache  *cache
	renew  chan *entry // to be asked for again before they expire

	mu      sync.Mutex // protects flights
	flights map[question]*flight
	max     int // flights at once
}

// A route is the upstreams for a domain.
type route struct {
	domain    string // canonical
	resolvers []*resolver
}

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

func newForwarder(s *Server, cfg *Forward, maxFlights int) (*forwarder, error) {
	f := &forwarder{
		server: s, dial: cfg.Dial, renew: make(chan *entry, 64),
		flights: make(map[question]*flight), max: maxFlights,
	}
	if f.dial == nil {
		f.dial = new(net.Dialer).DialContext
	}
	size := cfg.CacheSize
	if size == 0 {
		size = 10_000
	}
	f.cache = newCache(size)
	var err error
	if f.named, err = f.resolvers(cfg.Upstreams); err != nil {
		return nil, err
	}
	for domain, upstreams := range cfg.Routes {
		r := route{}
		if r.domain, err = packName(dns.Fqdn(domain), "\x00"); err != nil {
			return nil, err
		}
		r.domain = canonical(r.domain)
		if r.resolvers, err = f.resolvers(upstreams); err != nil {
			return nil, err
		}
		f.routes = append(f.routes, r)
	}
	slices.SortFunc(f.routes, func(a, b route) int {
		return cmp.Or(cmp.Compare(len(b.domain), len(a.domain)), cmp.Compare(a.domain, b.domain))
	})
	if cfg.ResolvConf != "" {
		if f.conf, err = newResolvConf(f, cfg.ResolvConf); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *forwarder) resolvers(upstreams []Upstream) ([]*resolver, error) {
	list := make([]*resolver, 0, len(upstreams))
	for _, u := range upstreams {
		u, err := u.normal()
		if err != nil {
			return nil, err
		}
		list = append(list, f.resolver(u))
	}
	return list, nil
}

func (f *forwarder) resolver(u Upstream) *resolver {
	return &resolver{
		Upstream: u, dial: f.dial,
		stream: stream{dial: f.dial, addr: u.Addr.String(), tls: u.TLS, server: &f.server.lifetime},
	}
}

// route is the upstreams for a name, and the domain they are for: "" when it is
// that of all names.
func (f *forwarder) route(name string) (domain string, resolvers []*resolver) {
	for _, r := range f.routes {
		if within(name, r.domain) {
			return r.domain, r.resolvers
		}
	}
	if f.conf == nil {
		return "", f.named
	}
	return "", append(slices.Clip(f.named), f.conf.current()...)
}

// all is every resolver there is now.
func (f *forwarder) all() []*resolver {
	list := slices.Clone(f.named)
	for _, r := range f.routes {
		list = append(list, r.resolvers...)
	}
	if f.conf != nil {
		list = append(list, f.conf.current()...)
	}
	return list
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
	kept := f.cache.get(hashQuestion(hashName([]byte(q.name)), q.recordType, q.do, q.cd), []byte(q.name), q.recordType, q.do, q.cd)
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
	hash := hashQuestion(hashName([]byte(q.name)), q.recordType, q.do, q.cd)
	if !conclusive(int(e.rcode)) {
		old := f.cache.get(hash, []byte(q.name), q.recordType, q.do, q.cd)
		if old != nil && conclusive(int(old.rcode)) && now < old.keep {
			old.retry.Store(now + int64(staleRetry))
			return e
		}
	}
	f.cache.put(hash, e, now)
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

// ask goes through the upstreams until one answers.
func (f *forwarder) ask(ctx context.Context, q question, fl *flight) (*dns.Msg, error) {
	_, list := f.route(q.name)
	if len(list) == 0 {
		return nil, errNoUpstream
	}
	err := errNoUpstream
	for _, timeout := range attemptTimeouts {
		again := false // asking the same ones once more may help
		for _, r := range f.order(q, list, fl) {
			if f.server.isSelf(r.Addr) {
				f.server.counters.add(upstreamLoops, 1)
				err = errLoop
				continue
			}
			var m *dns.Msg
			m, err = f.try(ctx, r, q, timeout, fl)
			switch {
			case err == nil && conclusive(m.Rcode):
				return m, nil
			case err == nil:
				err = fmt.Errorf("dnsd: %v answers %s", r.Upstream, dns.RcodeToString[m.Rcode])
			case ctx.Err() != nil:
				return nil, err
			default:
				again = true
			}
		}
		if !again {
			break
		}
	}
	return nil, err
}

// order is the resolvers in the order to ask them now: as configured, those that
// are down behind the others. One that is due to be probed is, on the side.
func (f *forwarder) order(q question, list []*resolver, fl *flight) []*resolver {
	now := time.Now()
	up, rest := make([]*resolver, 0, len(list)), []*resolver(nil)
	for _, r := range list {
		switch r.health(now) {
		case healthy:
			up = append(up, r)
		case probe:
			f.server.wg.Go(func() {
				f.try(f.server.ctx, r, q, attemptTimeouts[len(attemptTimeouts)-1], fl)
			})
			rest = append(rest, r)
		case down:
			rest = append(rest, r)
		}
	}
	return append(up, rest...)
}

// try asks one upstream.
func (f *forwarder) try(ctx context.Context, r *resolver, q question, timeout time.Duration, fl *flight) (*dns.Msg, error) {
	if r.TLS != nil {
		timeout = max(timeout, tlsTimeout)
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	reply, err := r.exchange(bounded, q, func(name []byte) {
		fl.asked.Store(&asked{string(name), r})
	}, &f.server.counters)
	if err == nil {
		reply, err = clean(q, reply)
	}
	if ctx.Err() != nil { // the caller's time is over, not the resolver's
		err = ctx.Err()
	}
	took := time.Since(began)
	r.report(time.Now(), took, err)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", r.Upstream, err)
	}
	return reply, nil
}
