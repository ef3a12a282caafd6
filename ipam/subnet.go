package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// A Subnet is a prefix carved out of a pool for an owner. It is a pool itself:
// addresses, and further subnets, are handed out from it.
type Subnet struct {
	Prefix netip.Prefix
	Pool   netip.Prefix // what it was carved out of
	Owner  Owner
	Node   string // of a KindService owner: the node it serves on
	Since  time.Time
}

// A SubnetRequest asks for a subnet.
type SubnetRequest struct {
	Pool netip.Prefix
	Bits int // the subnet's length; 0: 28 for IPv4, 120 for IPv6

	// Owner and Node are whose it is. A node's slice has an owner of KindNode; a
	// service has one of KindService and Node set, and so a subnet on each node.
	Owner Owner
	Node  string

	// Prefix is the very subnet to take, where somebody else decides. Zero: the
	// place follows from Owner and Node.
	Prefix netip.Prefix

	// Exclude is what the subnet shall not overlap, besides what the authority
	// has handed out, when its place is not given.
	Exclude []netip.Prefix
}

// subnetKey is whose a subnet is.
type subnetKey struct {
	pool           netip.Prefix
	kind, id, node string
}

func (c *claim) key() subnetKey {
	return subnetKey{c.parent.prefix, c.owner.Kind, c.owner.ID, c.node}
}

func (c *claim) subnet() Subnet {
	return Subnet{Prefix: c.prefix, Pool: c.parent.prefix, Owner: c.owner.clone(), Node: c.node, Since: time.Unix(0, c.since)}
}

// Assign carves a subnet out of a pool. An owner that has one there already gets
// the same again.
//
// The place is found by hash, so that everyone who starts from the same state
// comes to the same one: the pool is cut into slots of the wanted size, the first
// slot tried is FNV-1a 64 of the owner's ID (of a service: ID, the byte 0x1f,
// Node) modulo their number, at most 2⁶⁴-1, and the next ones follow in order,
// from the last on to the first. Slots that overlap anything handed out, reserved
// or excluded are passed over. Addresses in the pool that rest give way when no
// slot would be left.
func (tx *Tx) Assign(r SubnetRequest) (Subnet, error) {
	mark := len(tx.changes)
	c, holder, err := tx.assign(r)
	if err != nil {
		tx.rollback(mark)
		e := &Error{Op: "assign a subnet of", Prefix: r.Pool, Owner: r.Owner, Holder: holder, Err: err}
		if r.Prefix.IsValid() {
			e.Op, e.Prefix = "assign", r.Prefix
		}
		return Subnet{}, e
	}
	return c.subnet(), nil
}

func (tx *Tx) assign(r SubnetRequest) (c *claim, holder Owner, err error) {
	p, ok := tx.a.pools[r.Pool.Masked()]
	if !ok {
		return nil, holder, ErrNoPool
	}
	if err := r.check(p); err != nil {
		return nil, holder, err
	}
	bits := r.Bits
	switch {
	case r.Prefix.IsValid():
		bits = r.Prefix.Bits()
	case bits == 0 && p.bits == 32:
		bits = 28
	case bits == 0:
		bits = 120
	}
	if bits <= p.prefix.Bits() || bits > p.bits {
		return nil, holder, fmt.Errorf("%w: a subnet of %s has %d to %d bits, not %d", ErrInvalid, p.prefix, p.prefix.Bits()+1, p.bits, bits)
	}
	tx.expire(p)
	if c, ok := tx.a.subnets[subnetKey{p.prefix, r.Owner.Kind, r.Owner.ID, r.Node}]; ok {
		if c.prefix.Bits() != bits || r.Prefix.IsValid() && r.Prefix != c.prefix {
			return nil, holder, fmt.Errorf("%w: it has %s there", ErrTaken, c.prefix)
		}
		return tx.refreshClaim(c, r.Owner), holder, nil
	}
	prefix := r.Prefix
	if prefix.IsValid() {
		if holder, err = tx.clear(p, prefix); err != nil {
			return nil, holder, err
		}
	} else if prefix, ok = tx.findSlot(p, bits, r); !ok {
		return nil, holder, ErrExhausted
	}
	c = &claim{
		prefix: prefix, class: classSubnet, owner: r.Owner.clone(), node: r.Node,
		since: tx.now, parent: p, pool: newPool(prefix),
	}
	tx.addClaim(c)
	return c, holder, nil
}

// check reports what is wrong with a request before the state is looked at.
func (r SubnetRequest) check(p *pool) error {
	if err := r.Owner.check(); err != nil {
		return err
	}
	if r.Owner.Kind != KindService && r.Node != "" {
		return fmt.Errorf("%w: only a subnet of a %q has a node", ErrInvalid, KindService)
	}
	if err := checkNode(r.Node); err != nil {
		return err
	}
	if !r.Prefix.IsValid() {
		return nil
	}
	switch {
	case r.Prefix.Addr().BitLen() != p.bits || !p.prefix.Contains(r.Prefix.Addr()):
		return fmt.Errorf("%w: it is not in %s", ErrOutOfRange, p.prefix)
	case r.Prefix != r.Prefix.Masked():
		return fmt.Errorf("%w: misaligned, %s would hold it", ErrInvalid, r.Prefix.Masked())
	case r.Bits != 0 && r.Bits != r.Prefix.Bits():
		return fmt.Errorf("%w: it is not of %d bits", ErrInvalid, r.Bits)
	}
	return nil
}

