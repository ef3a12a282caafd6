package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"sync"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
)

// The kinds of owners of addresses, beside ipam.KindNode and ipam.KindService.
const (
	kindContainer = "container" // by its attachment's id
	kindGuest     = "guest"     // by its attachment's id
	kindReserved  = "reserved"  // by allocate_ip, each address under an id of its own
)

// allocateIP reserves an address of a service, for who attaches containers in other
// ways than by this daemon. Of a service that is not set up, and with join_global,
// it is one of the node's own network. It stays reserved until it is released, or
// the service is torn down.
func (d *Daemon) allocateIP(_ context.Context, r wire.AllocateIP) (wire.IP, error) {
	if err := checkName("service", r.Service, false); err != nil {
		return wire.IP{}, err
	}
	var pool netip.Prefix
	s, release, err := d.service(r.Service)
	switch {
	case err == nil:
		pool = s.Subnets[0]
	case r.JoinGlobal:
		var g *globalView
		if g, release, err = d.globalOverlay(); err != nil {
			return wire.IP{}, err
		}
		pool = g.pools()[0]
	default:
		return wire.IP{}, err
	}
	defer release()
	l, err := d.leases.Allocate(pool, ipam.Owner{Kind: kindReserved, ID: rand.Text()})
	if errors.Is(err, ipam.ErrExhausted) {
		return wire.IP{}, because(err, "the addresses of %v are exhausted", pool)
	}
	if err != nil {
		return wire.IP{}, because(err, "no address of %v was reserved", pool)
	}
	d.leasesChanged(pool)
	return wire.IP{IP: l.Addr}, nil
}

// releaseIP gives back what allocateIP reserved. An address that nobody has is no
// error; one that somebody else has is.
func (d *Daemon) releaseIP(_ context.Context, r wire.ReleaseIP) error {
	a := r.IP.Unmap()
	l, leased := d.leases.Lookup(a)
	if !leased {
		return nil
	}
	if l.Owner.Kind != kindReserved {
		return &Error{Code: wire.Conflict, Field: "ip", Msg: fmt.Sprintf("%v was not reserved by allocate_ip, but is that of %s %q, and goes with it", a, l.Owner.Kind, d.owners()(l))}
	}
	err := d.leases.Update(func(tx *ipam.Tx) error {
		if now, ok := tx.Lookup(a); ok && now.Owner.Is(l.Owner) {
			return tx.Release(now)
		}
		return nil // somebody else was faster
	})
	if err != nil {
		return because(err, "%v was not released", a)
	}
	d.leasesChanged(l.Pool)
	d.dropPorts(l)
	return nil
}

// owners is who has a lease: of an attachment what its handle says, else an id.
func (d *Daemon) owners() func(ipam.Lease) string {
	names := make(map[string]string)
	for _, a := range d.attachments.records() {
		names[a.ID] = cmp.Or(a.Guest, strconv.FormatUint(uint64(a.PID), 10))
	}
	return func(l ipam.Lease) string {
		if l.Owner.Kind == kindContainer || l.Owner.Kind == kindGuest {
			return cmp.Or(names[l.Owner.ID], l.Owner.ID)
		}
		return l.Owner.ID
	}
}

// listLeases lists leases in the order of the addresses, IPv4 first.
func (d *Daemon) listLeases(r wire.ListLeases) (wire.Leases, error) {
	within := []netip.Prefix{{}}
	if r.Service != "" {
		if err := checkName("service", r.Service, false); err != nil {
			return wire.Leases{}, err
		}
		s := d.lookService(r.Service)
		if s == nil {
			return wire.Leases{}, notSetUp(r.Service)
		}
		within = s.Subnets
	}
	list := wire.Leases{Leases: []wire.Lease{}}
	owner := d.owners()
	for _, p := range within {
		for l := range d.leases.Leases(p) {
			list.Leases = append(list.Leases, wire.Lease{
				IP:    l.Addr,
				Pool:  l.Pool,
				Kind:  l.Owner.Kind,
				Owner: owner(l),
				Since: l.Since.Unix(),
			})
		}
	}
	return list, nil
}

// poolStatus is how full the node's pools and the subnets of services are, in this
// order. It never waits.
func (d *Daemon) poolStatus(g *globalView, all []*service) []wire.PoolStatus {
	var list []wire.PoolStatus
	add := func(service string, pools []netip.Prefix) {
		for _, p := range pools {
			if used, ok := d.leases.Usage(p); ok {
				list = append(list, wire.PoolStatus{Pool: p, Service: service, Used: uint64(used.Leases), Size: sizeOf(p)})
			}
		}
	}
	add("", g.pools())
	for _, s := range all {
		add(s.Name, s.Subnets)
	}
	return list
}

// sizeOf is how many addresses of a prefix hosts can have, at most 2^64-1.
func sizeOf(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	switch {
	case host >= 64:
		return math.MaxUint64
	case host < 2:
		return 1 << host
	case p.Addr().Is4():
		return 1<<host - 2
	}
	return 1<<host - 1
}

// shortage is which pools are nearly used up, and were told of.
type shortage struct {
	mu  sync.Mutex
	low map[netip.Prefix]bool
}

// A pool is low from nine tenths on, and no longer when less than eight are used.
const lowFrom, lowUntil = 0.9, 0.8

// leasesChanged is to be called after addresses of these subnets or pools were
// leased or released: it tells clients of those nearly used up, and waits for none.
func (d *Daemon) leasesChanged(pools ...netip.Prefix) {
	for _, low := range d.nearlyUsedUp(pools) {
		d.publish(low)
	}
}

// nearlyUsedUp is which of the pools are, that were not when it was last asked.
func (d *Daemon) nearlyUsedUp(pools []netip.Prefix) (news []wire.LeasesLow) {
	d.shortage.mu.Lock()
	defer d.shortage.mu.Unlock()
	for _, p := range pools {
		used, ok := d.leases.Usage(p)
		size := sizeOf(p)
		full := float64(used.Leases) / float64(size)
		switch {
		case !ok || full < lowUntil:
			delete(d.shortage.low, p)
		case full >= lowFrom && !d.shortage.low[p]:
			if d.shortage.low == nil {
				d.shortage.low = make(map[netip.Prefix]bool)
			}
			d.shortage.low[p] = true
			news = append(news, wire.LeasesLow{Pool: p, Service: d.serviceAt(p), Used: uint64(used.Leases), Size: size})
		}
	}
	return news
}

// serviceAt is the service that has a subnet, "" when it is the node's own.
func (d *Daemon) serviceAt(p netip.Prefix) string {
	if sub, ok := d.leases.SubnetOf(p.Addr()); ok && sub.Owner.Kind == ipam.KindService {
		return sub.Owner.ID
	}
	return ""
}
