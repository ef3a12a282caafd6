package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

const (
	// tickTime bounds a round, whatever resolvers do.
	tickTime = 10 * time.Second
	// tickLookups is how many names are looked up at once.
	tickLookups = 16
)

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
	slots := make(chan struct{}, tickLookups)
	var mu sync.Mutex
	var failures []error
	for _, v := range d.devices() {
		node := v.node()
		for _, p := range node.Peers() {
			if !isHostName(p.Endpoint) || d.healthy(v.scope, p.PublicKey, p.LastHandshake) {
				continue
			}
			slots <- struct{}{} // each lookup ends with ctx
			wg.Go(func() {
				defer func() { <-slots }()
				err := node.SetEndpoint(ctx, p.PublicKey, p.Endpoint)
				if err != nil && !errors.Is(err, net.ErrClosed) {
					mu.Lock()
					failures = append(failures, fmt.Errorf("peer %v: %w", p.PublicKey, err))
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(failures) == 0 {
		d.recovered(partEndpoints)
		return
	}
	d.degrade(partEndpoints, fmt.Errorf("endpoints of %d peers that do not answer could not be resolved again: %w", len(failures), failures[0]))
}

// isHostName reports whether an endpoint is the name of a host, and a port.
func isHostName(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err != nil
}

// natStatus never waits.
func (d *Daemon) natStatus() wire.NATStatus {
	s := wire.NATStatus{LastTick: d.monitor.lastTick.Load(), PortCount: uint32(d.portCount())}
	if v := d.global.load(); v != nil && v.device != nil {
		s.Enabled = v.NAT
	}
	return s
}