// findSlot finds the place of a subnet by hash.
func (tx *Tx) findSlot(p *pool, bits int, r SubnetRequest) (netip.Prefix, bool) {
	s := newSlots(p, bits, r.Exclude)
	if i, ok := s.probe(slotHash(r.Owner, r.Node)); ok {
		return s.prefix(i), true
	}
	for rec := p.resting.front; rec != nil; rec = p.resting.front {
		tx.rest(rec)
		if i := s.at(fromAddr(rec.addr)); s.free(i) {
			return s.prefix(i), true
		}
	}
	return netip.Prefix{}, false
}

// rest ends the rest of an address before its time.
func (tx *Tx) rest(r *record) {
	rested := r.state
	rested.at = longAgo
	tx.change(r, rested)
}

// clear makes sure that a prefix of a pool is free, and wakes what rests in it.
func (tx *Tx) clear(p *pool, prefix netip.Prefix) (holder Owner, err error) {
	lo, hi := rangeOf(prefix)
	var in []*record
	for r := p.resting.front; r != nil; r = r.next {
		if prefix.Contains(r.addr) {
			in = append(in, r)
		}
	}
	for _, r := range in {
		tx.rest(r)
	}
	if p.free.contains(lo, hi) {
		return Owner{}, nil
	}
	holder, what := tx.a.firstIn(p, lo)
	return holder, fmt.Errorf("%w: %s is taken", ErrOverlap, what)
}

// firstIn is who holds the first address from lo on that is not free in a pool,
// and what he has there.
func (a *Authority) firstIn(p *pool, lo uint128) (Owner, netip.Prefix) {
	if s, ok := p.free.from(lo); ok && s.lo == lo {
		lo = s.hi.next()
	}
	addr := lo.addr(p.bits)
	if r := a.records.get(addr); r != nil && r.pool == p {
		return r.owner, single(addr)
	}
	for prefix, c := range a.claims.Supernets(single(addr)) {
		if c.parent == p {
			return c.owner, prefix
		}
	}
	return Owner{}, single(addr)
}

// addClaim adds a claim to its parent, which forgets what it remembered there.
func (tx *Tx) addClaim(c *claim) {
	if c.parent != nil {
		for r := c.parent.rested.front; r != nil; {
			next := r.next
			if c.prefix.Contains(r.addr) {
				tx.replace(r, nil)
			}
			r = next
		}
	}
	tx.swapClaim(nil, c)
}

// refreshClaim brings what is known of a subnet's owner up to date.
func (tx *Tx) refreshClaim(c *claim, o Owner) *claim {
	if c.owner.equal(o) {
		return c
	}
	fresh := *c
	fresh.owner = o.clone()
	tx.swapClaim(c, &fresh)
	return &fresh
}

// removeClaim removes a claim in which nothing is held any more.
func (tx *Tx) removeClaim(c *claim) error {
	if p := c.pool; p != nil {
		if p.leases > 0 || p.claims > 0 {
			return fmt.Errorf("%w: addresses held in it: %d, subnets: %d; release them first", ErrInUse, p.leases, p.claims)
		}
		for r := p.resting.front; r != nil; r = p.resting.front {
			tx.replace(r, nil)
		}
		for r := p.rested.front; r != nil; r = p.rested.front {
			tx.replace(r, nil)
		}
	}
	tx.swapClaim(c, nil)
	return nil
}

// Unassign gives a subnet back. Nothing in it may be held any more: else the
// error is [ErrInUse]. A subnet its owner does not hold is [ErrNotHeld].
func (tx *Tx) Unassign(s Subnet) error {
	fail := func(err error) error {
		return &Error{Op: "unassign", Prefix: s.Prefix, Owner: s.Owner, Err: err}
	}
	c, ok := tx.a.claims.Get(s.Prefix)
	if !ok || c.class != classSubnet || !c.owner.Is(s.Owner) || c.node != s.Node {
		return fail(ErrNotHeld)
	}
	if err := tx.removeClaim(c); err != nil {
		return fail(err)
	}
	return nil
}

// Assign carves a subnet out of a pool; see [Tx.Assign].
func (a *Authority) Assign(r SubnetRequest) (s Subnet, err error) {
	err = a.Update(func(tx *Tx) error {
		s, err = tx.Assign(r)
		return err
	})
	if err != nil {
		return Subnet{}, err
	}
	return s, nil
}

// Unassign gives a subnet back; see [Tx.Unassign].
func (a *Authority) Unassign(s Subnet) error {
	return a.Update(func(tx *Tx) error { return tx.Unassign(s) })
}
