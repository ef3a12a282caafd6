package daemon

import (
	"context"
	"errors"
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
	for name, k := range r.known {
		if now.After(k.until) {
			delete(r.known, name)
		}
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

// prepare looks up the names of endpoints, all at once, so that nobody has to wait
// for them with a lock held. It returns the first error.
func (r *resolver) prepare(ctx context.Context, endpoints ...string) error {
	var names []string
	for _, e := range endpoints {
		if name := hostName(e); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil
	}
	free := make(chan struct{}, lookups)
	found := make(chan error, len(names))
	for _, name := range names {
		go func() {
			free <- struct{}{}
			defer func() { <-free }()
			_, err := r.LookupNetIP(ctx, "ip", name)
			found <- err
		}()
	}
	var errs []error
	for range names {
		errs = append(errs, <-found)
	}
	return errors.Join(errs...)
}
