package daemon

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
)

// A global is the owner of the node's own overlay.
type global struct {
	change sync.Mutex   // held by who sets up or tears down, all the while
	use    sync.RWMutex // for reading by who relies on the overlay staying
	view   atomic.Pointer[globalView]
}

// A globalView is the node's own overlay at a moment, never changed. There is one
// before it is set up too, with the default cluster and no device.
type globalView struct {
	state.Global
	device *device // nil: not set up
}

func (g *global) load() *globalView { return g.view.Load() }

// pools are where addresses of the node's own network come from: its slice, or the
// clusters; of the families that have a slice the slice.
func (v *globalView) pools() []netip.Prefix { return nil }

// globalOverlay is the node's own overlay, which stays until release is called. When
// it is not set up the error is an Error that is wire.NotReady. Who holds it may not
// wait for setupGlobal or teardownGlobal; to ask once more while holding it may wait
// for ever.
func (d *Daemon) globalOverlay() (v *globalView, release func(), err error) {
	return nil, nil, nil
}

func (d *Daemon) setLocalNodeID(ctx context.Context, r wire.SetLocalNodeID) error     { return nil }
func (d *Daemon) setLocalWGPubkey(ctx context.Context, r wire.SetLocalWGPubkey) error { return nil }
func (d *Daemon) setupGlobal(ctx context.Context, r wire.SetupGlobalOverlay) (wire.BridgeName, error) {
	return wire.BridgeName{}, nil
}
func (d *Daemon) teardownGlobal(ctx context.Context) error { return nil }
