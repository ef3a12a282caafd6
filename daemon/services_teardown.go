package daemon

import (
	"context"
	"errors"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
)

// teardownService removes the network of a service, after the containers that are
// attached to it. When there is none that is no error. What cannot be removed is tried
// again by whoever asks for it once more, by upkeep, and by the next start.
func (d *Daemon) teardownService(ctx context.Context, r wire.TeardownServiceOverlay) error {
	if err := checkName("service", r.Service, false); err != nil {
		return err
	}
	if !d.services.known(r.Service) {
		return nil
	}
	p, err := d.services.enter(r.Service)
	if err != nil {
		return err
	}
	defer d.services.exit(r.Service, p)
	p.change.Lock()
	defer p.change.Unlock()
	if s := p.now.Load(); s != nil {
		if err := d.strikeService(ctx, p, s); err != nil {
			return err
		}
	}
	if err := d.removeRest(p); err != nil {
		return because(err, "service %q is torn down, but not all of it went: what is left is tried again every %v, or send teardown_service_overlay again", r.Service, upkeepEvery)
	}
	return nil
}

// strikeService takes a service that nobody is attached to any more off the record, and
// leaves the rest of it. On error it is still there.
func (d *Daemon) strikeService(ctx context.Context, p *place, s *service) error {
	// Nobody attaches from here on.
	p.use.Lock()
	p.leaving = true
	p.use.Unlock()
	err := d.detachAll(ctx, s.Name, "the service is torn down")

	p.use.Lock()
	defer p.use.Unlock()
	p.leaving = false
	if err != nil {
		return because(err, "service %q is still there, since not everybody was detached", s.Name)
	}
	var st steps
	err = st.do("teardown_service.record", func() error {
		return d.store.Update(func(tx *state.Tx) error {
			tx.DeleteService(s.Name)
			if s.device != nil {
				for _, key := range s.device.clients() {
					tx.DeletePeer(s.Name, key.String())
				}
			}
			return nil
		})
	}, nil)
	if err != nil {
		return because(err, "service %q is still there", s.Name)
	}
	p.rest.Store(s)
	p.now.Store(nil)
	for _, a := range s.gateways {
		d.quitNames(a)
	}
	return nil
}

// removeRest removes what is left of a service that is off the record, everything that
// can be; p.change is held. Its addresses go last: until nothing has them any more they
// are nobody else's.
func (d *Daemon) removeRest(p *place) error {
	s := p.rest.Load()
	if s == nil {
		return nil
	}
	g, release := d.still(p)
	defer release()
	var st steps
	err := st.do("teardown_service.firewall", func() error { return d.admitService(s, nil, g) }, nil)
	if s.device != nil {
		err = errors.Join(err, st.do("teardown_service.device", s.device.close, nil))
	}
	err = errors.Join(err, st.do("teardown_service.bridge", func() error { return d.unbridge(s) }, nil))
	if err == nil {
		err = st.do("teardown_service.lease", func() error { return d.unleaseService(s.Service) }, nil)
	}
	if err != nil {
		d.degrade(partService(s.Name), because(err, "it is torn down, but not all of it went"))
		return err
	}
	p.rest.Store(nil)
	d.recovered(partService(s.Name))
	d.leasesChanged(s.Subnets...)
	return nil
}

// removeRests removes what is left of an overlay or of services that are off the record.
func (d *Daemon) removeRests() {
	d.global.change.Lock()
	d.removeGlobalRest() //nolint:errcheck // it is in the warnings of status
	d.global.change.Unlock()
	for _, name := range d.services.rests() {
		p, err := d.services.enter(name)
		if err != nil {
			continue // it went meanwhile
		}
		p.change.Lock()
		d.removeRest(p) //nolint:errcheck // it is in the warnings of status
		p.change.Unlock()
		d.services.exit(name, p)
	}
}
