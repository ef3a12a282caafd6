package daemon

import (
	"context"

	"github.com/overlayd/overlayd/daemon/wire"
)

func (d *Daemon) addPeer(ctx context.Context, r wire.AddPeer) error                 { return nil }
func (d *Daemon) removePeer(ctx context.Context, r wire.RemovePeer) error           { return nil }
func (d *Daemon) addAllowedIP(ctx context.Context, r wire.AddAllowedIP) error       { return nil }
func (d *Daemon) removeAllowedIP(ctx context.Context, r wire.RemoveAllowedIP) error { return nil }
func (d *Daemon) setPeers(ctx context.Context, r wire.SetPeers) (wire.PeersSet, error) {
	return wire.PeersSet{}, nil
}
func (d *Daemon) listPeers(r wire.ListPeers) (wire.Peers, error) { return wire.Peers{}, nil }
