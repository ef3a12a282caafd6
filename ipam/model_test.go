package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A model is what an authority should be, as plainly as it can be said: two maps
// and loops over every address. It is the oracle of the property tests.
type model struct {
	rest   time.Duration
	claims map[netip.Prefix]modelClaim
	addrs  map[netip.Addr]modelAddr
	seq    int
}

type modelClaim struct {
	class  class
	owner  Owner
	node   string
	parent netip.Prefix
}

type modelAddr struct {
	pool     netip.Prefix
	owner    Owner
	live     bool
	released time.Time
	seq      int
	woken    bool
}

func newModel(rest time.Duration, pools ...netip.Prefix) *model {
	m := &model{rest: rest, claims: make(map[netip.Prefix]modelClaim), addrs: make(map[netip.Addr]modelAddr)}
	for _, p := range pools {
		m.claims[p] = modelClaim{class: classRoot}
	}
	return m
}

func (m *model) clone() *model {
	return &model{rest: m.rest, claims: maps.Clone(m.claims), addrs: maps.Clone(m.addrs), seq: m.seq}
}

// restarted is the model after the authority was opened again: what was woken
// early rests again, and what was released at once is in the order of addresses.
func (m *model) restarted() {
	order := slices.SortedFunc(maps.Keys(m.addrs), func(a, b netip.Addr) int {
		return cmp.Or(m.addrs[a].released.Compare(m.addrs[b].released), a.Compare(b))
	})
	for _, a := range order {
		r := m.addrs[a]
		m.seq++
		r.seq, r.woken = m.seq, false
		m.addrs[a] = r
	}
}

func (m *model) resting(a netip.Addr, now time.Time) bool {
	r, ok := m.addrs[a]
	return ok && !r.live && !r.woken && now.Sub(r.released) < m.rest
}

// innermost is the longest claim around a prefix.
func (m *model) innermost(p netip.Prefix) (found netip.Prefix, c modelClaim, ok bool) {
	for q, d := range m.claims {
		if q.Bits() <= p.Bits() && q.Contains(p.Addr()) && (!ok || q.Bits() > found.Bits()) {
			found, c, ok = q, d, true
		}
	}
	return found, c, ok
}

// free reports whether an address is its pool's to give at once.
func (m *model) free(pool netip.Prefix, a netip.Addr, now time.Time) bool {
	in, _, _ := m.innermost(single(a))
	return in == pool && !m.addrs[a].live && !m.resting(a, now)
}

func (m *model) hosts(pool netip.Prefix) []netip.Addr {
	var all []netip.Addr
	first, last := Usable(pool)
	for a := first; ; a = a.Next() {
		if all = append(all, a); a == last {
			return all
		}
	}
}

// oldest is the address of a pool that has rested longest.
func (m *model) oldest(pool netip.Prefix, now time.Time) (oldest netip.Addr, ok bool) {
	for a, r := range m.addrs {
		if r.pool == pool && m.resting(a, now) && (!ok || r.seq < m.addrs[oldest].seq) {
			oldest, ok = a, true
		}
	}
	return oldest, ok
}

func (m *model) lease(pool netip.Prefix, a netip.Addr, o Owner) netip.Addr {
	m.seq++
	m.addrs[a] = modelAddr{pool: pool, owner: o, live: true, seq: m.seq}
	return a
}

func (m *model) isPool(p netip.Prefix) bool {
	c, ok := m.claims[p]
	return ok && c.class != classReserved
}

func (m *model) allocate(pool netip.Prefix, o Owner, now time.Time) (netip.Addr, error) {
	if !m.isPool(pool) {
		return netip.Addr{}, ErrNoPool
	}
	var held, kept netip.Addr
	for a, r := range m.addrs {
		switch {
		case r.pool != pool || !r.owner.Is(o):
		case r.live && (!held.IsValid() || a.Less(held)):
			held = a
		case !r.live && (!kept.IsValid() || r.seq > m.addrs[kept].seq):
			kept = a
		}
	}
	if held.IsValid() {
		return held, nil
	}
	if kept.IsValid() {
		return m.lease(pool, kept, o), nil
	}
	for _, a := range m.hosts(pool) {
		if m.free(pool, a, now) {
			return m.lease(pool, a, o), nil
		}
	}
	if a, ok := m.oldest(pool, now); ok {
		return m.lease(pool, a, o), nil
	}
	return netip.Addr{}, ErrExhausted
}

func (m *model) allocateAddr(a netip.Addr, o Owner, now time.Time) error {
	pool, c, ok := m.innermost(single(a))
	hosts := []netip.Addr{}
	if ok {
		hosts = m.hosts(pool)
	}
	r := m.addrs[a]
	switch {
	case !ok:
		return ErrOutOfRange
	case c.class == classReserved:
		return ErrTaken
	case !slices.Contains(hosts, a):
		return ErrNotUsable
	case r.live && r.owner.Is(o):
		return nil
	case r.live:
		return ErrTaken
	case m.resting(a, now) && !r.owner.Is(o):
		for _, h := range hosts {
			if m.free(pool, h, now) {
				return ErrResting
			}
		}
	}
	m.lease(pool, a, o)
	return nil
}

func (m *model) release(now time.Time, leases ...Lease) error {
	seen := make(map[netip.Addr]bool)
	for _, l := range leases {
		if r := m.addrs[l.Addr]; !r.live || !r.owner.Is(l.Owner) || seen[l.Addr] {
			return ErrNotHeld
		}
		seen[l.Addr] = true
	}
	for _, l := range leases {
		r := m.addrs[l.Addr]
		m.seq++
		r.live, r.released, r.seq = false, now, m.seq
		m.addrs[l.Addr] = r
	}
	return nil
}

