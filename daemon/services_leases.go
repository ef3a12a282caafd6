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
)

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
