package ipam

import (
	"iter"
	"math"
	"net/netip"
	"slices"
)

// Lookup is the lease of an address, and whether there is one.
func (a *Authority) Lookup(addr netip.Addr) (Lease, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if v := a.record(addr.Unmap()); v.isLease() {
		return v.record.lease(), true
	}
	return Lease{}, false
}

// Owned is the leases of an owner, whom Kind and ID tell, in the order of their
// addresses.
func (a *Authority) Owned(o Owner) []Lease {
	a.mu.RLock()
	defer a.mu.RUnlock()
	writing, forming := a.before()
	var leases []Lease
	for r := a.owned.get(o); r != nil; r = r.nextOwned {
		if v := a.record(r.addr); v.isLease() && v.record == r {
			leases = append(leases, r.lease())
		}
	}
	for _, v := range overlaid(writing.records, forming.records) {
		if v.isLease() && v.record.owner.Is(o) && a.records.get(v.record.addr) != v.record {
			leases = append(leases, v.record.lease())
		}
	}
	return sortLeases(leases)
}

func sortLeases(leases []Lease) []Lease {
	slices.SortFunc(leases, func(l, m Lease) int { return l.Addr.Compare(m.Addr) })
	return leases
}

// Len is how many addresses are leased.
func (a *Authority) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.leases + a.ahead(nil)
}

// ahead is how many leases more than in memory readers see: in a pool, or in all.
func (a *Authority) ahead(p *pool) (n int) {
	writing, forming := a.before()
	for addr, was := range overlaid(writing.records, forming.records) {
		if was.isLease() && (p == nil || was.record.pool == p) {
			n++
		}
		if is := a.records.get(addr); is.isLease() && (p == nil || is.pool == p) {
			n--
		}
	}
	return n
}

// Leases is every lease of an address in p, in the order of the addresses; of the
// zero Prefix every lease there is. They are those of the moment the iteration
// begins; it holds no lock.
func (a *Authority) Leases(p netip.Prefix) iter.Seq[Lease] {
	return func(yield func(Lease) bool) {
		for _, r := range a.leasesIn(p) {
			if !yield(r.lease()) {
				return
			}
		}
	}
}

func (a *Authority) leasesIn(p netip.Prefix) []*record {
	a.mu.RLock()
	writing, forming := a.before()
	in := make([]*record, 0, a.leases)
	take := func(v version) {
		if v.isLease() && (!p.IsValid() || p.Contains(v.record.addr)) {
			in = append(in, v.record)
		}
	}
	for r := range a.records.all() {
		if v := a.record(r.addr); v.record == r {
			take(v)
		}
	}
	for addr, v := range overlaid(writing.records, forming.records) {
		if a.records.get(addr) != v.record {
			take(v)
		}
	}
	a.mu.RUnlock()
	slices.SortFunc(in, func(r, s *record) int { return r.addr.Compare(s.addr) })
	return in
}

// Usage is how full a pool is.
type Usage struct {
	Leases  int
	Resting int
	Subnets int    // subnets and reservations carved out of it
	Free    uint64 // addresses a host may get at once; at most 2⁶⁴-1
}

// Usage tells how full a pool or subnet is, and whether there is one.
func (a *Authority) Usage(pool netip.Prefix) (Usage, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	c := a.claim(pool)
	if c == nil || c.pool == nil {
		return Usage{}, false
	}
	u := Usage{Leases: c.pool.leases + a.ahead(c.pool), Subnets: c.pool.claims, Free: c.pool.freeHosts()}
	now := a.clock()
	for r := c.pool.resting.front; r != nil; r = r.next {
		if now-r.at < a.config.Rest {
			u.Resting++
		} else if u.Free != math.MaxUint64 {
			u.Free++
		}
	}
	return u, true
}

// freeHosts counts the free addresses a host may have.
func (p *pool) freeHosts() (n uint64) {
	for _, block := range p.free.blocks {
		for _, s := range block {
			lo, hi := s.lo, s.hi
			if lo.less(p.first) {
				lo = p.first
			}
			if p.last.less(hi) {
				hi = p.last
			}
			if hi.less(lo) {
				continue
			}
			size := hi.sub(lo).next()
			if size.hi != 0 || size.lo == 0 || n+size.lo < n {
				return math.MaxUint64
			}
			n += size.lo
		}
	}
	return n
}

