package daemon

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
)

// node is the owner of what there is one of on record.
type node struct {
	mu  sync.Mutex // held while it is written
	now atomic.Pointer[state.Node]
}

// load is what is on record, which must not be changed: of what the cluster says and
// the node's own overlay it is the latest. It never waits.
func (n *node) load() *state.Node { return n.now.Load() }

// updateNode changes what there is one of, on record and then here. change works on
// a copy; on an error nothing has changed.
func (d *Daemon) updateNode(change func(n *state.Node)) error {
	return d.recordNode(change, nil)
}

// recordNode is updateNode together with what else is to be recorded, all of it or
// nothing.
func (d *Daemon) recordNode(change func(n *state.Node), more func(tx *state.Tx) error) error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	var next state.Node
	err := d.store.Update(func(tx *state.Tx) error {
		next = tx.Node()
		change(&next)
		tx.SetNode(next)
		if more != nil {
			return more(tx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.node.now.Store(&next)
	return nil
}

// setLocalNodeID records the cluster's number for this node, from which the places
// of services set up from now on follow. Those there are stay where they are.
func (d *Daemon) setLocalNodeID(_ context.Context, r wire.SetLocalNodeID) error {
	if d.node.load().ID == r.NodeID {
		return nil
	}
	if err := d.updateNode(func(n *state.Node) { n.ID = r.NodeID }); err != nil {
		return because(err, "the node id was not recorded")
	}
	return nil
}

// setLocalWGPubkey records the key the cluster knows this node by. The node's key is
// its own, and status warns when it is another.
func (d *Daemon) setLocalWGPubkey(_ context.Context, r wire.SetLocalWGPubkey) error {
	key, err := parseKey("pubkey", r.Pubkey)
	if err != nil {
		return err
	}
	if d.node.load().ClusterKey == key.String() {
		return nil
	}
	if err := d.updateNode(func(n *state.Node) { n.ClusterKey = key.String() }); err != nil {
		return because(err, "the node's public key was not recorded")
	}
	return nil
}
