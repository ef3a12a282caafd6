package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overlayd/overlayd/internal/wireguard"
)

// Peer is the wanted state of one peer.
type Peer struct {
	// PublicKey names the peer. Required.
	PublicKey PublicKey

	// PresharedKey is mixed into handshakes. A change holds from the next
	// handshake on. Zero: none.
	PresharedKey PresharedKey

	// Endpoint is where the peer listens: "host:port", the host an IP address or
	// a name. A name is resolved before anything changes, and again each time
	// handshakes fail, each of its addresses being tried in turn. WireGuard
	// follows a peer that calls from elsewhere; giving the same Endpoint again
	// leaves that address in use. Empty: wait to be called, or, for a peer the
	// node has, go on with the address in use.
	Endpoint string

	// AllowedIPs are the addresses that are the peer's: what is sent to them goes
	// to it, and only what is sent from them is taken from it. Host bits are
	// ignored. See the package doc for what may overlap.
	AllowedIPs []netip.Prefix

	// Keepalive is how often to send something if there is nothing else to send,
	// so that NATs and firewalls on the way keep the path open; whole seconds, at
	// most 65,535 of them. Zero: never.
	Keepalive time.Duration
}

// PeerStatus is a peer as it is now.
type PeerStatus struct {
	PublicKey  PublicKey
	Preshared  bool           // there is a preshared key
	Endpoint   string         // as it was set
	Addr       netip.AddrPort // the address in use; zero: not known yet
	AllowedIPs []netip.Prefix // masked and sorted
	Keepalive  time.Duration

	LastHandshake time.Time // zero: never
	RxBytes       uint64    // of datagrams, with WireGuard's overhead, as wg(8) counts
	TxBytes       uint64
	RxPackets     uint64 // IP packets, each segment of a superpacket counted
	TxPackets     uint64
}

// A peer is a Peer that was checked.
type peer struct {
	Peer
	endpoint endpoint
}

// wanted is what the engine is told. The endpoint is left out unless it is new,
// so that an address the engine has learned stays.
func (p *peer) wanted(newEndpoint bool) wireguard.Peer {
	w := wireguard.Peer{
		PublicKey:    p.PublicKey,
		PresharedKey: p.PresharedKey,
		AllowedIPs:   p.AllowedIPs,
		Keepalive:    p.Keepalive,
	}
	if newEndpoint {
		w.Endpoint = p.endpoint.addr()
	}
	return w
}

const maxKeepalive = 65535 * time.Second // 16 bits of seconds in every implementation

var (
	errOwnKey    = errors.New("is the node's own")
	errTwice     = errors.New("is given twice")
	errKeepalive = fmt.Errorf("must be whole seconds from 0 to %v", maxKeepalive)
)

// checkPeer is p, cloned and canonical, its name not yet resolved.
func (n *Node) checkPeer(p Peer) (*peer, error) {
	refuse := func(field, value string, err error) (*peer, error) {
		return nil, &ConfigError{Peer: p.PublicKey, Field: field, Value: value, Err: err}
	}
	switch {
	case p.PublicKey.IsZero():
		return refuse("PublicKey", "", errRequired)
	case p.PublicKey == n.public:
		return refuse("PublicKey", "", errOwnKey)
	case p.Keepalive < 0 || p.Keepalive > maxKeepalive || p.Keepalive%time.Second != 0:
		return refuse("Keepalive", p.Keepalive.String(), errKeepalive)
	}
	e, err := parseEndpoint(p.Endpoint)
	if err != nil {
		return refuse("Endpoint", p.Endpoint, err)
	}
	p.AllowedIPs, err = canonicals(p.PublicKey, p.AllowedIPs)
	if err != nil {
		return nil, err
	}
	return &peer{Peer: p, endpoint: e}, nil
}

// SetPeer adds a peer, or changes one in place: its session goes on, and so does
// its traffic. ctx bounds the resolution of its endpoint's name. On error, a
// *ConfigError or *OverlapError, nothing has changed.
func (n *Node) SetPeer(ctx context.Context, p Peer) error {
	next, err := n.checkPeer(p)
	if err != nil {
		return err
	}
	if err := n.resolvePeers(ctx, []*peer{next}); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.peers[next.PublicKey]
	return n.apply(old, next, inherit(old, next))
}

// change edits a peer the node has. edit works on a copy, and reports whether
// the endpoint is to be set.
func (n *Node) change(key PublicKey, edit func(p *peer) (newEndpoint bool)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, err := n.lookup(key)
	if err != nil {
		return err
	}
	next := *old
	return n.apply(old, &next, edit(&next))
}

// apply puts next in place of old, which is nil for a new peer; n.mu is held.
func (n *Node) apply(old, next *peer, newEndpoint bool) error {
	if n.ended {
		return errClosed
	}
	if err := n.owners.check(next.PublicKey, next.AllowedIPs); err != nil {
		return err
	}
	if err := n.engine.SetPeer(next.wanted(newEndpoint)); err != nil {
		return fmt.Errorf("overlay: set peer %v: %w", next.PublicKey, err)
	}
	if old != nil {
		n.owners.release(old.AllowedIPs)
	}
	n.owners.take(next.PublicKey, next.AllowedIPs)
	n.peers[next.PublicKey] = next
	return nil
}

