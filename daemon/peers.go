package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// deviceOf is the device a scope means, which stays until release is called.
func (d *Daemon) deviceOf(scope wire.PeerScope) (v *device, release func(), err error) {
	s, ok := scope.(wire.ServiceScope)
	if !ok {
		g, release, err := d.globalOverlay()
		if err != nil {
			return nil, nil, err
		}
		return g.device, release, nil
	}
	if err := checkName("scope.service", s.Service, false); err != nil {
		return nil, nil, err
	}
	found, release, err := d.service(s.Service)
	if err == nil && found.device == nil {
		release()
		err = failed(wire.NotFound, "")
	}
	if errors.Is(err, wire.NotFound) {
		return nil, nil, &Error{Code: wire.NotFound, Field: "scope.service", Msg: "no dedicated overlay for service " + s.Service, exact: true}
	}
	if err != nil {
		return nil, nil, err
	}
	return found.device, release, nil
}

// An edit is one peer that is to be another, or is to come or go.
type edit struct {
	key      overlay.PublicKey
	old, new *overlay.Peer // nil: there is none
}

// ofAllowance are the fields of add_allowed_ip and remove_allowed_ip that are those
// of a peer.
var ofAllowance = map[string]string{"public_key": "pubkey", "allowed_ips": "cidr"}

// addPeer adds a peer, or makes the one with its key what is asked for; its session
// goes on.
func (d *Daemon) addPeer(ctx context.Context, r wire.AddPeer) error {
	p, err := parsePeer("", r.PeerSpec)
	if err != nil {
		return err
	}
	return d.editPeer(ctx, r.Scope, p.PublicKey, func(*overlay.Peer) (*overlay.Peer, error) { return &p, nil })
}

// removePeer removes a peer. One that is not there is no error.
func (d *Daemon) removePeer(ctx context.Context, r wire.RemovePeer) error {
	key, err := parseKey("pubkey", r.Pubkey)
	if err != nil {
		return err
	}
	return d.editPeer(ctx, r.Scope, key, func(*overlay.Peer) (*overlay.Peer, error) { return nil, nil })
}

// addAllowedIP adds prefixes to a peer's.
func (d *Daemon) addAllowedIP(ctx context.Context, r wire.AddAllowedIP) error {
	key, more, err := parseAllowance(r.Pubkey, r.CIDR)
	if err != nil {
		return err
	}
	err = d.editPeer(ctx, r.Scope, key, func(old *overlay.Peer) (*overlay.Peer, error) {
		if old == nil {
			return nil, &Error{Code: wire.NotFound, Field: "pubkey", Msg: fmt.Sprintf("there is no peer %v: send add_peer first", key)}
		}
		p := *old
		p.AllowedIPs = slices.Concat(old.AllowedIPs, more)
		slices.SortFunc(p.AllowedIPs, netip.Prefix.Compare)
		p.AllowedIPs = slices.Compact(p.AllowedIPs)
		if len(p.AllowedIPs) > maxPrefixes {
			return nil, &Error{Code: wire.Exhausted, Field: "cidr", Msg: fmt.Sprintf("a peer may have at most %d prefixes", maxPrefixes)}
		}
		return &p, nil
	})
	return renamed(err, ofAllowance)
}

// removeAllowedIP takes prefixes from a peer. What it does not have is no error, and
// neither is a peer that is not there.
func (d *Daemon) removeAllowedIP(ctx context.Context, r wire.RemoveAllowedIP) error {
	key, less, err := parseAllowance(r.Pubkey, r.CIDR)
	if err != nil {
		return err
	}
	err = d.editPeer(ctx, r.Scope, key, func(old *overlay.Peer) (*overlay.Peer, error) {
		if old == nil {
			return nil, nil
		}
		p := *old
		p.AllowedIPs = slices.DeleteFunc(slices.Clone(old.AllowedIPs), func(had netip.Prefix) bool { return slices.Contains(less, had) })
		return &p, nil
	})
	return renamed(err, ofAllowance)
}

