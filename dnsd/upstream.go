package dnsd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An Upstream is a resolver queries are forwarded to.
type Upstream struct {
	// Addr is where it listens. Port 0 stands for 53, or 853 with TLS.
	Addr netip.AddrPort
	// TLS, if set, makes it DNS over TLS (RFC 7858). The certificate must be valid
	// for ServerName or, if that is empty, for the address.
	TLS *tls.Config
}

// ParseUpstream reads an upstream as users write it: "10.0.0.53",
// "[fd00::53]:5353", or for DNS over TLS "tls://10.0.0.53" and
// "tls://10.0.0.53:853#dns.example.org", the name being that in the certificate.
func ParseUpstream(text string) (Upstream, error) {
	var u Upstream
	rest, secure := strings.CutPrefix(text, "tls://")
	if secure {
		var name string
		rest, name, _ = strings.Cut(rest, "#")
		u.TLS = &tls.Config{ServerName: name}
	}
	var err error
	if u.Addr, err = netip.ParseAddrPort(rest); err != nil {
		var addr netip.Addr
		addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]"))
		u.Addr = netip.AddrPortFrom(addr, 0)
	}
	if err != nil {
		return Upstream{}, fmt.Errorf("dnsd: upstream %q: neither an address nor tls://address#name: %w", text, err)
	}
	return u, nil
}

// String is the upstream as ParseUpstream reads it.
func (u Upstream) String() string {
	if u.TLS == nil {
		return u.Addr.String()
	}
	if u.TLS.ServerName == "" {
		return "tls://" + u.Addr.String()
	}
	return "tls://" + u.Addr.String() + "#" + u.TLS.ServerName
}

// normal checks an upstream and fills in what it leaves out.
func (u Upstream) normal() (Upstream, error) {
	if !u.Addr.Addr().IsValid() || u.Addr.Addr().IsUnspecified() || u.Addr.Addr().IsMulticast() {
		return u, fmt.Errorf("dnsd: upstream %v: not the address of one host", u.Addr)
	}
	port := u.Addr.Port()
	if port == 0 {
		port = 53
		if u.TLS != nil {
			port = 853
		}
	}
	u.Addr = netip.AddrPortFrom(u.Addr.Addr().Unmap(), port)
	if u.TLS != nil {
		u.TLS = u.TLS.Clone()
		if u.TLS.ClientSessionCache == nil { // the next connection is cheaper
			u.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		if u.TLS.ServerName == "" {
			u.TLS.ServerName = u.Addr.Addr().WithZone("").String()
		}
	}
	return u, nil
}

const (
	// failuresDown is how many failures in a row make an upstream down.
	failuresDown = 2
	// minDown and maxDown bound how long it is then passed over before it is
	// probed again; each failed probe doubles the time.
	minDown = time.Second
	maxDown = 30 * time.Second
)

// A resolver is an upstream and what is known of it.
type resolver struct {
	Upstream
	dial   dialFunc
	stream stream // over TCP or TLS

	queries, failures, nanoseconds atomic.Uint64

	mu        sync.Mutex // protects the rest
	failed    int        // times in a row
	downUntil time.Time
	probing   bool
	loopUntil time.Time // it sends our queries back to us
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// health is what to do with a resolver now.
type health uint8

const (
	healthy health = iota
	down
	probe // down, and due to be tried; the caller is the one to do it
)

func (r *resolver) health(now time.Time) health {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case now.Before(r.loopUntil):
		return down
	case r.failed < failuresDown:
		return healthy
	case r.probing || now.Before(r.downUntil):
		return down
	}
	r.probing = true
	return probe
}

// report tells how an exchange went.
func (r *resolver) report(now time.Time, took time.Duration, err error) {
	r.queries.Add(1)
	if errors.Is(err, context.Canceled) {
		err = nil // nobody waits any more, which says nothing of the resolver
	} else if err != nil {
		r.failures.Add(1)
	} else {
		r.nanoseconds.Add(uint64(took))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probing = false
	if err == nil {
		r.failed = 0
		return
	}
	r.failed++
	if over := r.failed - failuresDown; over >= 0 {
		r.downUntil = now.Add(min(minDown<<min(over, 10), maxDown))
	}
}

// looped takes a resolver that sends our queries back to us out of service for
// as long as one can be.
func (r *resolver) looped(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loopUntil = now.Add(maxDown)
}

func (r *resolver) isUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed < failuresDown && time.Now().After(r.loopUntil)
}
