package daemon

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
)

// A device is a WireGuard device with its peers and the host's routes to them:
// the node's, or a service's own. It stays the same when what it runs on fails and
// is made anew.
type device struct {
	scope string // the service whose it is; "": the node's

	mu  sync.Mutex // held by who changes it
	now atomic.Pointer[tunnel]
}

// A tunnel is what a device runs on at a moment, never changed.
type tunnel struct {
	node  *overlay.Node
	stack *netstack.Stack // nil unless rootless
	link  hostnet.Link    // zero when rootless
	addrs []netip.Prefix
}

// node, stack, link and addrs are those of the moment; they never wait. The node is
// never nil, but may have ended. stack is nil unless rootless, link zero if so.
func (v *device) node() *overlay.Node    { return v.now.Load().node }
func (v *device) stack() *netstack.Stack { return v.now.Load().stack }
func (v *device) link() hostnet.Link     { return v.now.Load().link }
func (v *device) addrs() []netip.Prefix  { return v.now.Load().addrs }

// setGuest makes a guest on this host a peer, with routes to it, besides those
// that clients set; setPeers leaves it alone. Its key must not be another peer's.
func (v *device) setGuest(ctx context.Context, key overlay.PublicKey, addrs []netip.Addr) error {
	return nil
}

// removeGuest undoes setGuest. One that is not there is no error.
func (v *device) removeGuest(key overlay.PublicKey) error { return nil }

// peers is a snapshot, in the order of the keys; it never waits.
func (v *device) peers() []wire.PeerStatus { return nil }

// behind is the peer that an address belongs to, by its allowed IPs.
func (v *device) behind(a netip.Addr) (overlay.PublicKey, netip.Prefix, bool) {
	return overlay.PublicKey{}, netip.Prefix{}, false
}
