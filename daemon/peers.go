package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

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
	var why string
	switch {
	case errors.Is(err, wire.NotFound):
		why = "it is not set up: send setup_service_overlay first"
	case err != nil:
		return nil, nil, err
	case found.device == nil:
		release()
		why = "it is shared, and its peers are the node's own: ask for those without the service, or set it up with mode dedicated"
	default:
		return found.device, release, nil
	}
	return nil, nil, &Error{Code: wire.NotFound, Field: "scope.service", Msg: "no dedicated overlay for service " + s.Service + ": " + why, exact: true}
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
	at := func(overlay.PublicKey) string { return "" } // its fields are the request's
	err := d.lookUp(ctx, scope, at, func(v *device) []overlay.Peer {
		was := v.peer(key)
		if p, err := next(was); err == nil && p != nil && (was == nil || was.Endpoint != p.Endpoint) {
			return []overlay.Peer{*p}
		}
		return nil
	})
	if err != nil {
		return err
	}
	v, release, err := d.deviceOf(scope)
	if err != nil {
		return err
	}
	defer release()
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
	return v.apply(ctx, []edit{{key, old, p}}, at)
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

// lookUp looks up the names of the endpoints that a device is to be told of, so that
// nobody waits for them: the device may go meanwhile. at is the path of a peer in the
// request.
func (d *Daemon) lookUp(ctx context.Context, scope wire.PeerScope, at func(overlay.PublicKey) string, moved func(v *device) []overlay.Peer) error {
	v, release, err := d.deviceOf(scope)
	if err != nil {
		return err
	}
	peers := moved(v)
	release()
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var endpoints []string
	for _, p := range peers {
		endpoints = append(endpoints, p.Endpoint)
	}
	err = d.resolver.prepare(ctx, endpoints...)
	var unknown *lookupError
	if !errors.As(err, &unknown) {
		return err
	}
	first := peers[slices.Index(endpoints, unknown.endpoint)]
	return &Error{Code: wire.NotReady, Field: at(first.PublicKey) + "endpoint", Msg: fmt.Sprintf("%q cannot be looked up now: try again, or give an address", short(unknown.endpoint)), Err: unknown.err}
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
	set, err := d.replacePeers(ctx, r)
	if err != nil {
		return wire.PeersSet{}, inList(err, r.Peers)
	}
	return set, nil
}

// inList says in an error on a peer of a list which one it is, besides its place.
func inList(err error, peers []wire.PeerSpec) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	var i int
	if n, _ := fmt.Sscanf(e.Field, "peers[%d].", &i); n != 1 || i < 0 || i >= len(peers) {
		return err
	}
	const whole = 44 // characters of base64
	if key := peers[i].PublicKey; len(key) != whole || !strings.Contains(e.Msg, key) {
		e.Msg = fmt.Sprintf("of peer %s: %s", shortKey(key), e.Msg)
	}
	return err
}

// replacePeers is setPeers, but for how its errors are told.
func (d *Daemon) replacePeers(ctx context.Context, r wire.SetPeers) (wire.PeersSet, error) {
	if len(r.Peers) > maxPeers {
		return wire.PeersSet{}, &Error{Code: wire.Exhausted, Field: "peers", Msg: fmt.Sprintf("there are %d, and a device takes at most %d", len(r.Peers), maxPeers)}
	}
	next := make(map[overlay.PublicKey]overlay.Peer, len(r.Peers))
	at := make(map[overlay.PublicKey]string, len(r.Peers))
	in := func(key overlay.PublicKey) string { return at[key] }
	var order []overlay.PublicKey
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
		order = append(order, p.PublicKey)
	}
	err := d.lookUp(ctx, r.Scope, in, func(v *device) (moved []overlay.Peer) {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, key := range order {
			if p := next[key]; p.Endpoint != v.set[key].Endpoint {
				moved = append(moved, p)
			}
		}
		return moved
	})
	if err != nil {
		return wire.PeersSet{}, err
	}
	v, release, err := d.deviceOf(r.Scope)
	if err != nil {
		return wire.PeersSet{}, err
	}
	defer release()
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
	if err := v.apply(ctx, edits, in); err != nil {
		return wire.PeersSet{}, err
	}
	return done, nil
}

func samePeer(a, b overlay.Peer) bool {
	return a.Endpoint == b.Endpoint && a.Keepalive == b.Keepalive && slices.Equal(a.AllowedIPs, b.AllowedIPs)
}

// scopeSize is how many bytes the scope of a peer takes in the list, without the name.
const scopeSize = len(`,"scope":{"scope":"service","service":""}`)

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
	size := 0
	for _, v := range d.devices() {
		from := len(list.Peers)
		add(v)
		for _, p := range list.Peers[from:] {
			size += aroundPeer + scopeSize + len(v.scope) + len(p.Endpoint) + len(p.AllowedIPs)
		}
		if size > maxPeerList+maxPeers*scopeSize { // as much as of one device there may be
			return wire.Peers{}, &Error{Code: wire.Exhausted, Field: "scope", Msg: fmt.Sprintf("all peers together are more than fits the %d bytes of an answer: ask for those of one scope at a time", wire.MaxFrame)}
		}
	}
	return list, nil
}
