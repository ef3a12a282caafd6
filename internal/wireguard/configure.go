package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
	"github.com/overlayd/overlayd/internal/udp"
)

// SetPeers makes the peers exactly these, in one change. Peers that stay keep
// their sessions, counters and, where no endpoint is given, their endpoint.
func (e *Engine) SetPeers(peers []Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed("set peers")
	}
	routes := new(bart.Table[*peer])
	keep := make(map[[32]byte]*peer, len(peers))
	for i := range peers {
		p := e.peers[peers[i].PublicKey]
		if p == nil {
			p = newPeer(e, peers[i].PublicKey)
		}
		keep[p.key] = p
	}
	for i := range peers {
		p := keep[peers[i].PublicKey]
		p.allowed = maskedAll(peers[i].AllowedIPs)
		for _, prefix := range p.allowed {
			routes.Insert(prefix, p)
		}
	}
	old := e.peers
	e.peers = keep
	for i := range peers {
		keep[peers[i].PublicKey].configure(&peers[i])
	}
	e.routes.Store(routes) // when they have what a packet needs
	for key, p := range old {
		if keep[key] == nil {
			p.end()
		}
	}
	return nil
}

// SetPeer adds a peer, or changes it in place: its session goes on.
func (e *Engine) SetPeer(cfg Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed("set peer")
	}
	p := e.peers[cfg.PublicKey]
	if p == nil {
		p = newPeer(e, cfg.PublicKey)
		e.peers[p.key] = p
	}
	routes := e.routes.Load()
	allowed := maskedAll(cfg.AllowedIPs)
	for prefix := range p.prefixes(routes) {
		if !slices.Contains(allowed, prefix) {
			routes = routes.DeletePersist(prefix)
		}
	}
	for _, prefix := range allowed {
		if owner, _ := routes.Get(prefix); owner != p {
			routes = routes.InsertPersist(prefix, p)
		}
	}
	p.allowed = allowed
	p.configure(&cfg)
	e.routes.Store(routes)
	return nil
}

// RemovePeer ends a peer and reports whether there was one.
func (e *Engine) RemovePeer(key [32]byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[key]
	if p == nil {
		return false
	}
	delete(e.peers, key)
	routes := e.routes.Load()
	for prefix := range p.prefixes(routes) {
		routes = routes.DeletePersist(prefix)
	}
	e.routes.Store(routes)
	p.end()
	return true
}

// Peers is a snapshot of all peers, in no order.
func (e *Engine) Peers() []PeerStatus {
	e.mu.RLock()
	defer e.mu.RUnlock()
	routes := e.routes.Load()
	all := make([]PeerStatus, 0, len(e.peers))
	for _, p := range e.peers {
		st := p.status()
		st.AllowedIPs = slices.AppendSeq(make([]netip.Prefix, 0, len(p.allowed)), p.prefixes(routes))
		all = append(all, st)
	}
	return all
}

func (e *Engine) peer(key [32]byte) *peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.peers[key]
}

// prefixes are p's allowed IPs that are still its own.
func (p *peer) prefixes(routes *bart.Table[*peer]) func(yield func(netip.Prefix) bool) {
	return func(yield func(netip.Prefix) bool) {
		for _, prefix := range p.allowed {
			if owner, ok := routes.Get(prefix); ok && owner == p && !yield(prefix) {
				return
			}
		}
	}
}

// configure applies all of cfg but the allowed IPs' routes.
func (p *peer) configure(cfg *Peer) {
	now := p.engine.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.presharedKey = cfg.PresharedKey
	if cfg.Endpoint.IsValid() {
		if known := p.endpoint.Load(); known == nil || known.Addr != cfg.Endpoint {
			p.endpoint.Store(&udp.Endpoint{Addr: cfg.Endpoint})
			p.quietUntil.Store(0) // a new address is worth a new call at once
		}
	}
	before := p.keepalive.Swap(int64(cfg.Keepalive))
	if cfg.Keepalive > 0 && before == 0 && p.endpoint.Load() != nil {
		// The first is due at once and opens the way through a NAT, as wireguard-go's.
		// It is for the timer to send, for the engine's mu is held.
		p.activity.traversed.Store(now - int64(cfg.Keepalive))
		p.wake(now)
	}
	if cfg.Keepalive > 0 {
		p.wake(now + int64(cfg.Keepalive))
	}
}

// end takes everything from p that runs or is secret.
func (p *peer) end() {
	p.stopTimer()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removed = true
	p.forget()
	p.cookies.wipe()
	p.engine.identity.forget(p.key)
	clear(p.presharedKey[:])
}

func maskedAll(prefixes []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, len(prefixes))
	for i, prefix := range prefixes {
		all[i] = prefix.Masked()
	}
	return all
}

func errClosed(doing string) error {
	return fmt.Errorf("wireguard: %s: the engine is closed: %w", doing, net.ErrClosed)
}
