package daemon

import (
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

// An edit is one peer that is to be another, or is to come or go.
type edit struct {
	key      overlay.PublicKey
	old, new *overlay.Peer // nil: there is none
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
	places := make(map[overlay.PublicKey][]netip.Addr) // of endpoints that are new
	count, size := len(v.set)+len(v.guests), v.size
	for _, e := range edits {
		if err := v.checkGuest(e.key, at(e.key)+"public_key"); err != nil {
			return err
		}
		if e.new != nil && e.key == v.node().PublicKey() {
			return invalid(at(e.key)+"public_key", "%v is the device's own", e.key)
		}
		if e.old != nil {
			count--
			size -= listedSize(*e.old)
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
		size += listedSize(*e.new)
		way.to = append(way.to, e.new.AllowedIPs...)
		if e.old == nil || e.new.Endpoint != e.old.Endpoint {
			places[e.key] = v.d.resolver.addresses(e.new.Endpoint)
			way.new = append(way.new, places[e.key]...)
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
	if size > v.size && size+len(v.guests)*guestSize > maxPeerList { // what is taken away always fits
		return failed(wire.Exhausted, "room for peers is exhausted: the list of those of %s would be longer than the %d bytes of an answer: give fewer and larger prefixes", v, maxPeerList)
	}

	undoing := context.WithoutCancel(ctx) // whoever asked may be gone by then
	var s steps
	err := s.do("peers.plan", func() error {
		return v.planned(v.d.plan.claim(v.scope, from, to), at)
	}, func() error { return v.d.plan.claim(v.scope, to, from) })
	if err == nil {
		err = s.do("peers.node", func() error { return v.told(v.tell(ctx, edits), at) }, func() error { return v.tell(undoing, reversed(edits)) })
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
	v.size = size
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
			v.at[e.key] = places[e.key]
			v.now.Load().called.Delete(e.key)
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

// maxPeerList bounds the peers of a device by what status says of them, in bytes, below
// wire.MaxFrame: else a few peers with many prefixes would leave everybody without a
// status.
const maxPeerList = 7 << 20

// guestSize is how many bytes a guest takes in the list of peers, at most.
const guestSize = aroundPeer + len("255.255.255.255/32,ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")

// aroundPeer is how many bytes a peer takes in the list besides its endpoint and its
// prefixes, at most: numbers of bytes have 20 digits, times 10.
const aroundPeer = len(`{"public_key":"","endpoint":"","allowed_ips":"","last_handshake_unix_secs":,"address":"","port":65535,"handshake_age_secs":,`+
	`"rx_bytes":,"tx_bytes":,"persistent_keepalive_secs":65535,"healthy":true},`) + 44 + 2*10 + 39 + 2*20

// listedSize is how many bytes a peer takes in the list.
func listedSize(p overlay.Peer) int {
	size := aroundPeer + len(p.Endpoint)
	var text [64]byte
	for _, a := range p.AllowedIPs {
		size += len(a.AppendTo(text[:0])) + len(",")
	}
	return size
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