// Pools are the pools that were added, in order.
func (a *Authority) Pools() []netip.Prefix {
	var pools []netip.Prefix
	for _, c := range a.claimsOf(classRoot) {
		pools = append(pools, c.prefix)
	}
	return pools
}

// Subnets is every subnet carved out of a pool, in the order of their addresses;
// of the zero Prefix every subnet there is. They are those of the moment the
// iteration begins; it holds no lock.
func (a *Authority) Subnets(pool netip.Prefix) iter.Seq[Subnet] {
	return func(yield func(Subnet) bool) {
		for _, c := range a.claimsOf(classSubnet) {
			if (!pool.IsValid() || c.parent.prefix == pool) && !yield(c.subnet()) {
				return
			}
		}
	}
}

// Reservations is every reserved prefix, in order, and in whose name it is.
func (a *Authority) Reservations() iter.Seq2[netip.Prefix, Owner] {
	return func(yield func(netip.Prefix, Owner) bool) {
		for _, c := range a.claimsOf(classReserved) {
			if !yield(c.prefix, c.owner.clone()) {
				return
			}
		}
	}
}

// claimsOf is the claims of a class that readers see, in order.
func (a *Authority) claimsOf(class class) []*claim {
	a.mu.RLock()
	writing, forming := a.before()
	var all []*claim
	take := func(c *claim) {
		if c != nil && c.class == class {
			all = append(all, c)
		}
	}
	for p, c := range a.claims.All() {
		if a.claim(p) == c {
			take(c)
		}
	}
	for p, was := range overlaid(writing.claims, forming.claims) {
		if is, _ := a.claims.Get(p); is != was {
			take(was)
		}
	}
	a.mu.RUnlock()
	slices.SortFunc(all, func(c, d *claim) int { return c.prefix.Compare(d.prefix) })
	return all
}

// Subnet is the subnet of a pool that an owner has, and whether it has one. node
// is empty but for a KindService owner.
func (a *Authority) Subnet(pool netip.Prefix, o Owner, node string) (Subnet, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	key := subnetKey{pool, o.Kind, o.ID, node}
	if c, ok := a.subnets[key]; ok && a.claim(c.prefix) == c {
		return c.subnet(), true
	}
	writing, forming := a.before()
	for _, c := range overlaid(writing.claims, forming.claims) {
		if c != nil && c.class == classSubnet && c.key() == key {
			return c.subnet(), true
		}
	}
	return Subnet{}, false
}

// SubnetOf is the innermost subnet an address is in, and whether there is one.
func (a *Authority) SubnetOf(addr netip.Addr) (Subnet, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	addr = addr.Unmap().WithZone("")
	var found *claim
	take := func(c *claim) {
		if c != nil && c.class == classSubnet && (found == nil || c.prefix.Bits() > found.prefix.Bits()) {
			found = c
		}
	}
	if !addr.IsValid() {
		return Subnet{}, false
	}
	for p, c := range a.claims.Supernets(single(addr)) {
		if a.claim(p) == c {
			take(c)
		}
	}
	writing, forming := a.before()
	for p, c := range overlaid(writing.claims, forming.claims) {
		if p.Contains(addr) {
			take(c)
		}
	}
	if found == nil {
		return Subnet{}, false
	}
	return found.subnet(), true
}

// Lookup is the lease of an address as the transaction sees it.
func (tx *Tx) Lookup(addr netip.Addr) (Lease, bool) {
	if r := tx.a.records.get(addr.Unmap()); r.isLease() {
		return r.lease(), true
	}
	return Lease{}, false
}

// Owned is the leases of an owner as the transaction sees them, in the order of
// their addresses.
func (tx *Tx) Owned(o Owner) []Lease {
	var leases []Lease
	for r := tx.a.owned.get(o); r != nil; r = r.nextOwned {
		if r.isLease() {
			leases = append(leases, r.lease())
		}
	}
	return sortLeases(leases)
}
