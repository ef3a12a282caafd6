package ipam

import (
	"net/netip"
	"slices"
)

// Alive is what there really is, for [Tx.Reconcile].
type Alive struct {
	// Boot is the boot id of the running system. What was leased under another
	// one ended with it, and namespace inodes from then say nothing.
	Boot string

	// Holders is everyone alive, each with the addresses it really has.
	Holders []Holder

	// Scope tells which leases Holders is complete for; others are left alone.
	// nil: all of them.
	Scope func(Lease) bool
}

// A Holder is somebody alive. With no address it is believed to have those it
// leased.
type Holder struct {
	Owner Owner
	Addrs []netip.Addr
}

// A Report is what [Tx.Reconcile] found and did.
type Report struct {
	Kept     []Lease // the owner is alive; what is known of it was brought up to date
	Adopted  []Lease // was had without a lease, and has one now
	Gone     []Lease // the owner ended while the system ran on: released
	Rebooted []Lease // the owner ended with an earlier boot: released
	Doubts   []Doubt // left as they are
}

// A Doubt is an address about which lease and life do not agree.
type Doubt struct {
	Addr  netip.Addr
	Lease Lease // zero: none
	Alive Owner // who has the address, or lives in the namespace; zero: nobody

	// Err is ErrTaken: Alive has an address leased to another who lives;
	// ErrInUse: the owner is gone, but its namespace lives, under Alive;
	// ErrNotHeld: the owner lives without the address;
	// ErrOutOfRange, ErrNotUsable, …: Alive has an address that cannot be leased.
	Err error
}

// Reconcile compares the leases with what is alive. Leases of the living stay, and
// those of the dead are released; addresses the living have without a lease are
// leased to them, even out of their rest; the rest is reported and left as it is.
func (tx *Tx) Reconcile(alive Alive) (Report, error) {
	mark := len(tx.changes)
	r := reconciler{tx: tx, alive: alive, holders: make(map[ownerKey]Holder), spaces: make(map[uint64]Owner)}
	if err := r.index(); err != nil {
		return Report{}, &Error{Op: "reconcile", Err: err}
	}
	for _, rec := range tx.sorted() {
		r.settle(rec)
	}
	for _, h := range alive.Holders {
		for _, addr := range h.Addrs {
			if err := r.adopt(h.Owner, addr.Unmap()); err != nil {
				tx.rollback(mark)
				return Report{}, &Error{Op: "reconcile", Prefix: single(addr), Owner: h.Owner, Err: err}
			}
		}
	}
	return r.report, nil
}

// sorted is every lease in the order of the addresses.
func (tx *Tx) sorted() []*record {
	all := make([]*record, 0, tx.a.leases)
	for r := range tx.a.records.all() {
		if r.isLease() {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(r, s *record) int { return r.addr.Compare(s.addr) })
	return all
}

// An ownerKey is an owner's identity.
type ownerKey struct{ kind, id string }

func (o Owner) key() ownerKey { return ownerKey{o.Kind, o.ID} }

type reconciler struct {
	tx      *Tx
	alive   Alive
	holders map[ownerKey]Holder
	spaces  map[uint64]Owner // by namespace
	report  Report
}

func (r *reconciler) index() error {
	for _, h := range r.alive.Holders {
		if err := h.Owner.check(); err != nil {
			return err
		}
		known := r.holders[h.Owner.key()]
		h.Addrs = append(slices.Clone(known.Addrs), h.Addrs...)
		for i := range h.Addrs {
			h.Addrs[i] = h.Addrs[i].Unmap()
		}
		r.holders[h.Owner.key()] = h
		if h.Owner.NetNS != 0 {
			r.spaces[h.Owner.NetNS] = h.Owner
		}
	}
	return nil
}

// settle decides what becomes of a lease.
func (r *reconciler) settle(rec *record) {
	l := rec.lease()
	if r.alive.Scope != nil && !r.alive.Scope(l) {
		return
	}
	h, lives := r.holders[rec.owner.key()]
	rebooted := l.Owner.Boot != "" && r.alive.Boot != "" && l.Owner.Boot != r.alive.Boot
	neighbour, inhabited := r.spaces[l.Owner.NetNS]
	switch {
	case lives && len(h.Addrs) > 0 && !slices.Contains(h.Addrs, rec.addr):
		r.doubt(Doubt{Addr: rec.addr, Lease: l, Alive: h.Owner, Err: ErrNotHeld})
	case lives:
		o := h.Owner
		if o.Labels == nil {
			o.Labels = l.Owner.Labels
		}
		r.report.Kept = append(r.report.Kept, r.tx.refresh(rec, o).lease())
	case rebooted:
		r.tx.release(rec)
		r.report.Rebooted = append(r.report.Rebooted, l)
	case l.Owner.NetNS != 0 && inhabited:
		r.doubt(Doubt{Addr: rec.addr, Lease: l, Alive: neighbour, Err: ErrInUse})
	default:
		r.tx.release(rec)
		r.report.Gone = append(r.report.Gone, l)
	}
}

func (r *reconciler) doubt(d Doubt) { r.report.Doubts = append(r.report.Doubts, d) }

// adopt sees to it that somebody alive has a lease of an address it has.
func (r *reconciler) adopt(o Owner, addr netip.Addr) error {
	if rec := r.tx.a.records.get(addr); rec.isLease() {
		if !rec.owner.Is(o) {
			r.doubt(Doubt{Addr: addr, Lease: rec.lease(), Alive: o, Err: ErrTaken})
		}
		return nil
	}
	p, holder, err := r.tx.poolOf(addr)
	if err != nil {
		d := Doubt{Addr: addr, Alive: o, Err: err}
		if holder.Kind != "" {
			d.Lease.Owner = holder
		}
		r.doubt(d)
		return nil
	}
	rec, err := r.tx.take(addr, p, r.tx.a.records.get(addr), o)
	if err != nil {
		return err
	}
	r.report.Adopted = append(r.report.Adopted, rec.lease())
	return nil
}

// Reconcile compares the leases with what is alive; see [Tx.Reconcile].
func (a *Authority) Reconcile(alive Alive) (r Report, err error) {
	err = a.Update(func(tx *Tx) error {
		r, err = tx.Reconcile(alive)
		return err
	})
	if err != nil {
		return Report{}, err
	}
	return r, nil
}
