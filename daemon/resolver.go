package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/overlayd/overlayd/overlay"
)

// A resolver looks up the names of peers' endpoints. What it found it knows for a
// moment more, so that a name can be looked up before a lock is taken and then be
// there at once.
type resolver struct {
	system overlay.Resolver

	mu    sync.Mutex
	known map[string]known
	swept time.Time // when what was too old in it was last deleted
}

type known struct {
	addrs []netip.Addr
	until time.Time
}

// remembered is how long an answer is known: as long as a change takes, and less
// than passes before failing handshakes make a node look a name up again.
const remembered = 3 * time.Second

func newResolver() *resolver {
	return &resolver{system: net.DefaultResolver, known: make(map[string]known)}
}

// LookupNetIP is net.Resolver's.
func (r *resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	k, ok := r.known[host]
	r.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return slices.Clone(k.addrs), nil
	}
	addrs, err := r.system.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.After(r.swept.Add(remembered)) { // not for each of many
		r.swept = now
		maps.DeleteFunc(r.known, func(_ string, k known) bool { return now.After(k.until) })
	}
	r.known[host] = known{slices.Clone(addrs), now.Add(remembered)}
	return addrs, nil
}

// hostName is the name in an endpoint, "" when there is none.
func hostName(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

// addresses is what the host of an endpoint is known as: its address, or, of a name
// just looked up, all of them.
func (r *resolver) addresses(endpoint string) []netip.Addr {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []netip.Addr
	for _, a := range r.known[host].addrs {
		all = append(all, a.Unmap().WithZone(""))
	}
	return all
}

// lookups is how many names are looked up at once.
const lookups = 16

// A lookupError is an endpoint whose name could not be looked up.
type lookupError struct {
	endpoint string
	err      error
}

func (e *lookupError) Error() string { return fmt.Sprintf("%q: %v", short(e.endpoint), e.err) }
func (e *lookupError) Unwrap() error { return e.err }

// prepare looks up the names of endpoints, all at once, so that nobody has to wait
// for them with a lock held. The error is a lookupError, of the first of them that has
// one.
func (r *resolver) prepare(ctx context.Context, endpoints ...string) error {
	found := make(map[string]error) // by name; the values are there when all ended
	var running sync.WaitGroup
	var mu sync.Mutex
	free := make(chan struct{}, lookups)
	for _, e := range endpoints {
		name := hostName(e)
		mu.Lock()
		_, begun := found[name]
		if name != "" && !begun {
			found[name] = nil
		}
		mu.Unlock()
		if name == "" || begun {
			continue
		}
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			_, err := r.LookupNetIP(ctx, "ip", name)
			mu.Lock()
			defer mu.Unlock()
			found[name] = err
		})
	}
	running.Wait()
	for _, e := range endpoints {
		if err := found[hostName(e)]; err != nil {
			return &lookupError{e, err}
		}
	}
	return nil
}
