package hostnet

import (
	"net/netip"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// WithoutBridgeFamily has the kernel be asked for a family of tables that it has not,
// in the place of that of bridges, until undo.
func WithoutBridgeFamily() (undo func()) {
	bridgeFamily = unix.NFPROTO_DECNET
	return func() { bridgeFamily = nftables.TableFamilyBridge }
}

// SetWatchBuffer has link watches that begin from now on lose messages earlier, and
// returns what undoes it.
func SetWatchBuffer(bytes int) (undo func()) {
	was := watchBuffer
	watchBuffer = bytes
	return func() { watchBuffer = was }
}

// SetAwaitTime sets for how long the kernel is waited for, and returns what undoes it.
func SetAwaitTime(d time.Duration) (undo func()) {
	was := awaitTime
	awaitTime = d
	return func() { awaitTime = was }
}

// Do is do.
func (n *Namespace) Do(f func() error) error { return n.do(f) }

// LookElsewhere has h look links up in the namespace of another handle from now on; it
// makes and removes them where it did. So it finds none that it has made.
func (h *Handle) LookElsewhere(other *Handle) {
	h.netlink.Close()
	h.netlink = other.netlink
}

// AwaitLocal is awaitLocal.
func (h *Handle) AwaitLocal(index int, addr netip.Addr) error { return h.awaitLocal(index, addr) }

// SetDown is the inverse of SetUp.
func (h *Handle) SetDown(index int) error { return h.netlink.LinkSetDown(byIndex(index)) }
