package dnsd

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"

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
