package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
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

// gatewaysOf are the bridge's addresses: the first usable one of each subnet.
func gatewaysOf(subnets []netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for _, s := range subnets {
		first, _ := ipam.Usable(s)
		all = append(all, first)
	}
	return all
}

// deviceAddrs are a service's own device's addresses: the last usable one of each
// subnet, alone, since the rest of the subnet is reached through the bridge.
func deviceAddrs(subnets []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range subnets {
		_, last := ipam.Usable(s)
		all = append(all, netip.PrefixFrom(last, last.BitLen()))
	}
	return all
}

// serviceOwner is a service in the leases. The label says which link there may be
// that has no alias yet.
func serviceOwner(name, bridge string) ipam.Owner {
	return ipam.Owner{Kind: ipam.KindService, ID: name, Labels: map[string]string{labelLink: bridge}}
}

// labelLink is the label of an owner that names its link.
const labelLink = "link"

// leaseService gives a service its subnets, one in each cluster unless they are
// given, and its gateways, and makes them its own in the plan.
func (d *Daemon) leaseService(s *service, g *globalView, given []netip.Prefix) error {
	owner := serviceOwner(s.Name, s.Bridge)
	node := strconv.FormatUint(d.node.load().ID, 10)
	for try := 1; ; try++ {
		around := d.plan.elsewhere(slices.Concat(g.Cluster, g.Slice))
		var subnets []netip.Prefix
		err := d.leases.Update(func(tx *ipam.Tx) error {
			for _, c := range g.Cluster {
				if err := tx.AddPool(c); err != nil {
					return err
				}
				r := ipam.SubnetRequest{Pool: c, Owner: owner, Node: node, Exclude: around}
				if i := slices.IndexFunc(given, func(p netip.Prefix) bool { return c.Contains(p.Addr()) }); i >= 0 {
					r.Prefix = given[i]
				} else if len(given) > 0 {
					continue
				}
				sub, err := tx.Assign(r)
				if err != nil {
					return err
				}
				subnets = append(subnets, sub.Prefix)
			}
			for _, a := range gatewaysOf(subnets) {
				if _, err := tx.AllocateAddr(a, owner); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return d.noSubnet(err, given)
		}
		s.Subnets = subnets
		err = d.plan.settle(fmt.Sprintf("service %q", s.Name), subnets)
		if err == nil {
			return nil
		}
		// A peer took a part of it in the meantime, or has had what was asked for.
		if undo := d.releaseService(s.Service); undo != nil || len(given) > 0 || try == 3 {
			return &Error{Code: wire.Conflict, Field: "subnet", Msg: errors.Join(err, undo).Error() + ": give another, or take it from the peer first"}
		}
	}
}

func (d *Daemon) noSubnet(err error, given []netip.Prefix) error {
	if errors.Is(err, ipam.ErrExhausted) {
		return &Error{Code: wire.Exhausted, Msg: "the cluster's room for subnets is exhausted", Err: err}
	}
	if len(given) > 0 {
		return &Error{Code: codeOf(err), Field: "subnet", Msg: join(given) + " cannot be taken", Err: err}
	}
	return err
}

// unleaseService gives up what leaseService took.
func (d *Daemon) unleaseService(s state.Service) error {
	d.plan.leave(s.Subnets)
	return d.releaseService(s)
}

// releaseService gives a service's subnets back, with everything still leased in
// them.
func (d *Daemon) releaseService(s state.Service) error {
	owner := serviceOwner(s.Name, s.Bridge)
	var subnets []ipam.Subnet
	var leases []ipam.Lease
	for sub := range d.leases.Subnets(netip.Prefix{}) {
		if sub.Owner.Is(owner) {
			subnets = append(subnets, sub)
			leases = slices.AppendSeq(leases, d.leases.Leases(sub.Prefix))
		}
	}
	err := d.leases.Update(func(tx *ipam.Tx) error {
		if err := tx.Release(leases...); err != nil {
			return err
		}
		for _, sub := range subnets {
			if err := tx.Unassign(sub); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.dropPorts(leases...)
	}
	return err
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

// portBand is how many UDP ports there are for devices of services: those that
// follow the node's own.
const portBand = 256

// addDevice takes the steps that give a service a device of its own.
func (d *Daemon) addDevice(st *steps, s *service, g *globalView) error {
	if d.host == nil {
		return &Error{Code: wire.Unsupported, Field: "mode", Msg: "a dedicated overlay wants the host's network, which the daemon cannot change in mode " + string(ModeRootless) + ": run it as root with --mode tun, or set the service up as shared"}
	}
	owner := serviceOwner(s.Name, s.Bridge)
	addrs := deviceAddrs(s.Subnets)
	err := st.do("setup_service.address", func() error {
		return d.leases.Update(func(tx *ipam.Tx) error {
			for _, a := range addrs {
				if _, err := tx.AllocateAddr(a.Addr(), owner); err != nil {
					return err
				}
			}
			return nil
		})
	}, func() error { return d.releaseDevice(s.Service) })
	if err != nil {
		return err
	}
	if s.PrivateKey, err = overlay.GeneratePrivateKey(); err != nil {
		return err
	}
	s.Mode = wire.ModeDedicated
	return st.do("setup_service.device", func() error {
		base := g.Port
		if g.device == nil {
			base = defaultPort
		}
		last := min(int(base)+portBand, 65535)
		for port := int(base) + 1; port <= last; port++ {
			if !d.portFree(uint16(port)) {
				continue
			}
			s.Port = uint16(port)
			v, err := d.openDevice(s.Name, d.serviceTunnel(s, g))
			if errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			if err != nil {
				return d.portError("", s.Port, err)
			}
			s.device, s.Interface = v, v.link().Name
			return nil
		}
		return failed(wire.Exhausted, "the UDP ports for dedicated overlays, %d to %d, are exhausted: tear one down, or end what else has them", base+1, last)
	}, func() error { return s.device.close() })
}

// serviceTunnel is what a service's own device is made from.
func (d *Daemon) serviceTunnel(s *service, g *globalView) tunnelConfig {
	name := s.Interface
	if name == "" {
		name = linkName(suffixDedicated, g.Deployment, g.InstanceID, s.Name)
	}
	return tunnelConfig{name: name, alias: d.alias(kindDedicated, s.Name), key: s.PrivateKey, port: s.Port, addrs: deviceAddrs(s.Subnets)}
}

// portFree reports whether a UDP port is nobody's: no service's on record, nor any
// program's in either family.
func (d *Daemon) portFree(port uint16) bool {
	for _, s := range d.allServices() {
		if s.Port == port {
			return false
		}
	}
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenPacket(network, ":"+strconv.Itoa(int(port)))
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.EADDRINUSE) {
			return false
		}
	}
	return true
}

// releaseDevice gives the addresses of a service's own device back.
func (d *Daemon) releaseDevice(s state.Service) error {
	owner := serviceOwner(s.Name, s.Bridge)
	return d.leases.Update(func(tx *ipam.Tx) error {
		for _, a := range deviceAddrs(s.Subnets) {
			if l, ok := tx.Lookup(a.Addr()); ok && l.Owner.Is(owner) {
				if err := tx.Release(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// vacant refuses to change whose device a service's containers talk through.
func (d *Daemon) vacant(s *service) error {
	if n := d.attachmentCount()[s.Name]; n > 0 {
		return &Error{Code: wire.Conflict, Field: "mode", Msg: fmt.Sprintf("service %q is %s and has %d containers attached: detach them, or tear the service down, first", s.Name, s.Mode, n)}
	}
	return nil
}

// dedicate gives a shared service a device of its own.
func (d *Daemon) dedicate(p *place, was *service) error {
	g, release := d.still(p)
	defer release()
	if err := d.vacant(was); err != nil {
		return err
	}
	s := &service{Service: was.Service, bridge: was.bridge, gateways: was.gateways}
	var st steps
	err := d.addDevice(&st, s, g)
	if err == nil {
		err = st.do("setup_service.firewall", func() error { return d.admitService(was, s, g) }, func() error { return d.admitService(s, was, g) })
	}
	if err == nil {
		err = st.do("setup_service.record", func() error {
			return d.store.Update(func(tx *state.Tx) error { tx.PutService(s.Service); return nil })
		}, nil)
	}
	if err != nil {
		return st.rollback(because(err, "service %q is shared as before", was.Name))
	}
	p.now.Store(s)
	return nil
}

// share takes a dedicated service's own device from it.
func (d *Daemon) share(p *place, was *service) error {
	g, release := d.still(p)
	defer release()
	if err := d.vacant(was); err != nil {
		return err
	}
	s := &service{Service: was.Service, bridge: was.bridge, gateways: was.gateways}
	s.Mode, s.Interface, s.PrivateKey, s.Port = wire.ModeShared, "", overlay.PrivateKey{}, 0
	var st steps
	err := st.do("share_service.record", func() error {
		return d.store.Update(func(tx *state.Tx) error {
			tx.PutService(s.Service)
			for _, key := range was.device.clients() {
				tx.DeletePeer(was.Name, key.String())
			}
			return nil
		})
	}, nil)
	if err != nil {
		return because(err, "service %q is dedicated as before", was.Name)
	}
	p.now.Store(s)
	err = errors.Join(
		st.do("share_service.firewall", func() error { return d.admitService(was, s, g) }, nil),
		st.do("share_service.device", was.device.close, nil),
		st.do("share_service.address", func() error { return d.releaseDevice(was.Service) }, nil),
	)
	if err != nil {
		return because(err, "service %q is shared now, but not all that was its own went", was.Name)
	}
	return nil
}

// teardownService removes the network of a service, after the containers that are
// attached to it. When there is none that is no error.
func (d *Daemon) teardownService(ctx context.Context, r wire.TeardownServiceOverlay) error {
	if err := checkName("service", r.Service, false); err != nil {
		return err
	}
	if d.lookService(r.Service) == nil {
		return nil
	}
	p, err := d.services.enter(r.Service)
	if err != nil {
		return err
	}
	defer d.services.exit(r.Service, p)
	p.change.Lock()
	defer p.change.Unlock()
	s := p.now.Load()
	if s == nil {
		return nil
	}
	// Nobody attaches from here on.
	p.use.Lock()
	p.leaving = true
	p.use.Unlock()
	err = d.detachAll(ctx, s.Name, "the service is torn down")

	g, release := d.still(p)
	defer release()
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
	// It is off the record: from here on everything is done that can be, and what
	// is not the next start does.
	p.now.Store(nil)
	for _, a := range s.gateways {
		d.quitNames(a)
	}
	err = st.do("teardown_service.firewall", func() error { return d.admitService(s, nil, g) }, nil)
	if s.device != nil {
		err = errors.Join(err, st.do("teardown_service.device", s.device.close, nil))
	}
	gone := st.do("teardown_service.bridge", func() error { return d.unbridge(s) }, nil)
	if gone == nil { // else the addresses are still in use
		gone = st.do("teardown_service.lease", func() error { return d.unleaseService(s.Service) }, nil)
	}
	d.recovered(partService(s.Name))
	d.leasesChanged(s.Subnets...)
	if err = errors.Join(err, gone); err != nil {
		return because(err, "service %q is torn down, but not all of it went", s.Name)
	}
	return nil
}

// partService names the network of a service in warnings.
func partService(name string) string { return "service " + name }
