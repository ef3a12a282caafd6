package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
)

// The names of a container's interfaces in its namespace.
const (
	serviceInterface = "eth0"
	globalInterface  = "eth1"
)

// The letters that the names of the hosts' ends of them end in.
const (
	suffixEth0 = "s"
	suffixEth1 = "j"
)

// The labels of leases, which say what there may be of an attachment that is not,
// or no longer, on record.
const (
	labelService = "service"
	labelEth0    = "link"
	labelEth1    = "global_link"
)

// lessee is the owner of an attachment's addresses.
func lessee(a *state.Attachment) ipam.Owner {
	if a.Guest != "" {
		return ipam.Owner{Kind: kindGuest, ID: a.ID, Labels: map[string]string{labelService: a.Service}}
	}
	labels := map[string]string{labelService: a.Service, labelEth0: a.Link}
	if a.GlobalLink != "" {
		labels[labelEth1] = a.GlobalLink
	}
	return ipam.Owner{Kind: kindContainer, ID: a.ID, Labels: labels}
}

// lease takes the addresses an attachment lacks: one of each subnet, and of each of
// the pools of the node's own network.
func (d *Daemon) lease(a *state.Attachment, subnets, pools []netip.Prefix) error {
	addrs, global := a.Addrs, a.Global
	err := d.leases.Update(func(tx *ipam.Tx) (err error) {
		if a.Addrs == nil {
			addrs, err = allocate(tx, lessee(a), subnets)
		}
		if err == nil && a.Global == nil {
			global, err = allocate(tx, lessee(a), pools)
		}
		return err
	})
	if err != nil {
		return because(err, "lease addresses")
	}
	a.Addrs, a.Global = addrs, global
	d.leasesChanged(slices.Concat(subnets, pools)...)
	return nil
}

// allocate takes an address of each pool, all in the same position if that can be:
// see unpaired.
func allocate(tx *ipam.Tx, o ipam.Owner, pools []netip.Prefix) (addrs []netip.Prefix, err error) {
	for _, p := range pools {
		var l ipam.Lease
		has := func(l ipam.Lease) bool { return l.Pool == p }
		if len(addrs) > 0 && !slices.ContainsFunc(tx.Owned(o), has) {
			if a, ok := atPosition(p, position(addrs[0])); ok {
				l, _ = tx.AllocateAddr(a, o)
			}
		}
		if !l.Addr.IsValid() {
			l, err = tx.Allocate(p, o)
		}
		if errors.Is(err, ipam.ErrExhausted) {
			return nil, because(err, "the addresses of %v are exhausted: detach a container, or set the service up with a larger subnet, the node with a larger slice", p)
		}
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, l.Prefix())
	}
	return addrs, nil
}

// position is which address of its pool one is, counted from 0, in the last 64 bits.
func position(p netip.Prefix) uint64 {
	low := func(a netip.Addr) uint64 {
		b := a.As16()
		return binary.BigEndian.Uint64(b[8:])
	}
	return low(p.Addr()) - low(p.Masked().Addr())
}

// atPosition is the address in a position of a pool, if there is one.
func atPosition(p netip.Prefix, position uint64) (netip.Addr, bool) {
	b := p.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+position)
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		a = a.Unmap()
	}
	return a, p.Contains(a)
}

// unpaired is the addresses of IPv6 that are not in the position of the first one of
// IPv4. A container's hardware address is made from that, so that one who gets both
// addresses of another has its hardware address too, and its neighbours need not be
// told.
func unpaired(addrs []netip.Prefix) (alone []netip.Addr) {
	four := slices.IndexFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
	for _, p := range addrs {
		if four >= 0 && p.Addr().Is6() && position(p) != position(addrs[four]) {
			alone = append(alone, p.Addr())
		}
	}
	return alone
}

// release returns an attachment's addresses but those to keep.
func (d *Daemon) release(a *state.Attachment, keep []netip.Prefix) error {
	var pools []netip.Prefix
	var gone []ipam.Lease
	err := d.leases.Update(func(tx *ipam.Tx) error {
		for _, l := range tx.Owned(lessee(a)) {
			if !slices.ContainsFunc(keep, func(p netip.Prefix) bool { return p.Addr() == l.Addr }) {
				gone, pools = append(gone, l), append(pools, l.Pool)
			}
		}
		return tx.Release(gone...)
	})
	if err != nil {
		return because(err, "release the addresses")
	}
	d.leasesChanged(pools...)
	d.dropPorts(gone...)
	return nil
}

