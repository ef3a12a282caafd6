package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
)

// tunnelMTU is the MTU of everything on the overlay: what WireGuard over IPv6 fits
// into an Ethernet frame.
const tunnelMTU = 1420

// A tunnelConfig is what a tunnel is made from.
type tunnelConfig struct {
	name  string // of the link
	alias string
	key   overlay.PrivateKey
	port  uint16
	addrs []netip.Prefix
}

// A tunnel is what a device runs on at a moment, never changed.
type tunnel struct {
	node  *overlay.Node
	stack *netstack.Stack // nil unless rootless
	link  hostnet.Link    // zero when rootless
	addrs []netip.Prefix

	// called has the keys of peers that call us, and were given the address they
	// last called from as an endpoint, so that they need not call again.
	called sync.Map
}

// openTunnel makes a tunnel without peers. After an error there is nothing of it.
func (d *Daemon) openTunnel(c tunnelConfig) (*tunnel, error) {
	if d.host == nil {
		return d.openStack(c)
	}
	// A lane of a device is worth its memory where a flow of each can have a core.
	lanes := min(runtime.GOMAXPROCS(0), 4)
	tun, err := overlay.OpenTUN(overlay.TUNConfig{Name: c.name, MTU: tunnelMTU, Addrs: c.addrs, Lanes: lanes})
	if err != nil {
		return nil, err
	}
	link, err := d.host.LinkByName(c.name)
	if err == nil {
		err = d.host.SetAlias(link.Index, c.alias)
	}
	if err != nil {
		tun.Close()
		return nil, err
	}
	link.Alias = c.alias
	node, err := overlay.New(overlay.Config{
		PrivateKey: c.key,
		Device:     tun,
		ListenPort: c.port,
		Resolver:   d.resolver,
		Logger:     d.log,
	})
	if err != nil {
		tun.Close()
		return nil, err
	}
	return &tunnel{node: node, link: link, addrs: slices.Clone(c.addrs)}, nil
}

// openStack makes a tunnel that ends in the daemon itself.
func (d *Daemon) openStack(c tunnelConfig) (*tunnel, error) {
	stack, err := netstack.New(netstack.Config{Addrs: c.addrs, MTU: tunnelMTU, Name: c.name})
	if err != nil {
		return nil, err
	}
	node, err := overlay.New(overlay.Config{
		PrivateKey: c.key,
		Device:     stack.Device(),
		Stages:     []packet.Stage{newForwarder(c.addrs)},
		ListenPort: c.port,
		Resolver:   d.resolver,
		Logger:     d.log,
	})
	if err != nil {
		stack.Close()
		return nil, err
	}
	return &tunnel{node: node, stack: stack, addrs: slices.Clone(c.addrs)}, nil
}

// noTunnel stands for one that could not be made yet: its node has ended.
func (d *Daemon) noTunnel(c tunnelConfig) (*tunnel, error) {
	c.port = 0
	t, err := d.openStack(c)
	if err != nil {
		return nil, err
	}
	t.node.Close()
	t.stack = nil
	return t, nil
}

// fill gives a new tunnel the device's peers, as they were called from by the one
// before, if there was one. Names are not waited for.
func (v *device) fill(t, before *tunnel) error {
	at := make(map[overlay.PublicKey]netip.AddrPort)
	if before != nil {
		for _, p := range before.node.Peers() {
			at[p.PublicKey] = p.Addr
		}
	}
	clear(v.unresolved)
	var peers []overlay.Peer
	var known []overlay.Peer
	for key, p := range v.all() {
		last := at[key]
		if before == nil {
			last = v.d.roaming.take(v.scope, key)
		}
		switch {
		case hostName(p.Endpoint) != "":
			p.Endpoint = ""
			v.unresolved[key] = true
		case p.Endpoint == "" && last.IsValid():
			p.Endpoint = last.String()
			t.called.Store(key, true)
		}
		peers = append(peers, p)
		if last.IsValid() && p.Endpoint != "" {
			known = append(known, p)
		}
	}
	if err := t.node.SetPeers(v.d.ctx, peers); err != nil {
		return err
	}
	for _, p := range known {
		if err := t.nudge(v.d.ctx, p); err != nil {
			return err
		}
	}
	if len(v.unresolved) > 0 {
		v.d.running.Go(func() { v.resolve(t) })
	}
	return nil
}

// nudge begins a session with a peer that had one, as only a keepalive does without
// traffic: the peer learns that its own session is gone.
func (t *tunnel) nudge(ctx context.Context, p overlay.Peer) error {
	if p.Keepalive > 0 {
		return nil
	}
	once := p
	once.Keepalive = time.Second
	if err := t.node.SetPeer(ctx, once); err != nil {
		return err
	}
	return t.node.SetPeer(ctx, p)
}

