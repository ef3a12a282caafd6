package hostnet

import (
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

// Do is do.
func (n *Namespace) Do(f func() error) error { return n.do(f) }
