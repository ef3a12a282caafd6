package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/ipam"
)

// The node's addresses, in the leases.
var nodeOwner = ipam.Owner{Kind: ipam.KindNode, ID: "local"}

// leaseGlobal makes the clusters the pools, and leases the node its slices and
// addresses in them, and none besides. On error nothing has changed.
func (d *Daemon) leaseGlobal(want state.Global) (addrs []netip.Prefix, err error) {
	var had []ipam.Subnet
	for s := range d.leases.Subnets(netip.Prefix{}) {
		if s.Owner.Is(nodeOwner) && !slices.Contains(want.Slice, s.Prefix) {
			had = append(had, s)
		}
	}
	pools := d.leases.Pools()
	wanted := poolsOf(want)
	err = d.leases.Update(func(tx *ipam.Tx) error {
		for _, l := range tx.Owned(nodeOwner) {
			if !slices.Contains(wanted, l.Pool) {
				if err := tx.Release(l); err != nil {
					return err
				}
			}
		}
		for _, s := range had {
			if err := tx.Unassign(s); err != nil {
				field := "slice_cidr"
				if !slices.Contains(want.Cluster, s.Pool) {
					field = "cluster_cidr"
				}
				return inUse(field, s.Prefix, err)
			}
		}
		for _, p := range pools {
			if slices.Contains(want.Cluster, p) {
				continue
			}
			if err := tx.RemovePool(p); err != nil {
				return inUse("cluster_cidr", p, err)
			}
		}
		for _, c := range want.Cluster {
			if err := tx.AddPool(c); err != nil {
				return inUse("cluster_cidr", c, err)
			}
		}
		addrs, err = leaseNode(tx, want)
		return err
	})
	return addrs, err
}

// leaseNode leases the node its slices and an address in each family, which is the
// first usable one of a slice.
func leaseNode(tx *ipam.Tx, want state.Global) (addrs []netip.Prefix, err error) {
	for i, pool := range poolsOf(want) {
		cluster := want.Cluster[i]
		var l ipam.Lease
		if pool != cluster {
			_, err := tx.Assign(ipam.SubnetRequest{Pool: cluster, Owner: nodeOwner, Prefix: pool})
			if err != nil {
				return nil, inUse("slice_cidr", pool, err)
			}
			first, _ := ipam.Usable(pool)
			if l, err = tx.AllocateAddr(first, nodeOwner); err != nil {
				return nil, inUse("slice_cidr", pool, err)
			}
		} else if l, err = leaseAgain(tx, pool, want.Addrs); err != nil {
			return nil, inUse("cluster_cidr", pool, err)
		}
		addrs = append(addrs, netip.PrefixFrom(l.Addr, cluster.Bits()))
	}
	return addrs, nil
}

// leaseAgain leases the node an address of a pool: that of addrs, which it had, if it
// is still to be had. When the leases were lost another may be a service's.
func leaseAgain(tx *ipam.Tx, pool netip.Prefix, addrs []netip.Prefix) (ipam.Lease, error) {
	for _, a := range addrs {
		if pool.Contains(a.Addr()) {
			if l, err := tx.AllocateAddr(a.Addr(), nodeOwner); err == nil {
				return l, nil
			}
		}
	}
	return tx.Allocate(pool, nodeOwner)
}

// inUse says which field asked for what the leases refuse, and who is in the way.
func inUse(field string, p netip.Prefix, err error) error {
	return &Error{Code: codeOf(err), Field: field, Msg: fmt.Sprintf("%v cannot be taken, or what there is cannot be given up for it", p), Err: err}
}

// unleaseGlobal gives the node's slices and addresses back, what allocate_ip reserved
// besides them, and the pools that nobody else has anything of.
func (d *Daemon) unleaseGlobal() error {
	var slices, free []netip.Prefix
	var had []ipam.Subnet
	for s := range d.leases.Subnets(netip.Prefix{}) {
		if s.Owner.Is(nodeOwner) {
			had = append(had, s)
			slices = append(slices, s.Prefix)
		}
	}
	for _, p := range d.leases.Pools() {
		if !d.others(p) {
			free = append(free, p)
		}
	}
	var reserved []ipam.Lease
	for _, p := range append(slices, free...) {
		for l := range d.leases.Leases(p) {
			if l.Owner.Kind == kindReserved {
				reserved = append(reserved, l)
			}
		}
	}
	return d.leases.Update(func(tx *ipam.Tx) error {
		for _, l := range append(tx.Owned(nodeOwner), reserved...) {
			if now, ok := tx.Lookup(l.Addr); ok && now.Owner.Is(l.Owner) {
				if err := tx.Release(now); err != nil {
					return err
				}
			}
		}
		for _, s := range had {
			if err := tx.Unassign(s); err != nil {
				return err
			}
		}
		for _, p := range free {
			if err := tx.RemovePool(p); err != nil {
				return err
			}
		}
		return nil
	})
}

// others reports whether anybody but the node, and who reserved an address with it,
// has a part of a pool.
func (d *Daemon) others(pool netip.Prefix) bool {
	for s := range d.leases.Subnets(pool) {
		if !s.Owner.Is(nodeOwner) {
			return true
		}
	}
	for l := range d.leases.Leases(pool) {
		if !l.Owner.Is(nodeOwner) && l.Owner.Kind != kindReserved {
			return true
		}
	}
	return false
}

// standingCluster is the clusters while the overlay is not set up: what something
// has a part of, or the default.
func (d *Daemon) standingCluster() []netip.Prefix {
	if pools := d.leases.Pools(); len(pools) > 0 {
		return pools
	}
	return defaultCluster
}
