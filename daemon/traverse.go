package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// tickTime bounds a round, whatever resolvers do.
const tickTime = 10 * time.Second

// natTick is one round of looking at how peers are reached: the host names of
// those that do not answer are resolved again, in at most tickTime, and changes of
// address are told. It asks nobody but the host's own resolver. One that comes
// while another is under way waits for that.
func (d *Daemon) natTick(ctx context.Context) error {
	m := &d.monitor
	m.tickMu.Lock()
	under := m.tick
	if under == nil {
		m.tick = make(chan struct{})
	}
	m.tickMu.Unlock()
	if under != nil {
		select {
		case <-under:
			return nil
		case <-ctx.Done():
			return because(ctx.Err(), "waited for the round under way")
		}
	}
	defer func() {
		m.tickMu.Lock()
		close(m.tick)
		m.tick = nil
		m.tickMu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, tickTime)
	defer cancel()
	d.resolveAgain(ctx)
	m.lastTick.Store(time.Now().Unix())
	return nil
}

// resolveAgain resolves the endpoints that are host names of the peers that do not
// answer.
func (d *Daemon) resolveAgain(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, lookups)
	var mu sync.Mutex
	var failures []error
	for _, v := range d.devices() {
		for _, p := range v.unanswering() {
			slots <- struct{}{} // each lookup ends with ctx
			wg.Go(func() {
				defer func() { <-slots }()
				if err := v.resolveEndpoint(ctx, p); err != nil {
					mu.Lock()
					failures = append(failures, fmt.Errorf("peer %v of %v: %w", p.PublicKey, v, err))
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return // who asked is gone, which says nothing of the names
	case len(failures) == 0:
		d.recovered(partEndpoints)
		return
	}
	d.degrade(partEndpoints, fmt.Errorf("endpoints of %d peers that do not answer were not found again, of which one: %w", len(failures), failures[0]))
}

// unanswering are the peers that clients set, whose endpoints are host names, and
// that do not answer.
func (v *device) unanswering() []overlay.Peer {
	var ill []overlay.Peer
	for _, p := range v.node().Peers() {
		if v.d.healthy(v.scope, p.PublicKey, p.LastHandshake) {
			continue
		}
		if set := v.peer(p.PublicKey); set != nil && hostName(set.Endpoint) != "" {
			ill = append(ill, *set)
		}
	}
	return ill
}

// resolveEndpoint looks a peer's endpoint up, and sends there from now on if it is
// still the peer's. The device is not held up by the lookup.
func (v *device) resolveEndpoint(ctx context.Context, p overlay.Peer) error {
	if err := v.d.resolver.prepare(ctx, p.Endpoint); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed || v.set[p.PublicKey].Endpoint != p.Endpoint {
		return nil
	}
	if err := v.node().SetEndpoint(ctx, p.PublicKey, p.Endpoint); err != nil {
		if errors.Is(err, net.ErrClosed) {
			return nil // it is being made anew, and resolves all names then
		}
		return err
	}
	delete(v.unresolved, p.PublicKey)
	was, is := v.at[p.PublicKey], v.d.resolver.addresses(p.Endpoint)
	v.at[p.PublicKey] = is
	return v.d.reroute(detour{device: v, gone: was, new: is})
}

// natStatus never waits.
func (d *Daemon) natStatus() wire.NATStatus {
	s := wire.NATStatus{LastTick: d.monitor.lastTick.Load(), PortCount: uint32(d.portCount())}
	if v := d.global.load(); v != nil && v.device != nil {
		s.Enabled = v.NAT
	}
	return s
}
