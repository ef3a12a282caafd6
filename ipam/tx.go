package ipam

import (
	"errors"
	"net/netip"
	"time"
)

// A Tx is a transaction: what it did is done whole or not at all. It is only
// good within the function given to [Authority.Update].
type Tx struct {
	a       *Authority
	now     time.Time
	clock   time.Duration // since the authority's epoch
	changes []change
}

// A change is one step of a transaction, and all that is needed to undo it.
type change struct {
	old, new           *record
	oldClaim, newClaim *claim
}

// Update runs fn as one transaction. When fn returns an error nothing of what it
// did remains, and Update returns that error. What fn did is seen by nobody else
// before Update returns. fn must not call the Authority, nor wait for anything.
func (a *Authority) Update(fn func(tx *Tx) error) error {
	tx, err := a.begin()
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // fn panicked
			a.end(tx, errors.New("panic"))
		}
	}()
	err = fn(tx)
	done = true
	return a.end(tx, err)
}

// begin locks the authority and starts a transaction.
func (a *Authority) begin() (*Tx, error) {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil, errClosed()
	}
	tx := &a.tx
	tx.a = a
	tx.now = time.Now()
	tx.clock = tx.now.Sub(a.epoch)
	return tx, nil
}

// end finishes a transaction, undoes it if err is not nil, and unlocks.
func (a *Authority) end(tx *Tx, err error) error {
	if err != nil {
		a.undo(tx.changes)
	}
	clear(tx.changes)
	tx.changes = tx.changes[:0]
	a.mu.Unlock()
	return err
}

// undo takes changes back, the latest first.
func (a *Authority) undo(changes []change) {
	for i := len(changes) - 1; i >= 0; i-- {
		switch c := changes[i]; {
		case c.oldClaim != nil || c.newClaim != nil:
			a.swapClaim(c.newClaim, c.oldClaim)
		default:
			a.swap(c.new, c.old)
		}
	}
}

func (tx *Tx) swap(old, new *record) {
	tx.a.swap(old, new)
	tx.changes = append(tx.changes, change{old: old, new: new})
}

func (tx *Tx) swapClaim(old, new *claim) {
	tx.a.swapClaim(old, new)
	tx.changes = append(tx.changes, change{oldClaim: old, newClaim: new})
}

// AddPool adds a prefix to hand out from. One that is there already stays as it
// is; one that overlaps another is refused with [ErrOverlap].
func (tx *Tx) AddPool(p netip.Prefix) error {
	fail := func(err error) error { return &Error{Op: "add pool", Prefix: p, Err: err} }
	if !validPrefix(p) {
		return fail(ErrInvalid)
	}
	p = p.Masked()
	if c, ok := tx.a.claims.Get(p); ok && c.class == classRoot {
		return nil
	}
	if tx.a.claims.OverlapsPrefix(p) {
		return fail(ErrOverlap)
	}
	tx.swapClaim(nil, &claim{prefix: p, class: classRoot, since: tx.now.UnixNano(), pool: newPool(p)})
	return nil
}

// validPrefix reports whether p is one an authority can keep. Addresses of the
// form ::ffff:a.b.c.d are left to IPv4.
func validPrefix(p netip.Prefix) bool {
	return p.IsValid() && !p.Addr().Is4In6()
}
