package daemon

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
)

// A device is a WireGuard device with its peers and the host's routes to them:
// the node's, or a service's own. It stays the same when what it runs on fails and
// is made anew.
type device struct {
	d     *Daemon
	scope string // the service whose it is; "": the node's
	name  string // of its link, also when it has none because it is rootless

	mu     sync.Mutex // held by who changes it
	config tunnelConfig
	set    map[overlay.PublicKey]overlay.Peer // by clients
	size   int                                // of set, as listed
	guests map[overlay.PublicKey]overlay.Peer
	at     map[overlay.PublicKey][]netip.Addr // where endpoints are, as routes was told
	closed bool
	ended  chan struct{} // closed with it

	// unresolved are peers whose endpoints have names that are still looked up.
	unresolved map[overlay.PublicKey]bool

	now atomic.Pointer[tunnel]
}

var errDeviceClosed = fmt.Errorf("the device was taken down: %w", net.ErrClosed)

// openDevice makes a device without peers.
func (d *Daemon) openDevice(scope string, c tunnelConfig) (*device, error) {
	t, err := d.openTunnel(c)
	if err != nil {
		return nil, err
	}
	return d.newDevice(scope, c, t), nil
}

func (d *Daemon) newDevice(scope string, c tunnelConfig, t *tunnel) *device {
	v := &device{
		d:      d,
		scope:  scope,
		name:   c.name,
		config: c,
		set:    make(map[overlay.PublicKey]overlay.Peer),
		guests: make(map[overlay.PublicKey]overlay.Peer),
		at:     make(map[overlay.PublicKey][]netip.Addr),
		ended:  make(chan struct{}),

		unresolved: make(map[overlay.PublicKey]bool),
	}
	v.now.Store(t)
	d.routes.onLink(v)
	d.running.Go(v.watch)
	return v
}

// node, stack, link and addrs are those of the moment; they never wait. The node is
// never nil, but may have ended. stack is nil unless rootless, link zero if so.
func (v *device) node() *overlay.Node    { return v.now.Load().node }
func (v *device) stack() *netstack.Stack { return v.now.Load().stack }
func (v *device) link() hostnet.Link     { return v.now.Load().link }
func (v *device) addrs() []netip.Prefix  { return v.now.Load().addrs }

func (v *device) String() string {
	if v.scope == "" {
		return "the node's device"
	}
	return fmt.Sprintf("the device of service %q", v.scope)
}

// source is the device's own address of a's family, invalid if it has none.
func (v *device) source(a netip.Addr) netip.Addr {
	for _, p := range v.addrs() {
		if p.Addr().BitLen() == a.BitLen() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// has reports whether the device has an address of a's family.
func (v *device) has(a netip.Addr) bool { return v.source(a).IsValid() }

// all are the device's peers, of both kinds; v.mu is held.
func (v *device) all() iter.Seq2[overlay.PublicKey, overlay.Peer] {
	return func(yield func(overlay.PublicKey, overlay.Peer) bool) {
		for _, of := range []map[overlay.PublicKey]overlay.Peer{v.set, v.guests} {
			for key, p := range of {
				if !yield(key, p) {
					return
				}
			}
		}
	}
}

// clients are the keys of the peers that clients set.
func (v *device) clients() []overlay.PublicKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Keys(v.set))
}

// close takes the device down. Its record is the caller's.
func (v *device) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	close(v.ended)
	err := v.node().Close()
	forgot := v.d.forget(v)
	for key, p := range v.set {
		v.d.plan.claim(v.scope, owners(key, p.AllowedIPs), nil)
		v.d.reroute(detour{device: v, gone: v.at[key]})
	}
	for _, part := range []string{"device", "peers", "routes", "record"} {
		v.d.recovered(v.part(part))
	}
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, forgot)
}

// peers is a snapshot, in the order of the keys; it never waits.
func (v *device) peers() []wire.PeerStatus {
	t := v.now.Load()
	now := time.Now()
	list := []wire.PeerStatus{}
	for _, p := range t.node.Peers() {
		s := wire.PeerStatus{
			PublicKey:  p.PublicKey.String(),
			Endpoint:   p.Endpoint,
			AllowedIPs: join(p.AllowedIPs),
			Address:    p.Addr.Addr(),
			Port:       p.Addr.Port(),
			RxBytes:    p.RxBytes,
			TxBytes:    p.TxBytes,
			Keepalive:  uint64(p.Keepalive / time.Second),
		}
		if _, called := t.called.Load(p.PublicKey); called {
			s.Endpoint = ""
		}
		if !p.LastHandshake.IsZero() {
			age := max(now.Sub(p.LastHandshake), 0)
			s.LastHandshake = p.LastHandshake.Unix()
			s.HandshakeAge = uint64(age / time.Second)
			s.Healthy = v.d.healthy(v.scope, p.PublicKey, p.LastHandshake)
		}
		list = append(list, s)
	}
	return list
}

// behind is the peer that an address belongs to, by its allowed IPs, of which the
// longest that holds it counts.
func (v *device) behind(a netip.Addr) (key overlay.PublicKey, by netip.Prefix, ok bool) {
	for _, p := range v.node().Peers() {
		for _, prefix := range p.AllowedIPs {
			if prefix.Contains(a) && (!ok || prefix.Bits() > by.Bits()) {
				key, by, ok = p.PublicKey, prefix, true
			}
		}
	}
	return key, by, ok
}

// refused says in the contract's terms why the node did not take a peer, whose
// fields in the request have names that begin with at.
func (v *device) refused(err error, at string) error {
	var overlap *overlay.OverlapError
	var config *overlay.ConfigError
	switch {
	case errors.As(err, &overlap):
		return &Error{Code: wire.Conflict, Field: at + "allowed_ips", Msg: fmt.Sprintf("%v of peer %v overlaps %v of peer %v: an address belongs to one peer",
			overlap.Prefix, overlap.Peer, overlap.Owned, overlap.Owner)}
	case errors.Is(err, net.ErrClosed):
		return &Error{Code: wire.NotReady, Msg: v.String() + " failed and is being made anew: try again in a moment"}
	case errors.As(err, &config) && config.Field == "Endpoint":
		var dns *net.DNSError
		if errors.As(err, &dns) {
			return &Error{Code: wire.NotReady, Field: at + "endpoint", Msg: fmt.Sprintf("%q cannot be looked up now: try again, or give an address", short(config.Value)), Err: dns}
		}
		return invalid(at+"endpoint", "%q: %v", short(config.Value), config.Err)
	case errors.As(err, &config) && config.Field == "PublicKey":
		return invalid(at+"public_key", "%v: %v", config.Peer, config.Err)
	case errors.As(err, &config):
		return invalid(at+"allowed_ips", "%v", config.Err)
	}
	return err
}

// owners is whose each of a peer's prefixes is.
func owners(key overlay.PublicKey, prefixes []netip.Prefix) map[netip.Prefix]overlay.PublicKey {
	m := make(map[netip.Prefix]overlay.PublicKey, len(prefixes))
	for _, p := range prefixes {
		m[p] = key
	}
	return m
}
