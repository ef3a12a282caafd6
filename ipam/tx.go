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
	now     int64         // Unix nanoseconds
	clock   time.Duration // since the authority's epoch
	changes []change
}

// A change is one step of a transaction, and all that is needed to undo it.
type change struct {
	old, new           version
	oldClaim, newClaim *claim
}

// Update runs fn as one transaction. When fn returns an error nothing of what it
// did remains, and Update returns that error. Readers see all of it when it is
// done, which in a file means on the disk, and before that nothing. fn must not
// call the Authority, nor wait for anything: it holds up everybody else.
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
	if a.broken != nil {
		defer a.mu.Unlock()
		return nil, a.broken
	}
	tx := &a.tx
	tx.a = a
	tx.clock = a.clock()
	if tx.clock-a.lookedAt >= time.Second {
		now := time.Now()
		a.wall, a.lookedAt = now.UnixNano(), now.Sub(a.epoch)
		tx.clock = a.lookedAt
	}
	tx.now = a.wall + int64(tx.clock-a.lookedAt)
	return tx, nil
}

// maxKeptChanges is how many changes the memory of one transaction may hold to be
// kept for the next.
const maxKeptChanges = 1024

// clock is the time on the authority's own clock.
func (a *Authority) clock() time.Duration { return time.Since(a.epoch) }

// end finishes a transaction, undoes it if err is not nil, and unlocks. It
// returns when what was done is on the disk.
func (a *Authority) end(tx *Tx, err error) error {
	var g *group
	var lead bool
	switch {
	case err != nil:
		a.undo(tx.changes)
	case a.file != nil:
		g, lead = a.enqueue(tx.changes)
	}
	if cap(tx.changes) > maxKeptChanges {
		tx.changes = nil
	}
	tx.changes = tx.changes[:0]
	a.mu.Unlock()
	if g == nil {
		return err
	}
	if lead {
		a.write(g)
	}
	<-g.done
	return g.err
}

// undo takes changes back, the latest first.
func (a *Authority) undo(changes []change) {
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		if _, ok := c.prefix(); ok {
			a.swapClaim(c.newClaim, c.oldClaim)
		} else {
			a.swap(c.new, c.old)
		}
	}
}

// prefix is the prefix whose claim changes, if it is a claim that does.
func (c change) prefix() (netip.Prefix, bool) {
	switch {
	case c.oldClaim != nil:
		return c.oldClaim.prefix, true
	case c.newClaim != nil:
		return c.newClaim.prefix, true
	}
	return netip.Prefix{}, false
}

// addr is the address whose record changes.
func (c change) addr() netip.Addr {
	if c.old.record != nil {
		return c.old.record.addr
	}
	return c.new.record.addr
}

// replace puts a new record in the place of an old one; either may be nil.
func (tx *Tx) replace(old, new *record) { tx.swap(old.version(), new.version()) }

// change gives a record a new state.
func (tx *Tx) change(r *record, s state) { tx.swap(r.version(), version{r, s}) }

func (tx *Tx) swap(old, new version) {
	tx.a.swap(old, new)
	tx.changes = append(tx.changes, change{old: old, new: new})
}

func (tx *Tx) swapClaim(old, new *claim) {
	tx.a.swapClaim(old, new)
	tx.changes = append(tx.changes, change{oldClaim: old, newClaim: new})
}

// rollback takes back what was done since there were n changes.
func (tx *Tx) rollback(n int) {
	tx.a.undo(tx.changes[n:])
	clear(tx.changes[n:])
	tx.changes = tx.changes[:n]
}
