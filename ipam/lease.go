package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// Allocate gives o an address of a pool or subnet: the one it holds there already
// (of several the lowest), else the one it held there last, else the lowest that
// is free. When none is free the address that has rested longest is taken before
// its time; when there is none of those either the error is [ErrExhausted].
func (tx *Tx) Allocate(pool netip.Prefix, o Owner) (Lease, error) {
	r, err := tx.allocate(pool, o)
	if err != nil {
		return Lease{}, allocateError(pool, o, err)
	}
	return r.lease(), nil
}

func allocateError(pool netip.Prefix, o Owner, err error) error {
	return &Error{Op: "allocate from", Prefix: pool, Owner: o, Err: err}
}

func (tx *Tx) allocate(prefix netip.Prefix, o Owner) (*record, error) {
	p := tx.a.latest
	if p == nil || p.prefix != prefix {
		if p = tx.a.pools[prefix.Masked()]; p == nil {
			return nil, ErrNoPool
		}
		tx.a.latest = p
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	held, kept := tx.known(o, p)
	switch {
	case held != nil:
		return tx.refresh(held, o), nil
	case kept != nil:
		return tx.take(kept.addr, p, kept, o)
	}
	tx.expire(p)
	if s, ok := p.free.from(p.first); ok && !p.last.less(s.lo) {
		addr := s.lo.addr(p.bits)
		return tx.take(addr, p, tx.a.records.get(addr), o)
	}
	if r := p.resting.front; r != nil {
		return tx.take(r.addr, p, r, o)
	}
	return nil, ErrExhausted
}

// known is the lowest lease o has in a pool, and what it released there last.
func (tx *Tx) known(o Owner, p *pool) (held, kept *record) {
	for r := tx.a.owned.of(o.Kind)[o.ID]; r != nil; r = r.nextOwned {
		switch {
		case r.pool != p:
		case r.isLease():
			if held == nil || r.addr.Less(held.addr) {
				held = r
			}
		case kept == nil || kept.seq < r.seq:
			kept = r
		}
	}
	return held, kept
}

// AllocateAddr gives o the address a, from the innermost pool or subnet around
// it. An owner may hold several addresses of one pool in this way. An address o
// holds already is returned as it is.
func (tx *Tx) AllocateAddr(a netip.Addr, o Owner) (Lease, error) {
	r, holder, err := tx.allocateAddr(a.Unmap(), o)
	if err != nil {
		return Lease{}, &Error{Op: "allocate", Prefix: single(a), Owner: o, Holder: holder, Err: err}
	}
	return r.lease(), nil
}

func (tx *Tx) allocateAddr(a netip.Addr, o Owner) (r *record, holder Owner, err error) {
	if err := o.check(); err != nil {
		return nil, holder, err
	}
	p, holder, err := tx.poolOf(a)
	if err != nil {
		return nil, holder, err
	}
	tx.expire(p)
	old := tx.a.records.get(a)
	switch {
	case old == nil || old.rested():
	case old.released == 0 && old.owner.Is(o):
		return tx.refresh(old, o), holder, nil
	case old.released == 0:
		return nil, old.owner, ErrTaken
	case !old.owner.Is(o) && p.hasFree():
		left := tx.a.config.Rest - (tx.clock - old.at)
		return nil, holder, fmt.Errorf("%w for another %s", ErrResting, left.Round(time.Second))
	}
	r, err = tx.take(a, p, old, o)
	return r, holder, err
}

// poolOf is the innermost pool that could hand out an address.
func (tx *Tx) poolOf(a netip.Addr) (p *pool, holder Owner, err error) {
	if !a.IsValid() || a.Zone() != "" {
		return nil, holder, fmt.Errorf("%w: an address without a zone is wanted, not %q", ErrInvalid, a)
	}
	c, ok := tx.a.claims.Lookup(a)
	switch {
	case !ok:
		return nil, holder, ErrOutOfRange
	case c.pool == nil:
		return nil, c.owner, fmt.Errorf("%w: %s is reserved", ErrTaken, c.prefix)
	}
	if n := fromAddr(a); n.less(c.pool.first) || c.pool.last.less(n) {
		return nil, holder, fmt.Errorf("%w: it is the network, broadcast or anycast address of %s", ErrNotUsable, c.prefix)
	}
	return c.pool, holder, nil
}

// hasFree reports whether a host address is free.
func (p *pool) hasFree() bool {
	s, ok := p.free.from(p.first)
	return ok && !p.last.less(s.lo)
}

// take leases an address that is free, or rests, to o.
func (tx *Tx) take(a netip.Addr, p *pool, old *record, o Owner) (*record, error) {
	if tx.a.leases >= tx.a.config.MaxLeases {
		return nil, fmt.Errorf("%w: the authority holds its limit of %d leases", ErrExhausted, tx.a.config.MaxLeases)
	}
	r := &record{addr: a, pool: p, owner: o.clone(), since: tx.now}
	tx.replace(old, r)
	return r, nil
}

// refresh brings what is known of a lease's owner up to date.
func (tx *Tx) refresh(r *record, o Owner) *record {
	if r.owner.equal(o) {
		return r
	}
	fresh := &record{addr: r.addr, pool: r.pool, owner: o.clone(), since: r.since}
	tx.replace(r, fresh)
	return fresh
}

// Release ends leases. Their addresses rest, then go to others, but to their last
// owner first. A lease that is not held by its owner any more, or was never
// given, is [ErrNotHeld]; then none is released.
func (tx *Tx) Release(leases ...Lease) error {
	mark := len(tx.changes)
	for _, l := range leases {
		r := tx.a.records.get(l.Addr)
		if !r.isLease() || !r.owner.Is(l.Owner) {
			tx.rollback(mark)
			e := &Error{Op: "release", Prefix: single(l.Addr), Owner: l.Owner, Err: ErrNotHeld}
			if r.isLease() {
				e.Err, e.Holder = fmt.Errorf("%w but", ErrNotHeld), r.owner
			}
			return e
		}
		tx.release(r)
	}
	return nil
}

func (tx *Tx) release(r *record) {
	tx.a.released++
	s := state{released: tx.now, at: tx.clock, seq: tx.a.released}
	if tx.a.config.Rest == 0 {
		s.at = longAgo
	}
	tx.change(r, s)
	tx.forget(r.pool)
}

// expire frees the addresses of a pool that have rested long enough. Their
// records are kept, for their owners to have them back if nobody else took them.
func (tx *Tx) expire(p *pool) {
	for r := p.resting.front; r != nil && tx.clock-r.at >= tx.a.config.Rest; r = p.resting.front {
		p.resting.remove(r)
		r.at = longAgo
		n := fromAddr(r.addr)
		p.free.add(n, n)
		p.rested.push(r)
		tx.a.remembered++
	}
	tx.forget(p)
}

// forget drops a pool's oldest memories while there are more than the bound.
func (tx *Tx) forget(p *pool) {
	for tx.a.remembered > maxRemembered && p.rested.front != nil {
		tx.replace(p.rested.front, nil)
	}
}

// Allocate gives o an address of a pool or subnet; see [Tx.Allocate].
func (a *Authority) Allocate(pool netip.Prefix, o Owner) (Lease, error) {
	tx, err := a.begin()
	if err != nil {
		return Lease{}, err
	}
	r, err := tx.allocate(pool, o)
	if err != nil {
		err = allocateError(pool, o, err)
	}
	if err := a.end(tx, err); err != nil {
		return Lease{}, err
	}
	return r.lease(), nil
}

// AllocateAddr gives o one certain address; see [Tx.AllocateAddr].
func (a *Authority) AllocateAddr(addr netip.Addr, o Owner) (Lease, error) {
	tx, err := a.begin()
	if err != nil {
		return Lease{}, err
	}
	l, err := tx.AllocateAddr(addr, o)
	if err := a.end(tx, err); err != nil {
		return Lease{}, err
	}
	return l, nil
}

// AllocateEach gives o an address of each pool, such as one of IPv4 and one of
// IPv6, or of none.
func (a *Authority) AllocateEach(o Owner, pools ...netip.Prefix) ([]Lease, error) {
	tx, err := a.begin()
	if err != nil {
		return nil, err
	}
	leases := make([]Lease, 0, len(pools))
	for _, p := range pools {
		l, err := tx.Allocate(p, o)
		if err != nil {
			return nil, a.end(tx, err)
		}
		leases = append(leases, l)
	}
	if err := a.end(tx, nil); err != nil {
		return nil, err
	}
	return leases, nil
}

// Release ends leases, all or none; see [Tx.Release].
func (a *Authority) Release(leases ...Lease) error {
	tx, err := a.begin()
	if err != nil {
		return err
	}
	return a.end(tx, tx.Release(leases...))
}