// serviceVeth is a container's cable to the bridge of its service.
func (d *Daemon) serviceVeth(a *state.Attachment, to ends) hostnet.Veth {
	return hostnet.Veth{
		Host:      a.Link,
		Alias:     d.alias(kindEth0, a.ID),
		Bridge:    to.service.bridge.Index,
		Namespace: to.container,
		Container: serviceInterface,
		MTU:       to.service.bridge.MTU,
		Addrs:     a.Addrs,
		Announce:  unpaired(a.Addrs),
		Gateways:  to.service.gateways,
	}
}

// globalVeth is a container's cable to the node's own network. It has no subnet of
// its own: the node routes the container's one address to it, and the container all
// of the clusters to the node.
func (d *Daemon) globalVeth(a *state.Attachment, to ends) hostnet.Veth {
	v := hostnet.Veth{
		Host:      a.GlobalLink,
		Alias:     d.alias(kindEth1, a.ID),
		Namespace: to.container,
		Container: globalInterface,
		MTU:       tunnelMTU,
		Routes:    to.global.Cluster,
		Via:       addrsOf(to.global.Addrs),
	}
	for _, addr := range addrsOf(a.Global) {
		v.Addrs = append(v.Addrs, single(addr))
	}
	return v
}

func addrsOf(prefixes []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Addr()
	}
	return addrs
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// plug lays a cable as a step.
func (d *Daemon) plug(st *steps, step string, v hostnet.Veth) error {
	return st.do(step, func() error { return d.lay(v) }, func() error { return d.unplug(v.Host) })
}

// lay lays a cable, whole or not at all. To what is routed to a container the host
// talks from the node's own address of the family, which the container reaches the
// same way back.
func (d *Daemon) lay(v hostnet.Veth) error {
	link, err := d.host.AddVeth(v)
	if errors.Is(err, fs.ErrExist) {
		return &Error{Code: wire.Conflict, Field: fieldPID, Msg: fmt.Sprintf("%s cannot be made in the container", v.Container), Err: err}
	}
	if err == nil && v.Bridge == 0 {
		if err = d.prefer(v, link.Index); err != nil {
			err = errors.Join(err, d.unplug(v.Host))
		}
	}
	if err != nil {
		return because(err, "%s cannot be made in the container", v.Container)
	}
	return nil
}

// prefer has the host talk to what is routed through a link from its own address.
func (d *Daemon) prefer(v hostnet.Veth, index int) error {
	for _, to := range v.Addrs {
		for _, from := range v.Via {
			if from.BitLen() != to.Addr().BitLen() {
				continue
			}
			if err := d.host.SetRoute(hostnet.Route{Dst: to, Src: from, Index: index}); err != nil {
				return err
			}
		}
	}
	return nil
}

// unplug removes a cable by the name of the host's end. One that is gone, or that
// is somebody else's, is no error.
func (d *Daemon) unplug(name string) error {
	l, err := d.find(name)
	if err != nil || l.Index == 0 {
		return err
	}
	if err := d.host.DeleteLink(l.Index); err != nil {
		return because(err, "remove %s", name)
	}
	return nil
}

// find is the host's end of a cable of ours, the zero Link if there is none. One
// without an alias is ours too, as its name is by chance nobody else's: the daemon
// was killed before it gave it one.
func (d *Daemon) find(name string) (hostnet.Link, error) {
	if name == "" {
		return hostnet.Link{}, nil
	}
	l, err := d.host.LinkByName(name)
	if errors.Is(err, syscall.ENODEV) {
		return hostnet.Link{}, nil
	}
	if err != nil {
		return hostnet.Link{}, because(err, "look for %s", name)
	}
	if _, _, ours := d.owned(l); !ours && l.Alias != "" {
		return hostnet.Link{}, nil
	}
	return l, nil
}