func parseAllowance(pubkey, cidr string) (overlay.PublicKey, []netip.Prefix, error) {
	key, err := parseKey("pubkey", pubkey)
	if err != nil {
		return key, nil, err
	}
	prefixes, err := parseAllowed("cidr", cidr)
	if err == nil && len(prefixes) == 0 {
		err = invalid("cidr", "is empty: give a prefix such as 10.200.7.0/28")
	}
	return key, prefixes, err
}

// editPeer makes a peer what next says it is to be, given what it is; nil is none.
func (d *Daemon) editPeer(ctx context.Context, scope wire.PeerScope, key overlay.PublicKey, next func(old *overlay.Peer) (*overlay.Peer, error)) error {
	v, release, err := d.deviceOf(scope)
	if err != nil {
		return err
	}
	defer release()
	was := v.peer(key)
	if p, err := next(was); err == nil && p != nil && (was == nil || was.Endpoint != p.Endpoint) {
		if err := v.prepare(ctx, *p); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var old *overlay.Peer
	if p, ok := v.set[key]; ok {
		old = &p
	}
	p, err := next(old)
	if err != nil {
		return err
	}
	if p == nil && old == nil {
		return v.checkGuest(key, "pubkey")
	}
	return v.apply(ctx, []edit{{key, old, p}}, func(overlay.PublicKey) string { return "" })
}

// peer is a peer set by clients, nil if there is none.
func (v *device) peer(key overlay.PublicKey) *overlay.Peer {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p, ok := v.set[key]; ok {
		return &p
	}
	return nil
}

// lookupTime bounds how long the name of an endpoint is looked up.
const lookupTime = 10 * time.Second

// prepare looks up the names of peers' endpoints, so that nobody waits for them.
func (v *device) prepare(ctx context.Context, peers ...overlay.Peer) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var endpoints []string
	for _, p := range peers {
		endpoints = append(endpoints, p.Endpoint)
	}
	if err := v.d.resolver.prepare(ctx, endpoints...); err != nil {
		return &Error{Code: wire.NotReady, Field: "endpoint", Msg: "the name cannot be looked up now", Err: err}
	}
	return nil
}

// checkGuest refuses the key of a guest, who comes and goes with attach_container.
func (v *device) checkGuest(key overlay.PublicKey, field string) error {
	if _, guest := v.guests[key]; guest {
		return &Error{Code: wire.Conflict, Field: field, Msg: fmt.Sprintf("%v is a guest of this node: detach_container removes it", key)}
	}
	return nil
}

