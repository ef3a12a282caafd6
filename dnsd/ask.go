package dnsd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// attemptTimeouts is how long each upstream in turn is waited for, the first time
// round and the next.
var attemptTimeouts = [...]time.Duration{800 * time.Millisecond, 1200 * time.Millisecond, 2500 * time.Millisecond}

// tlsTimeout replaces a shorter attempt where a handshake may be to be made.
const tlsTimeout = 2 * time.Second

var errNoUpstream = errors.New("dnsd: no upstream to ask")

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
