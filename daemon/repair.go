package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
)

// repair makes the host and the leases agree with the record, and begins to keep
// them so. What is on record is wanted; what is left over goes last. It may be
// killed anywhere and begun anew.
//
// What cannot be had now does not keep the rest from being had: it is in the
// warnings of status, and tried again.
func (d *Daemon) repair(recorded state.State) error {
	if err := d.removeLinks(recorded); err != nil {
		return err
	}
	if err := d.repairGlobal(recorded.Node.Global); err != nil {
		return err
	}
	for _, s := range recorded.Services {
		if err := d.repairService(s); err != nil {
			return fmt.Errorf("service %q: %w", s.Name, err)
		}
	}
	d.repairPeers(recorded.Peers)
	if err := d.openNames(recorded.Records); err != nil {
		return err
	}
	for _, a := range d.global.load().Addrs {
		d.serveNames(a.Addr())
	}
	for _, s := range d.allServices() {
		for _, a := range s.gateways {
			d.serveNames(a)
		}
	}
	if err := d.repairAttachments(recorded.Attachments); err != nil {
		return err
	}
	if err := d.releaseLeftovers(); err != nil {
		return err
	}
	if err := d.openPorts(recorded.Ports); err != nil {
		return err
	}
	d.openFirewall()
	d.running.Go(d.upkeep)
	d.running.Go(func() { d.runMonitor(d.ctx) })
	return nil
}

// removeLinks removes bridges and devices of ours that are on no record. Cables of
// containers are others' to judge.
func (d *Daemon) removeLinks(recorded state.State) error {
	if d.host == nil {
		return nil
	}
	links, err := d.host.Links()
	if err != nil {
		return fmt.Errorf("the host's interfaces cannot be listed: %w", err)
	}
	wanted := make(map[string]bool)
	for _, s := range recorded.Services {
		wanted[s.Bridge] = true
	}
	half := d.halfMade(wanted)
	for _, l := range links {
		kind, owner, ours := d.owned(l)
		switch {
		case ours && kind == kindBridge && !wanted[l.Name]:
		case ours && (kind == kindGlobal || kind == kindDedicated):
			// A device goes with its process: this one is held by somebody else.
		case l.Alias == "" && l.Kind == "bridge" && half[l.Name]:
		default:
			continue
		}
		d.log.Info("leftover interface removed", "link", l.Name, "kind", kind, "owner", owner)
		if err := d.host.DeleteLink(l.Index); err != nil {
			return fmt.Errorf("leftover interface %s: %w", l.Name, err)
		}
	}
	return nil
}

// halfMade are the bridges that leases name and the record does not: they may have
// been left before they had an alias.
func (d *Daemon) halfMade(wanted map[string]bool) map[string]bool {
	half := make(map[string]bool)
	for l := range d.leases.Leases(netip.Prefix{}) {
		name := l.Owner.Labels[labelLink]
		if l.Owner.Kind == ipam.KindService && name != "" && !wanted[name] {
			half[name] = true
		}
	}
	return half
}

// repairGlobal brings the node's overlay up that is on record. What is left over of
// one that is not goes with the other leftovers.
func (d *Daemon) repairGlobal(recorded *state.Global) error {
	if recorded == nil {
		d.global.view.Store(&globalView{Global: state.Global{Cluster: d.standingCluster()}})
		return nil
	}
	g := *recorded
	addrs, err := d.leaseGlobal(g)
	if err != nil {
		return fmt.Errorf("the node's leases: %w", err)
	}
	readdressed := !slices.Equal(addrs, g.Addrs)
	g.Addrs = addrs
	if err := d.settleGlobal(g); err != nil {
		return err
	}
	v, err := d.reopenDevice("", d.globalTunnel(g))
	if err != nil {
		return err
	}
	name := ""
	if d.host != nil {
		name = v.name
	}
	if readdressed || g.Interface != name {
		g.Interface = name
		if err := d.updateNode(func(n *state.Node) { n.Global = &g }); err != nil {
			return err
		}
	}
	d.global.view.Store(&globalView{g, v})
	return d.admitGlobal(state.Global{}, g)
}

// reopenDevice makes a device that is on record. When that fails it is tried again
// and again, and until then the device's node has ended.
func (d *Daemon) reopenDevice(scope string, c tunnelConfig) (*device, error) {
	t, err := d.openTunnel(c)
	if err == nil {
		return d.newDevice(scope, c, t), nil
	}
	none, failed := d.noTunnel(c)
	if failed != nil {
		return nil, errors.Join(err, failed)
	}
	v := d.newDevice(scope, c, none)
	d.degrade(v.part("device"), err)
	return v, nil
}

// repairService takes a service up that is on record.
func (d *Daemon) repairService(recorded state.Service) error {
	g := d.global.load()
	s := &service{Service: recorded, gateways: gatewaysOf(recorded.Subnets)}
	if d.host != nil && s.Bridge == "" { // it was rootless
		s.Bridge = linkName(suffixBridge, g.Deployment, g.InstanceID, s.Name)
		if err := d.store.Update(func(tx *state.Tx) error { tx.PutService(s.Service); return nil }); err != nil {
			return err
		}
	}
	if err := d.holdService(s, g); err != nil {
		return err
	}
	if err := d.plan.settle(fmt.Sprintf("service %q", s.Name), s.Subnets); err != nil {
		return err
	}
	if s.Mode == wire.ModeDedicated {
		var err error
		if s.device, err = d.reopenDevice(s.Name, d.serviceTunnel(s, g)); err != nil {
			return err
		}
	}
	if err := d.bridge(s); err != nil {
		d.degrade(partService(s.Name), err)
	}
	p, err := d.services.enter(s.Name)
	if err != nil {
		return err
	}
	p.now.Store(s)
	d.services.exit(s.Name, p)
	return d.admitService(nil, s, g)
}