// resolve gives peers their endpoints, whose names are looked up until that
// succeeds, or the device has another tunnel.
func (v *device) resolve(t *tunnel) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		v.mu.Lock()
		var waiting []overlay.Peer
		for key := range v.unresolved {
			waiting = append(waiting, v.set[key])
		}
		over := v.closed || v.now.Load() != t
		v.mu.Unlock()
		if over {
			return
		}
		var errs []error
		for _, p := range waiting {
			errs = append(errs, v.resolvePeer(t, p))
		}
		err := errors.Join(errs...)
		if err == nil {
			v.d.recovered(v.part("peers"))
			return
		}
		v.d.degrade(v.part("peers"), err)
		select {
		case <-v.d.ctx.Done():
			return
		case <-v.ended:
			return
		case <-time.After(wait):
		}
	}
}

// resolvePeer gives a peer its endpoint, if that is still the one.
func (v *device) resolvePeer(t *tunnel, p overlay.Peer) error {
	ctx, cancel := context.WithTimeout(v.d.ctx, lookupTime)
	defer cancel()
	if err := v.d.resolver.prepare(ctx, p.Endpoint); err != nil {
		return fmt.Errorf("the endpoint of peer %v: %w", p.PublicKey, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now.Load() != t || !v.unresolved[p.PublicKey] || v.set[p.PublicKey].Endpoint != p.Endpoint {
		return nil
	}
	if err := t.node.SetEndpoint(ctx, p.PublicKey, p.Endpoint); err != nil {
		return err
	}
	delete(v.unresolved, p.PublicKey)
	was, is := v.at[p.PublicKey], v.d.resolver.addresses(p.Endpoint)
	v.at[p.PublicKey] = is
	return v.d.reroute(detour{device: v, gone: was, new: is})
}

// watch makes the device's tunnel anew whenever it fails, until the device is
// closed.
func (v *device) watch() {
	for {
		t := v.now.Load()
		select {
		case <-v.d.ctx.Done():
			return
		case <-v.ended:
			return
		case <-t.node.Done():
		}
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			if v.restore(t) {
				break
			}
			select {
			case <-v.d.ctx.Done():
				return
			case <-v.ended:
				return
			case <-time.After(wait):
			}
		}
	}
}

// restore puts a new tunnel in the place of one that failed, and reports whether the
// device has one that works, or is closed.
func (v *device) restore(failed *tunnel) bool {
	v.mu.Lock()
	if v.closed || v.now.Load() != failed {
		v.mu.Unlock()
		return true
	}
	if err := failed.node.Err(); err != nil {
		v.d.degrade(v.part("device"), err)
	}
	failed.node.Close()
	t, err := v.d.openTunnel(v.config)
	if err == nil {
		err = v.enter(t, failed)
	}
	v.mu.Unlock()
	if err != nil {
		v.d.degrade(v.part("device"), err)
		return false
	}
	v.d.renewed(v)
	v.d.recovered(v.part("device"))
	return true
}

// enter makes a tunnel the device's: with its peers and their routes. On error the
// tunnel is closed, and the device has the one before.
func (v *device) enter(t, before *tunnel) error {
	err := v.fill(t, before)
	if err != nil {
		t.node.Close()
		return err
	}
	v.now.Store(t)
	v.d.routes.onLink(v)
	// A route that cannot be made is no reason to be without all others.
	if err := v.d.remake(v); err != nil {
		v.d.degrade(v.part("routes"), err)
	} else {
		v.d.recovered(v.part("routes"))
	}
	return nil
}

// change makes the device run on another port or with other addresses. The
// sessions with peers begin anew. On error it runs on as before.
func (v *device) change(c tunnelConfig) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errDeviceClosed
	}
	before, was := v.now.Load(), v.config
	before.node.Close() // the name and perhaps the port are the new one's
	t, err := v.d.openTunnel(c)
	if err == nil {
		v.config = c
		if err = v.enter(t, before); err == nil {
			return nil
		}
		v.config = was
	}
	// Back to what there was; should that fail too, watch goes on trying.
	if t, again := v.d.openTunnel(was); again == nil {
		again = v.enter(t, before)
		err = errors.Join(err, again)
	} else {
		err = errors.Join(err, again)
	}
	return err
}

// part is the name of what a warning is about, for a part of the device.
func (v *device) part(of string) string {
	if v.scope == "" {
		return of
	}
	return of + " of service " + v.scope
}
