package daemon

import (
	"context"
	"errors"

	"github.com/overlayd/overlayd/daemon/internal/state"
)

// partOverlay names the node's overlay in warnings.
const partOverlay = "overlay"

// teardownGlobal takes the node's own overlay down. Guests are detached with it.
// When there is none that is no error. What cannot be removed is tried again by whoever
// asks for it once more, by upkeep, and by the next start.
func (d *Daemon) teardownGlobal(ctx context.Context) error {
	d.global.change.Lock()
	defer d.global.change.Unlock()
	if now := d.global.load(); now.device != nil {
		if err := d.strikeGlobal(ctx, now); err != nil {
			return err
		}
	}
	if err := d.removeGlobalRest(); err != nil {
		return because(err, "the node's overlay is torn down, but not all of it went: what is left is tried again every %v, or send teardown_global_overlay again", upkeepEvery)
	}
	return nil
}

// strikeGlobal takes the overlay, which nobody is on any more, off the record, and
// leaves the rest of it. On error it is still there.
func (d *Daemon) strikeGlobal(ctx context.Context, now *globalView) error {
	// Nobody joins from here on.
	d.global.use.Lock()
	d.global.leaving = true
	d.global.use.Unlock()
	err := d.leaveGlobal(ctx, "the node's overlay is torn down")

	d.global.use.Lock()
	defer d.global.use.Unlock()
	d.global.leaving = false
	if err != nil {
		return because(err, "the node's overlay is still there, since not everybody left it")
	}
	var s steps
	err = s.do("teardown_global.record", func() error {
		return d.recordNode(func(n *state.Node) { n.Global = nil }, func(tx *state.Tx) error {
			for _, key := range now.device.clients() {
				tx.DeletePeer("", key.String())
			}
			return nil
		})
	}, nil)
	if err != nil {
		return because(err, "the node's overlay is still there")
	}
	d.global.rest = now
	d.publishGlobal(&globalView{Global: state.Global{Cluster: now.Cluster}})
	return nil
}

// removeGlobalRest removes what is left of an overlay that is off the record, everything
// that can be; global.change is held. Its addresses go last: until nothing has them any
// more they are nobody else's.
func (d *Daemon) removeGlobalRest() error {
	was := d.global.rest
	if was == nil {
		return nil
	}
	d.global.use.Lock()
	defer d.global.use.Unlock()
	var s steps
	err := errors.Join(
		s.do("teardown_global.firewall", func() error { return d.admitGlobal(was.Global, d.global.load().Global) }, nil),
		s.do("teardown_global.device", was.device.close, nil),
	)
	if err == nil {
		err = s.do("teardown_global.lease", d.unleaseGlobal, nil)
	}
	if err != nil {
		d.degrade(partOverlay, because(err, "it is torn down, but not all of it went"))
		return err
	}
	d.global.rest = nil
	d.plan.leave(localPrefixes(was.Global))
	d.global.view.Store(&globalView{Global: state.Global{Cluster: d.standingCluster()}})
	d.recovered(partOverlay)
	return nil
}
