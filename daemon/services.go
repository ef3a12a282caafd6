package daemon

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// services is the owner of all services: of which there are, not of what each is.
type services struct {
	mu    sync.Mutex // never held while anything is waited for
	named map[string]*place
}

// A place is where a service of a name is, or may be set up.
type place struct {
	users  int          // of the place, guarded by services.mu; without any, and without a service, it goes
	change sync.Mutex   // held by who sets up or tears down, all the while
	use    sync.RWMutex // for reading by who relies on the service staying
	now    atomic.Pointer[service]
}

// A service is the network of a service on this node at a moment, never changed.
// Its device, if it has one, stays the same one.
type service struct {
	state.Service
	bridge   hostnet.Link // zero when rootless
	gateways []netip.Addr // the bridge's address in each subnet, in their order; reserved when rootless
	device   *device      // its own; nil when shared
}

// service is the service of a name, which stays until release is called. When there
// is no such service the error is an Error that is wire.NotFound and says to set it
// up. To ask once more for the same while holding it may wait for ever, and so may
// waiting for who does; detaching must not.
func (d *Daemon) service(name string) (s *service, release func(), err error) {
	return nil, nil, nil
}

// lookService is the service of a name at this moment, nil if there is none. It
// never waits.
func (d *Daemon) lookService(name string) *service { return nil }

// allServices is every service at this moment, in the order of the names. It never
// waits.
func (d *Daemon) allServices() []*service { return nil }

func (d *Daemon) setupService(ctx context.Context, r wire.SetupServiceOverlay) (wire.ServiceOverlay, error) {
	return wire.ServiceOverlay{}, nil
}
func (d *Daemon) teardownService(ctx context.Context, r wire.TeardownServiceOverlay) error {
	return nil
}
func (d *Daemon) listServices() (wire.Services, error) { return wire.Services{}, nil }
