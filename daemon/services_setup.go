package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// setupService makes the network of a service, or makes the one there is what is
// asked for: all of it or, on error, nothing. The same again gives the same answer.
func (d *Daemon) setupService(ctx context.Context, r wire.SetupServiceOverlay) (wire.ServiceOverlay, error) {
	if err := checkName("service", r.Service, false); err != nil {
		return wire.ServiceOverlay{}, err
	}
	subnets, err := parseNetworks("subnet", r.Subnet)
	if err != nil {
		return wire.ServiceOverlay{}, err
	}
	for _, s := range subnets {
		if s.Addr().BitLen()-s.Bits() < 2 {
			return wire.ServiceOverlay{}, invalid("subnet", "%v has no room for containers: its length may be at most %d", s, s.Addr().BitLen()-2)
		}
	}
	p, err := d.services.enter(r.Service)
	if err != nil {
		return wire.ServiceOverlay{}, err
	}
	defer d.services.exit(r.Service, p)
	p.change.Lock()
	defer p.change.Unlock()
	if err := ctx.Err(); err != nil {
		return wire.ServiceOverlay{}, err
	}
	if err := d.removeRest(p); err != nil {
		return wire.ServiceOverlay{}, because(err, "service %q was not set up, as what is left of the one torn down cannot be removed", r.Service)
	}
	s := p.now.Load()
	switch {
	case s == nil:
		err = d.createService(p, r.Service, r.Mode, subnets)
	case len(subnets) > 0 && !slices.Equal(subnets, s.Subnets):
		err = &Error{Code: wire.Conflict, Field: "subnet", Msg: fmt.Sprintf("service %q has %s: tear it down first", s.Name, join(s.Subnets))}
	case r.Mode == wire.ModeDedicated && s.device == nil:
		err = d.dedicate(p, s)
	case r.Mode == wire.ModeShared && s.device != nil:
		err = d.share(p, s)
	}
	if err != nil {
		return wire.ServiceOverlay{}, err
	}
	return p.now.Load().overlay(), nil
}

// still keeps a service and the clusters as they are until release: nobody uses the
// one meanwhile, and nobody changes the others.
func (d *Daemon) still(p *place) (g *globalView, release func()) {
	p.use.Lock()
	d.global.use.RLock()
	return d.global.load(), func() {
		d.global.use.RUnlock()
		p.use.Unlock()
	}
}

// createService makes the network of a service that has none.
func (d *Daemon) createService(p *place, name string, mode wire.Mode, subnets []netip.Prefix) error {
	g, release := d.still(p)
	defer release()
	if g.device == nil { // else it was looked at when it was set up
		if err := d.checkHost("", g.Cluster); err != nil {
			return because(err, "service %q was not set up", name)
		}
	}
	for _, s := range subnets {
		if !slices.ContainsFunc(g.Cluster, func(c netip.Prefix) bool { return c.Contains(s.Addr()) && c.Bits() < s.Bits() }) {
			return invalid("subnet", "%v is no part of the cluster's %s: give a longer prefix that lies in it", s, join(g.Cluster))
		}
	}
	s := &service{Service: state.Service{Name: name, Mode: wire.ModeShared}}
	if d.host != nil {
		s.Bridge = linkName(suffixBridge, g.Deployment, g.InstanceID, name)
	}
	var st steps
	err := st.do("setup_service.lease", func() error { return d.leaseService(s, g, subnets) }, func() error { return d.unleaseService(s.Service) })
	if err == nil {
		s.gateways = gatewaysOf(s.Subnets)
		err = st.do("setup_service.bridge", func() error { return d.bridge(s) }, func() error { return d.unbridge(s) })
	}
	if err == nil && mode == wire.ModeDedicated {
		err = d.addDevice(&st, s, g)
	}
	if err == nil {
		err = st.do("setup_service.firewall", func() error { return d.admitService(nil, s, g) }, func() error { return d.admitService(s, nil, g) })
	}
	if err == nil {
		err = st.do("setup_service.record", func() error {
			return d.store.Update(func(tx *state.Tx) error { tx.PutService(s.Service); return nil })
		}, nil)
	}
	if err != nil {
		return st.rollback(because(err, "service %q was not set up", name))
	}
	p.now.Store(s)
	for _, a := range s.gateways {
		d.serveNames(a)
	}
	d.leasesChanged(s.Subnets...)
	return nil
}

// bridge makes the service's bridge, or adopts the one there is.
func (d *Daemon) bridge(s *service) error {
	if d.host == nil {
		return nil
	}
	link, made, err := d.host.EnsureBridge(d.bridgeOf(s))
	if errors.Is(err, hostnet.ErrForeign) {
		return &Error{Code: wire.Conflict, Msg: fmt.Sprintf("the bridge would be called %s, which is in the way: remove or rename it", s.Bridge), Err: err}
	}
	if err != nil {
		return err
	}
	s.bridge = link
	if !made {
		d.log.Info("bridge adopted", "service", s.Name, "link", s.Bridge)
	}
	return nil
}

func (d *Daemon) bridgeOf(s *service) hostnet.Bridge {
	b := hostnet.Bridge{Name: s.Bridge, Alias: d.alias(kindBridge, s.Name), MTU: tunnelMTU}
	for i, a := range gatewaysOf(s.Subnets) {
		b.Addrs = append(b.Addrs, netip.PrefixFrom(a, s.Subnets[i].Bits()))
	}
	return b
}

func (d *Daemon) unbridge(s *service) error {
	if d.host == nil || s.bridge.Index == 0 {
		return nil
	}
	return d.host.DeleteLink(s.bridge.Index)
}

// admitService makes the firewall know a service in place of another state of it;
// nil is none.
func (d *Daemon) admitService(from, to *service, g *globalView) error {
	if d.host == nil {
		return nil
	}
	if from == nil {
		from = &service{}
	}
	if to == nil {
		to = &service{}
	}
	return d.updateFirewall(func(f *hostnet.Firewall) {
		f.Bridges = swap(f.Bridges, from.Bridge, to.Bridge)
		f.Devices = swap(f.Devices, from.Interface, to.Interface)
		f.Inside = slices.DeleteFunc(slices.Clone(f.Inside), func(p netip.Prefix) bool {
			return slices.Contains(from.Subnets, p) || slices.Contains(to.Subnets, p)
		})
		f.Inside = append(f.Inside, to.Subnets...)
		slices.SortFunc(f.Inside, netip.Prefix.Compare)
		f.Cluster = slices.Clone(g.Cluster)
		f.MTU = tunnelMTU
	})
}

// partService names the network of a service in warnings.
func partService(name string) string { return "service " + name }
