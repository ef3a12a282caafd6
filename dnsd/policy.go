package dnsd

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// privateSources may recurse unless the configuration says who may: loopback,
// private (RFC 1918, RFC 4193), shared (RFC 6598) and link-local addresses, so
// that a server reached from the Internet is no open resolver (RFC 5358).
var privateSources = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
}

// sources is a set of addresses. nil holds every address, even an unknown one.
type sources []netip.Prefix

func newSources(prefixes []netip.Prefix) (sources, error) {
	if prefixes == nil {
		return nil, nil
	}
	set := make(sources, 0, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("dnsd: source %v: not a usable prefix", p)
		}
		set = append(set, p.Masked())
	}
	return set, nil
}

func (s sources) hold(a netip.Addr) bool {
	return s == nil || slices.ContainsFunc(s, func(p netip.Prefix) bool { return p.Contains(a) })
}

// A rateLimit bounds the queries a second of each source: the generic cell rate
// algorithm (ITU-T I.371) in a fixed table. Two sources that share a slot share
// its rate, which the table's size and its secret hash make rare.
type rateLimit struct {
	interval int64          // ns a query costs
	slots    []atomic.Int64 // the time up to which a source has used its rate
}

const (
	rateSlots = 1 << 15
	// rateBurst is how far a source may run ahead of its rate.
	rateBurst = int64(time.Second)
)

// newRateLimit makes a limit of so many queries a second, or none if negative.
func newRateLimit(perSecond int) *rateLimit {
	if perSecond < 0 {
		return nil
	}
	return &rateLimit{interval: max(int64(time.Second)/int64(perSecond), 1), slots: make([]atomic.Int64, rateSlots)}
}

// allow takes a query of a source into account, or refuses it. now is in ns.
func (l *rateLimit) allow(source netip.Addr, now int64) bool {
	if l == nil {
		return true
	}
	a := source.As16()
	slot := &l.slots[maphash.Bytes(seed, a[:])%rateSlots]
	for {
		used := slot.Load()
		next := max(used, now) + l.interval
		if next > now+rateBurst {
			return false
		}
		if slot.CompareAndSwap(used, next) {
			return true
		}
	}
}

// inFlight bounds the queries being worked on outside the in-place path, all in
// all and for each source, so that one source cannot take every place.
type inFlight struct {
	mu        sync.Mutex // protects the rest
	max       int
	maxSource int
	count     int
	sources   map[netip.Addr]int
}

func newInFlight(limit int) *inFlight {
	return &inFlight{max: limit, maxSource: max(limit/4, 1), sources: make(map[netip.Addr]int)}
}

func (f *inFlight) enter(source netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count >= f.max || f.sources[source] >= f.maxSource {
		return false
	}
	f.count++
	f.sources[source]++
	return true
}

func (f *inFlight) leave(source netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	if f.sources[source]--; f.sources[source] == 0 {
		delete(f.sources, source)
	}
}

func (f *inFlight) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}
