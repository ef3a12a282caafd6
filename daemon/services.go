package daemon

import (
	"cmp"
	"net/netip"
	"slices"
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
	rest   atomic.Pointer[service] // what is left of one that is off the record; changed by who holds change

	leaving bool // it is being torn down; guarded by use
}

// A service is the network of a service on this node at a moment, never changed.
// Its device, if it has one, stays the same one.
type service struct {
	state.Service
	bridge   hostnet.Link // zero when rootless
	gateways []netip.Addr // the bridge's address in each subnet, in their order; reserved when rootless
	device   *device      // its own; nil when shared
}

// enter is the place of a name, which stays until exit.
func (s *services) enter(name string) (*place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.named[name]
	if p == nil {
		if len(s.named) >= maxServices {
			return nil, failed(wire.Exhausted, "the room for services is exhausted: a node has at most %d", maxServices)
		}
		if s.named == nil {
			s.named = make(map[string]*place)
		}
		p = new(place)
		s.named[name] = p
	}
	p.users++
	return p, nil
}

func (s *services) exit(name string, p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users--; p.users == 0 && p.now.Load() == nil && p.rest.Load() == nil {
		delete(s.named, name)
	}
}

// known reports whether there is a service of a name, a rest of one, or who is about to
// make one.
func (s *services) known(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named[name] != nil
}

// rests are the names of services of which something is left that are off the record.
func (s *services) rests() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.named {
		if p.rest.Load() != nil {
			names = append(names, name)
		}
	}
	return names
}

// service is the service of a name, which stays until release is called. When there
// is no such service the error is an Error that is wire.NotFound and says to set it
// up. To ask once more for the same while holding it may wait for ever, and so may
// waiting for who does; detaching must not.
func (d *Daemon) service(name string) (s *service, release func(), err error) {
	missing := notSetUp(name)
	if d.lookService(name) == nil {
		return nil, nil, missing
	}
	p, err := d.services.enter(name)
	if err != nil {
		return nil, nil, err
	}
	p.use.RLock()
	release = func() {
		p.use.RUnlock()
		d.services.exit(name, p)
	}
	if s = p.now.Load(); s == nil || p.leaving {
		release()
		return nil, nil, missing
	}
	return s, release, nil
}

// lookService is the service of a name at this moment, nil if there is none. It
// never waits.
func (d *Daemon) lookService(name string) *service {
	d.services.mu.Lock()
	defer d.services.mu.Unlock()
	if p := d.services.named[name]; p != nil {
		return p.now.Load()
	}
	return nil
}

// allServices is every service at this moment, in the order of the names. It never
// waits.
func (d *Daemon) allServices() []*service {
	d.services.mu.Lock()
	all := make([]*service, 0, len(d.services.named))
	for _, p := range d.services.named {
		if s := p.now.Load(); s != nil {
			all = append(all, s)
		}
	}
	d.services.mu.Unlock()
	slices.SortFunc(all, func(a, b *service) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// bridged is an error while a service on record has no bridge, which is tried to be
// made again and again.
func (s *service) bridged() error {
	if s.bridge.Index != 0 {
		return nil
	}
	return failed(wire.NotReady, "service %q has no bridge, and status says why: try again when it has", s.Name)
}

// bridgeName is the bridge's, or what stands for it when there is none since the
// node is rootless.
func (s *service) bridgeName() string { return cmp.Or(s.Bridge, linkName(suffixBridge, s.Name)) }

// overlay is the answer to who set the service up.
func (s *service) overlay() wire.ServiceOverlay {
	answer := wire.ServiceOverlay{Name: s.bridgeName(), Mode: s.Mode}
	if v := s.device; v != nil {
		answer.WGPublicKey = s.PrivateKey.Public().String()
		answer.WGPort = s.Port
		answer.OverlayIP = deviceAddrs(s.Subnets)[0].Addr()
		answer.Subnet = join(s.Subnets)
	}
	return answer
}

// listServices lists services by name.
func (d *Daemon) listServices() (wire.Services, error) {
	list := wire.Services{Services: []wire.Service{}}
	attached := d.attachmentCount()
	for _, s := range d.allServices() {
		o := s.overlay()
		w := wire.Service{
			Service:         s.Name,
			Mode:            s.Mode,
			Name:            o.Name,
			Subnets:         slices.Clone(s.Subnets),
			Gateways:        slices.Clone(s.gateways),
			AttachmentCount: uint32(attached[s.Name]),
			Interface:       s.Interface,
			PublicKey:       o.WGPublicKey,
			ListenPort:      o.WGPort,
			OverlayIP:       o.OverlayIP,
		}
		if s.device != nil {
			w.PeerCount = uint32(len(s.device.node().Peers()))
		}
		list.Services = append(list.Services, w)
	}
	return list, nil
}