// inherit lets an endpoint that is the same as before keep what was resolved,
// and reports whether it is another one.
func inherit(old, next *peer) bool {
	if old != nil && old.endpoint.text == next.endpoint.text {
		next.endpoint = old.endpoint
		return false
	}
	return true
}

// SetPeers makes peers the whole set, in one change: those not in it are
// removed, those in it are added or changed in place. On error, a *ConfigError
// or *OverlapError, nothing has changed.
func (n *Node) SetPeers(ctx context.Context, peers []Peer) error {
	next := make([]*peer, 0, len(peers))
	set := make(map[PublicKey]*peer, len(peers))
	owners := new(ownerTable)
	for _, given := range peers {
		p, err := n.checkPeer(given)
		if err != nil {
			return err
		}
		if set[p.PublicKey] != nil {
			return &ConfigError{Peer: p.PublicKey, Field: "PublicKey", Err: errTwice}
		}
		if err := owners.check(p.PublicKey, p.AllowedIPs); err != nil {
			return err
		}
		owners.take(p.PublicKey, p.AllowedIPs)
		next = append(next, p)
		set[p.PublicKey] = p
	}
	if err := n.resolvePeers(ctx, next); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return errClosed
	}
	wanted := make([]wireguard.Peer, len(next))
	for i, p := range next {
		wanted[i] = p.wanted(inherit(n.peers[p.PublicKey], p))
	}
	if err := n.engine.SetPeers(wanted); err != nil {
		return fmt.Errorf("overlay: set peers: %w", err)
	}
	n.peers, n.owners = set, owners
	return nil
}

// RemovePeer removes a peer and its sessions. For a peer the node does not have
// the error is ErrUnknownPeer.
func (n *Node) RemovePeer(key PublicKey) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := n.lookup(key)
	if err != nil {
		return err
	}
	n.engine.RemovePeer(key)
	delete(n.peers, key)
	n.owners.release(p.AllowedIPs)
	return nil
}

// SetEndpoint sends to the peer at another "host:port" from now on, or, given
// the same once more, resolves it again and leaves any address the peer has
// called from meanwhile. On error nothing has changed.
func (n *Node) SetEndpoint(ctx context.Context, key PublicKey, hostPort string) error {
	e, err := parseEndpoint(hostPort)
	if err == nil && hostPort == "" {
		err = errRequired
	}
	if err != nil {
		return &ConfigError{Peer: key, Field: "Endpoint", Value: hostPort, Err: err}
	}
	if err := n.resolveEndpoint(ctx, key, &e); err != nil {
		return err
	}
	return n.change(key, func(p *peer) bool {
		p.Endpoint, p.endpoint = hostPort, e
		return true
	})
}

// Allow gives a peer one more prefix. One it has already is no error. On error,
// a *ConfigError or *OverlapError, nothing has changed.
func (n *Node) Allow(key PublicKey, prefix netip.Prefix) error {
	prefix, err := canonical(key, prefix)
	if err != nil {
		return err
	}
	return n.change(key, func(p *peer) bool {
		if at, found := slices.BinarySearchFunc(p.AllowedIPs, prefix, netip.Prefix.Compare); !found {
			p.AllowedIPs = slices.Insert(slices.Clone(p.AllowedIPs), at, prefix)
		}
		return false
	})
}

// Disallow takes one prefix, exactly as it was given, from a peer. One it does
// not have is no error.
func (n *Node) Disallow(key PublicKey, prefix netip.Prefix) error {
	prefix, err := canonical(key, prefix)
	if err != nil {
		return err
	}
	return n.change(key, func(p *peer) bool {
		p.AllowedIPs = slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(had netip.Prefix) bool { return had == prefix })
		return false
	})
}

// Peers is a snapshot of all peers, in the order of their public keys.
func (n *Node) Peers() []PeerStatus {
	n.mu.Lock()
	endpoints := make(map[PublicKey]string, len(n.peers))
	for key, p := range n.peers {
		endpoints[key] = p.endpoint.text
	}
	n.mu.Unlock()
	peers := n.engine.Peers()
	status := make([]PeerStatus, 0, len(peers))
	for _, p := range peers {
		status = append(status, PeerStatus{
			PublicKey:     p.PublicKey,
			Preshared:     p.PresharedKey != [32]byte{},
			Endpoint:      endpoints[p.PublicKey],
			Addr:          p.Endpoint,
			AllowedIPs:    slices.Clone(p.AllowedIPs),
			Keepalive:     p.Keepalive,
			LastHandshake: p.LastHandshake,
			RxBytes:       p.RxBytes,
			TxBytes:       p.TxBytes,
			RxPackets:     p.RxPackets,
			TxPackets:     p.TxPackets,
		})
	}
	slices.SortFunc(status, func(a, b PeerStatus) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return status
}

// lookup finds a peer; n.mu is held.
func (n *Node) lookup(key PublicKey) (*peer, error) {
	if n.ended {
		return nil, errClosed
	}
	p := n.peers[key]
	if p == nil {
		return nil, fmt.Errorf("%w: %v", ErrUnknownPeer, key)
	}
	return p, nil
}
