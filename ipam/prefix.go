package ipam

import (
	"fmt"
	"net/netip"
)

// AddPool adds a prefix to hand out from. One that is there already stays as it
// is; one that overlaps another is refused with [ErrOverlap].
func (tx *Tx) AddPool(p netip.Prefix) error {
	fail := func(err error) error { return &Error{Op: "add pool", Prefix: p, Err: err} }
	if err := checkPrefix(p); err != nil {
		return fail(err)
	}
	if c, ok := tx.a.claims.Get(p); ok && c.class == classRoot {
		return nil
	}
	if c, ok := tx.a.claims.LookupPrefix(p); ok {
		return fail(fmt.Errorf("%w: %s holds it", ErrOverlap, c.prefix))
	}
	for within := range tx.a.claims.Subnets(p) {
		return fail(fmt.Errorf("%w: %s is in it", ErrOverlap, within))
	}
	tx.swapClaim(nil, &claim{prefix: p, class: classRoot, since: tx.now, pool: newPool(p)})
	return nil
}

// RemovePool removes a pool in which nothing is held any more: else the error is
// [ErrInUse].
func (tx *Tx) RemovePool(p netip.Prefix) error {
	fail := func(err error) error { return &Error{Op: "remove pool", Prefix: p, Err: err} }
	c, ok := tx.a.claims.Get(p)
	if !ok || c.class != classRoot {
		return fail(ErrNoPool)
	}
	if err := tx.removeClaim(c); err != nil {
		return fail(err)
	}
	return nil
}

// Reserve keeps a prefix, or an address with its full length, from being handed
// out. It is in o's name, but nothing in it is leased: it stays until Unreserve.
// Reserving the same again for the same owner changes nothing.
func (tx *Tx) Reserve(p netip.Prefix, o Owner) error {
	mark := len(tx.changes)
	holder, err := tx.reserve(p, o)
	if err != nil {
		tx.rollback(mark)
		return &Error{Op: "reserve", Prefix: p, Owner: o, Holder: holder, Err: err}
	}
	return nil
}

func (tx *Tx) reserve(p netip.Prefix, o Owner) (holder Owner, err error) {
	if err := checkPrefix(p); err != nil {
		return holder, err
	}
	if err := o.check(); err != nil {
		return holder, err
	}
	c, ok := tx.a.claims.LookupPrefix(p)
	switch {
	case !ok:
		return holder, ErrOutOfRange
	case c.class == classReserved && c.prefix == p && c.owner.Is(o):
		tx.refreshClaim(c, o)
		return holder, nil
	case c.class == classReserved:
		return c.owner, fmt.Errorf("%w: %s is reserved", ErrOverlap, c.prefix)
	case c.prefix == p:
		return c.owner, fmt.Errorf("%w: it is a pool; reserve what is in it", ErrOverlap)
	}
	tx.expire(c.pool)
	if holder, err = tx.clear(c.pool, p); err != nil {
		return holder, err
	}
	tx.addClaim(&claim{prefix: p, class: classReserved, owner: o.clone(), since: tx.now, parent: c.pool})
	return holder, nil
}

// Unreserve ends a reservation. One that is not o's is [ErrNotHeld].
func (tx *Tx) Unreserve(p netip.Prefix, o Owner) error {
	c, ok := tx.a.claims.Get(p)
	if !ok || c.class != classReserved || !c.owner.Is(o) {
		return &Error{Op: "unreserve", Prefix: p, Owner: o, Err: ErrNotHeld}
	}
	return tx.removeClaim(c)
}

// checkPrefix reports what is wrong with a prefix to be kept. Addresses of the
// form ::ffff:a.b.c.d are left to IPv4.
func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return fmt.Errorf("%w: a prefix of IPv4 or IPv6 is wanted", ErrInvalid)
	case p != p.Masked():
		return fmt.Errorf("%w: misaligned, %s would hold it", ErrInvalid, p.Masked())
	}
	return nil
}

// AddPool adds a prefix to hand out from; see [Tx.AddPool].
func (a *Authority) AddPool(p netip.Prefix) error {
	return a.Update(func(tx *Tx) error { return tx.AddPool(p) })
}

// RemovePool removes a pool nobody uses; see [Tx.RemovePool].
func (a *Authority) RemovePool(p netip.Prefix) error {
	return a.Update(func(tx *Tx) error { return tx.RemovePool(p) })
}

// Reserve keeps a prefix from being handed out; see [Tx.Reserve].
func (a *Authority) Reserve(p netip.Prefix, o Owner) error {
	return a.Update(func(tx *Tx) error { return tx.Reserve(p, o) })
}

// Unreserve ends a reservation; see [Tx.Unreserve].
func (a *Authority) Unreserve(p netip.Prefix, o Owner) error {
	return a.Update(func(tx *Tx) error { return tx.Unreserve(p, o) })
}