// setPeers makes peers the whole set of a device, but for guests.
func (d *Daemon) setPeers(ctx context.Context, r wire.SetPeers) (wire.PeersSet, error) {
	if len(r.Peers) > maxPeers {
		return wire.PeersSet{}, &Error{Code: wire.Exhausted, Field: "peers", Msg: fmt.Sprintf("there are %d, and a device takes at most %d", len(r.Peers), maxPeers)}
	}
	next := make(map[overlay.PublicKey]overlay.Peer, len(r.Peers))
	at := make(map[overlay.PublicKey]string, len(r.Peers))
	for i, spec := range r.Peers {
		path := fmt.Sprintf("peers[%d].", i)
		p, err := parsePeer(path, spec)
		if err != nil {
			return wire.PeersSet{}, err
		}
		if first, twice := at[p.PublicKey]; twice {
			return wire.PeersSet{}, invalid(path+"public_key", "%v is that of %s already", p.PublicKey, first[:len(first)-1])
		}
		next[p.PublicKey], at[p.PublicKey] = p, path
	}
	v, release, err := d.deviceOf(r.Scope)
	if err != nil {
		return wire.PeersSet{}, err
	}
	defer release()
	v.mu.Lock()
	was := maps.Clone(v.set)
	v.mu.Unlock()
	var moved []overlay.Peer
	for key, p := range next {
		if p.Endpoint != was[key].Endpoint {
			moved = append(moved, p)
		}
	}
	if err := v.prepare(ctx, moved...); err != nil {
		return wire.PeersSet{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var done wire.PeersSet
	var edits []edit
	for key, p := range next {
		old, had := v.set[key]
		switch {
		case !had:
			done.Added++
			edits = append(edits, edit{key, nil, &p})
		case !samePeer(old, p):
			done.Changed++
			edits = append(edits, edit{key, &old, &p})
		}
	}
	for key, old := range v.set {
		if _, stays := next[key]; !stays {
			done.Removed++
			edits = append(edits, edit{key, &old, nil})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(at[a.key], at[b.key]) })
	if err := v.apply(ctx, edits, func(key overlay.PublicKey) string { return at[key] }); err != nil {
		return wire.PeersSet{}, err
	}
	return done, nil
}

func samePeer(a, b overlay.Peer) bool {
	return a.Endpoint == b.Endpoint && a.Keepalive == b.Keepalive && slices.Equal(a.AllowedIPs, b.AllowedIPs)
}

// apply makes edits: in the node, in the host's routes and on record, all of them or
// none. at is the path of a peer in the request. v.mu is held.
func (v *device) apply(ctx context.Context, edits []edit, at func(overlay.PublicKey) string) error {
	if v.closed {
		return errDeviceClosed
	}
	if len(edits) == 0 {
		return nil
	}
	from, to := make(map[netip.Prefix]overlay.PublicKey), make(map[netip.Prefix]overlay.PublicKey)
	way := detour{device: v}
	count := len(v.set) + len(v.guests)
	for _, e := range edits {
		if err := v.checkGuest(e.key, at(e.key)+"public_key"); err != nil {
			return err
		}
		if e.new != nil && e.key == v.node().PublicKey() {
			return invalid(at(e.key)+"public_key", "%v is the device's own", e.key)
		}
		if e.old != nil {
			count--
			way.from = append(way.from, e.old.AllowedIPs...)
			if e.new == nil || e.new.Endpoint != e.old.Endpoint {
				way.gone = append(way.gone, v.at[e.key]...)
			}
			maps.Copy(from, owners(e.key, e.old.AllowedIPs))
		}
		if e.new == nil {
			continue
		}
		count++
		way.to = append(way.to, e.new.AllowedIPs...)
		if e.old == nil || e.new.Endpoint != e.old.Endpoint {
			way.new = append(way.new, v.d.resolver.addresses(e.new.Endpoint)...)
		}
		for _, p := range e.new.AllowedIPs {
			if other, twice := to[p]; twice {
				return &Error{Code: wire.Conflict, Field: at(e.key) + "allowed_ips", Msg: fmt.Sprintf("%v of peer %v is also of peer %v: an address belongs to one peer", p, e.key, other)}
			}
			to[p] = e.key
		}
	}
	if count > maxPeers {
		return failed(wire.Exhausted, "room for peers is exhausted: %s takes at most %d", v, maxPeers)
	}

	var s steps
	err := s.do("peers.plan", func() error {
		return v.planned(v.d.plan.claim(v.scope, from, to), at)
	}, func() error { return v.d.plan.claim(v.scope, to, from) })
	if err == nil {
		err = s.do("peers.node", func() error { return v.told(v.tell(ctx, edits), at) }, func() error { return v.tell(ctx, reversed(edits)) })
	}
	if err == nil {
		err = s.do("peers.routes", func() error { return v.routed(v.d.reroute(way), edits, at) }, func() error { return v.d.reroute(way.back()) })
	}
	if err == nil {
		err = s.do("peers.record", func() error { return v.record(edits) }, nil)
	}
	if err != nil {
		return s.rollback(err)
	}
	for _, e := range edits {
		if e.new == nil {
			delete(v.set, e.key)
			delete(v.at, e.key)
			delete(v.unresolved, e.key)
			continue
		}
		if v.set[e.key].Endpoint != e.new.Endpoint {
			delete(v.unresolved, e.key)
		}
		if e.old == nil || e.old.Endpoint != e.new.Endpoint {
			v.at[e.key] = v.d.resolver.addresses(e.new.Endpoint)
		}
		v.set[e.key] = *e.new
	}
	return nil
}

func reversed(edits []edit) []edit {
	back := make([]edit, len(edits))
	for i, e := range edits {
		back[i] = edit{e.key, e.new, e.old}
	}
	return back
}

// tell makes edits in the node, in one change.
func (v *device) tell(ctx context.Context, edits []edit) error {
	if len(edits) == 1 {
		e := edits[0]
		if e.new != nil {
			return v.node().SetPeer(ctx, v.known(e))
		}
		if err := v.node().RemovePeer(e.key); !errors.Is(err, overlay.ErrUnknownPeer) {
			return err
		}
		return nil
	}
	next := make(map[overlay.PublicKey]overlay.Peer, len(v.set)+len(v.guests)+len(edits))
	for key, p := range v.all() {
		next[key] = v.known(edit{key, &p, &p})
	}
	for _, e := range edits {
		if e.new == nil {
			delete(next, e.key)
		} else {
			next[e.key] = v.known(e)
		}
	}
	return v.node().SetPeers(ctx, slices.Collect(maps.Values(next)))
}

// known is a peer as the node is to have it now: without an endpoint whose name is
// still being looked up.
func (v *device) known(e edit) overlay.Peer {
	p := *e.new
	if e.old != nil && e.old.Endpoint == p.Endpoint && v.unresolved[e.key] {
		p.Endpoint = ""
	}
	return p
}

// record puts edits on record.
func (v *device) record(edits []edit) error {
	err := v.d.store.Update(func(tx *state.Tx) error {
		for _, e := range edits {
			switch {
			case e.new == nil:
				tx.DeletePeer(v.scope, e.key.String())
			case e.old == nil || !samePeer(*e.old, *e.new):
				tx.PutPeer(state.Peer{Service: v.scope, PeerSpec: specOf(*e.new)})
			}
		}
		return nil
	})
	if err != nil {
		return because(err, "the peers were not recorded, and are as they were")
	}
	return nil
}

// specOf is a peer in the contract's terms.
func specOf(p overlay.Peer) wire.PeerSpec {
	return wire.PeerSpec{
		PublicKey:  p.PublicKey.String(),
		Endpoint:   p.Endpoint,
		AllowedIPs: join(p.AllowedIPs),
		Keepalive:  uint64(p.Keepalive / time.Second),
	}
}

// planned, told and routed say what went wrong in the request's terms.
func (v *device) planned(err error, at func(overlay.PublicKey) string) error {
	var c *clash
	if errors.As(err, &c) {
		return &Error{Code: wire.Conflict, Field: at(c.key) + "allowed_ips", Msg: c.Error() + ": give the peer what lies on its own node"}
	}
	return err
}

func (v *device) told(err error, at func(overlay.PublicKey) string) error {
	if err == nil {
		return nil
	}
	var key overlay.PublicKey
	var config *overlay.ConfigError
	var overlap *overlay.OverlapError
	switch {
	case errors.As(err, &config):
		key = config.Peer
	case errors.As(err, &overlap):
		key = overlap.Peer
	}
	return v.refused(err, at(key))
}

func (v *device) routed(err error, edits []edit, at func(overlay.PublicKey) string) error {
	if err == nil {
		return nil
	}
	e := because(err, "the host did not take the routes, and peers are as they were")
	if len(edits) == 1 {
		e.Field = at(edits[0].key) + "allowed_ips"
	}
	return e
}

// listPeers lists peers by device, and of a device by key.
func (d *Daemon) listPeers(r wire.ListPeers) (wire.Peers, error) {
	list := wire.Peers{Peers: []wire.Peer{}}
	add := func(v *device) {
		var scope wire.PeerScope = wire.GlobalScope{}
		if v.scope != "" {
			scope = wire.ServiceScope{Service: v.scope}
		}
		for _, p := range v.peers() {
			list.Peers = append(list.Peers, wire.Peer{PeerStatus: p, Scope: scope})
		}
	}
	if r.Scope != nil {
		v, release, err := d.deviceOf(r.Scope)
		if err != nil {
			return wire.Peers{}, err
		}
		defer release()
		add(v)
		return list, nil
	}
	if g := d.global.load(); g.device != nil {
		add(g.device)
	}
	for _, s := range d.allServices() {
		if s.device != nil {
			add(s.device)
		}
	}
	return list, nil
}