// holdService sees to it that a service has its subnets, gateways and perhaps
// device's addresses, which it has unless the leases were lost.
func (d *Daemon) holdService(s *service, g *globalView) error {
	owner := serviceOwner(s.Name, s.Bridge)
	had := make(map[netip.Prefix]bool)
	for sub := range d.leases.Subnets(netip.Prefix{}) {
		if sub.Owner.Is(owner) {
			had[sub.Prefix] = true
		}
	}
	pools := d.leases.Pools()
	node := strconv.FormatUint(d.node.load().ID, 10)
	return d.leases.Update(func(tx *ipam.Tx) error {
		for _, p := range s.Subnets {
			if had[p] {
				continue
			}
			around := poolAround(slices.Concat(pools, g.Cluster, defaultCluster), p)
			if err := tx.AddPool(around); err != nil {
				return err
			}
			if _, err := tx.Assign(ipam.SubnetRequest{Pool: around, Owner: owner, Node: node, Prefix: p}); err != nil {
				return err
			}
		}
		addrs := slices.Clone(s.gateways)
		if s.Mode == wire.ModeDedicated {
			for _, a := range deviceAddrs(s.Subnets) {
				addrs = append(addrs, a.Addr())
			}
		}
		for _, a := range addrs {
			if _, err := tx.AllocateAddr(a, owner); err != nil {
				return err
			}
		}
		return nil
	})
}

// poolAround is the pool that a subnet lies in, or would: where none is known, the
// prefix of the length that clusters have by default.
func poolAround(pools []netip.Prefix, p netip.Prefix) netip.Prefix {
	for _, pool := range pools {
		if pool.Contains(p.Addr()) && pool.Bits() < p.Bits() {
			return pool
		}
	}
	bits := 16
	if p.Addr().Is6() {
		bits = 48
	}
	return netip.PrefixFrom(p.Addr(), min(bits, p.Bits()-1)).Masked()
}

// repairPeers gives devices the peers on record. Those of a device that is on none
// went with it, and one that cannot be is left out and told of.
func (d *Daemon) repairPeers(recorded []state.Peer) {
	of := make(map[string]*device)
	for _, v := range d.devices() {
		of[v.scope] = v
	}
	var orphans []state.Peer
	for _, r := range recorded {
		v := of[r.Service]
		if v == nil {
			orphans = append(orphans, r)
			continue
		}
		p, err := parsePeer("", r.PeerSpec)
		if err == nil {
			err = v.remember(p)
		}
		if err != nil {
			d.degrade(v.part("record"), fmt.Errorf("peer %s is left out: %w", r.PublicKey, err))
		}
	}
	for _, v := range of {
		v.mu.Lock()
		if t := v.now.Load(); t.node.Err() == nil {
			if err := v.fill(t, nil); err != nil && !isDone(t.node.Done()) {
				d.degrade(v.part("peers"), err)
			} else if err := d.remake(v); err != nil {
				d.degrade(v.part("routes"), err)
			}
		}
		v.mu.Unlock()
	}
	if err := d.repairGuards(); err != nil {
		d.degrade("routes", err)
	}
	if len(orphans) > 0 {
		err := d.store.Update(func(tx *state.Tx) error {
			for _, r := range orphans {
				tx.DeletePeer(r.Service, r.PublicKey)
			}
			return nil
		})
		if err != nil {
			d.log.Warn("peers of devices that are gone are still on record", "err", err)
		}
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// remember makes a peer on record one of the device's, for fill.
func (v *device) remember(p overlay.Peer) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.d.plan.claim(v.scope, nil, owners(p.PublicKey, p.AllowedIPs)); err != nil {
		return err
	}
	v.set[p.PublicKey] = p
	v.size += listedSize(p)
	v.at[p.PublicKey] = v.d.resolver.addresses(p.Endpoint)
	v.d.expect(detour{device: v, to: p.AllowedIPs, new: v.at[p.PublicKey]})
	return nil
}

// releaseLeftovers gives back what services have of which nothing is on record: what
// was leased to one that was not set up to the end, or was torn down.
func (d *Daemon) releaseLeftovers() error {
	gone := make(map[string]ipam.Owner)
	for sub := range d.leases.Subnets(netip.Prefix{}) {
		if sub.Owner.Kind == ipam.KindService && d.lookService(sub.Owner.ID) == nil {
			gone[sub.Owner.ID] = sub.Owner
		}
	}
	for name := range gone {
		d.log.Info("leftover leases released", "service", name)
		if err := d.releaseService(state.Service{Name: name}); err != nil {
			return fmt.Errorf("leftover leases of service %q: %w", name, err)
		}
	}
	// Of a service that is set up: the address of a device that it has no longer.
	for _, s := range d.allServices() {
		if s.Mode != wire.ModeDedicated {
			if err := d.releaseDevice(s.Service); err != nil {
				return fmt.Errorf("leftover leases of service %q: %w", s.Name, err)
			}
		}
	}
	if d.global.load().device == nil {
		if err := d.unleaseGlobal(); err != nil {
			return fmt.Errorf("leftover leases of the node: %w", err)
		}
		d.global.view.Store(&globalView{Global: state.Global{Cluster: d.standingCluster()}})
	}
	return nil
}
