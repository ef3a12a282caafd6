package hostnet

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Handle reaches one network namespace, whatever thread it is used from. Its
// methods are safe for use by several goroutines; after Close there are none to
// be called. Errors wrap the system's: unix.EEXIST for what is there already,
// unix.ENODEV for a link that is not, unix.EPERM without CAP_NET_ADMIN.
type Handle struct {
	netlink       *netlink.Handle
	namespace     *Namespace
	knowsRules    atomic.Bool    // the firewall's are this handle's
	noBridgeRules atomic.Bool    // the kernel has none
	held          *os.File       // by which the namespace is this handle's; may be nil
	deleting      sync.WaitGroup // what DeleteLink began
}

// Open returns a handle on the calling thread's network namespace.
func Open() (*Handle, error) {
	n, err := currentNamespace()
	if err != nil {
		return nil, fmt.Errorf("open our network namespace: %w", err)
	}
	// Not simply on this thread: the namespace and the socket are to be the same.
	h, err := n.handle()
	if err != nil {
		n.Close()
		return nil, err
	}
	return h, nil
}

// handle returns a handle that takes the namespace for its own.
func (n *Namespace) handle() (*Handle, error) {
	h := &Handle{namespace: n}
	err := n.do(func() (err error) {
		h.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return h, nil
}

// Namespace tells which namespace the handle reaches.
func (h *Handle) Namespace() NamespaceID { return h.namespace.ID() }

// Close releases the handle. What it changed stays.
func (h *Handle) Close() {
	h.deleting.Wait()
	h.netlink.Close()
	h.namespace.Close()
	if h.held != nil {
		h.held.Close()
	}
}