// room reports whether nothing is leased or claimed in a prefix of a pool, nor
// rests there, unless that does not matter.
func (m *model) room(pool, p netip.Prefix, now time.Time, wake bool) bool {
	for q := range m.claims {
		if q.Overlaps(p) && (q.Bits() > pool.Bits()) {
			return false
		}
	}
	for a, r := range m.addrs {
		if p.Contains(a) && r.pool == pool && (r.live || !wake && m.resting(a, now)) {
			return false
		}
	}
	return true
}

// claim takes a prefix of a pool, where nothing is remembered any more.
func (m *model) claim(p netip.Prefix, c modelClaim) {
	for a, r := range m.addrs {
		if p.Contains(a) && r.pool == c.parent {
			delete(m.addrs, a)
		}
	}
	m.claims[p] = c
}

func (m *model) assign(r SubnetRequest, now time.Time) (netip.Prefix, error) {
	if !m.isPool(r.Pool) {
		return netip.Prefix{}, ErrNoPool
	}
	if r.Prefix.IsValid() {
		switch {
		case !r.Pool.Contains(r.Prefix.Addr()):
			return netip.Prefix{}, ErrOutOfRange
		case r.Prefix != r.Prefix.Masked():
			return netip.Prefix{}, ErrInvalid
		}
		r.Bits = r.Prefix.Bits()
	}
	if r.Bits <= r.Pool.Bits() || r.Bits > r.Pool.Addr().BitLen() {
		return netip.Prefix{}, ErrInvalid
	}
	for p, c := range m.claims {
		if c.class == classSubnet && c.parent == r.Pool && c.owner.Is(r.Owner) && c.node == r.Node {
			if p.Bits() != r.Bits || r.Prefix.IsValid() && r.Prefix != p {
				return netip.Prefix{}, ErrTaken
			}
			return p, nil
		}
	}
	claim := modelClaim{class: classSubnet, owner: r.Owner, node: r.Node, parent: r.Pool}
	if r.Prefix.IsValid() {
		if !m.room(r.Pool, r.Prefix, now, true) {
			return netip.Prefix{}, ErrOverlap
		}
		m.claim(r.Prefix, claim)
		return r.Prefix, nil
	}
	var all []netip.Prefix
	for p := netip.PrefixFrom(r.Pool.Addr(), r.Bits); r.Pool.Contains(p.Addr()); {
		all = append(all, p)
		_, last := rangeOf(p)
		p = netip.PrefixFrom(last.next().addr(p.Addr().BitLen()), r.Bits)
	}
	fits := func(p netip.Prefix) bool {
		return m.room(r.Pool, p, now, false) && !slices.ContainsFunc(r.Exclude, p.Overlaps)
	}
	start := int(slotHash(r.Owner, r.Node) % uint64(len(all)))
	for i := range all {
		if p := all[(start+i)%len(all)]; fits(p) {
			m.claim(p, claim)
			return p, nil
		}
	}
	var woken []netip.Addr
	for {
		a, ok := m.oldest(r.Pool, now)
		if !ok {
			break
		}
		rec := m.addrs[a]
		rec.woken = true
		m.addrs[a] = rec
		woken = append(woken, a)
		for _, p := range all {
			if p.Contains(a) && fits(p) {
				m.claim(p, claim)
				return p, nil
			}
		}
	}
	for _, a := range woken {
		rec := m.addrs[a]
		rec.woken = false
		m.addrs[a] = rec
	}
	return netip.Prefix{}, ErrExhausted
}

// drop removes a claim in which nothing is held.
func (m *model) drop(p netip.Prefix) error {
	for _, c := range m.claims {
		if c.parent == p {
			return ErrInUse
		}
	}
	for _, r := range m.addrs {
		if r.pool == p && r.live {
			return ErrInUse
		}
	}
	maps.DeleteFunc(m.addrs, func(_ netip.Addr, r modelAddr) bool { return r.pool == p })
	delete(m.claims, p)
	return nil
}

func (m *model) unassign(s Subnet) error {
	c, ok := m.claims[s.Prefix]
	if !ok || c.class != classSubnet || !c.owner.Is(s.Owner) || c.node != s.Node {
		return ErrNotHeld
	}
	return m.drop(s.Prefix)
}

func (m *model) reserve(p netip.Prefix, o Owner, now time.Time) error {
	if p != p.Masked() {
		return ErrInvalid
	}
	in, c, ok := m.innermost(p)
	switch {
	case !ok:
		return ErrOutOfRange
	case c.class == classReserved && in == p && c.owner.Is(o):
		return nil
	case c.class == classReserved || in == p || !m.room(in, p, now, true):
		return ErrOverlap
	}
	m.claim(p, modelClaim{class: classReserved, owner: o, parent: in})
	return nil
}

func (m *model) unreserve(p netip.Prefix, o Owner) error {
	c, ok := m.claims[p]
	if !ok || c.class != classReserved || !c.owner.Is(o) {
		return ErrNotHeld
	}
	return m.drop(p)
}

func (m *model) addPool(p netip.Prefix) error {
	if c, ok := m.claims[p]; ok && c.class == classRoot {
		return nil
	}
	for q := range m.claims {
		if q.Overlaps(p) {
			return ErrOverlap
		}
	}
	m.claims[p] = modelClaim{class: classRoot}
	return nil
}

func (m *model) removePool(p netip.Prefix) error {
	if c, ok := m.claims[p]; !ok || c.class != classRoot {
		return ErrNoPool
	}
	return m.drop(p)
}
