package daemon

import (
	"context"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/overlay"
)

// A device is a WireGuard device with its peers and the host's routes to them:
// the node's, or a service's own.
type device struct {
	scope string       // the service whose it is; "": the node's
	link  hostnet.Link // zero when rootless
	addrs []netip.Prefix
	node  *overlay.Node
}

// setGuest makes a guest on this host a peer, with routes to it, besides those
// that clients set; setPeers leaves it alone.
func (v *device) setGuest(ctx context.Context, key overlay.PublicKey, addrs []netip.Addr) error {
	return nil
}

// removeGuest undoes setGuest. One that is not there is no error.
func (v *device) removeGuest(key overlay.PublicKey) error { return nil }

// peers is a snapshot; it never waits.
func (v *device) peers() []wire.PeerStatus { return nil }

// behind is the peer that an address belongs to, by its allowed IPs.
func (v *device) behind(a netip.Addr) (overlay.PublicKey, netip.Prefix, bool) {
	return overlay.PublicKey{}, netip.Prefix{}, false
}
