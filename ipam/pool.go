package ipam

import (
	"math"
	"net/netip"
	"time"
)

// A claim is a prefix that is spoken for: a root pool, a subnet carved out of a
// pool, or a reservation. It does not change once it is in an Authority.
type claim struct {
	prefix netip.Prefix
	class  class
	owner  Owner
	node   string // the second half of a service's key
	since  int64  // Unix nanoseconds
	parent *pool  // nil for a root
	pool   *pool  // what addresses are handed out from; nil for a reservation
}

type class uint8

const (
	classRoot class = iota + 1
	classSubnet
	classReserved
)

// A pool is a prefix that addresses and subnets are handed out from.
type pool struct {
	prefix      netip.Prefix
	bits        int     // of an address: 32 or 128
	first, last uint128 // what a host may have
	free        spans   // neither leased nor resting nor claimed
	resting     queue   // released, the longest ago first
	rested      queue   // free again, but remembered for their last owner
	leases      int
	claims      int // subnets and reservations directly in it
}

func newPool(p netip.Prefix) *pool {
	np := &pool{prefix: p, bits: p.Addr().BitLen()}
	lo, hi := rangeOf(p)
	np.free.add(lo, hi)
	np.first, np.last = usable(p)
	return np
}

// usable is the first and last address a host may have.
//
// IPv4: all but the network and broadcast addresses (RFC 1122, 3.2.1.3), both
// addresses of a /31 (RFC 3021, 2.1) and the one of a /32. IPv6: all but the
// first, which is the Subnet-Router anycast address (RFC 4291, 2.6.1), both of a
// /127 (RFC 6164, 6) and the one of a /128.
func usable(p netip.Prefix) (first, last uint128) {
	first, last = rangeOf(p)
	if p.Addr().BitLen()-p.Bits() >= 2 {
		first = first.next()
		if p.Addr().Is4() {
			last = last.prev()
		}
	}
	return first, last
}

// Usable is the first and the last address of p that a host may have: without
// network and broadcast address in IPv4 and the anycast address in IPv6, but both
// addresses of a /31 or /127 and the only one of a /32 or /128 (RFC 3021, 4291,
// 6164). p must be valid.
func Usable(p netip.Prefix) (first, last netip.Addr) {
	p = p.Masked()
	lo, hi := usable(p)
	return lo.addr(p.Addr().BitLen()), hi.addr(p.Addr().BitLen())
}

// A record is what is known of one address: a lease, or the memory of one. Only
// its state and its links change.
type record struct {
	addr  netip.Addr
	pool  *pool
	owner Owner
	since int64 // Unix nanoseconds
	state

	nextOwned, prevOwned *record // of the same owner
	next, prev           *record // in the queue it is in, if it was released
}

// A state is whether a record is a lease, and if not, since when.
type state struct {
	released int64         // Unix nanoseconds; 0: a lease
	at       time.Duration // when it was released, on the Authority's own clock
	seq      uint64        // its place among the released
}

// longAgo is when an address was released that may be given to another owner.
const longAgo = math.MinInt64

// rested reports whether an address may be given to another owner.
func (s state) rested() bool { return s.at == longAgo }

// A version is a record as it was or is to be at some time; without one it is an
// address of which nothing is known.
type version struct {
	record *record
	state
}

// version is the record as it is; it may be nil.
func (r *record) version() version {
	if r == nil {
		return version{}
	}
	return version{r, r.state}
}

// isLease reports whether the address is leased.
func (v version) isLease() bool { return v.record != nil && v.released == 0 }

func (r *record) lease() Lease {
	return Lease{Addr: r.addr, Pool: r.pool.prefix, Owner: r.owner.clone(), Since: time.Unix(0, r.since)}
}

// isLease reports whether the address is leased; of no record it is not.
func (r *record) isLease() bool { return r != nil && r.released == 0 }

// isFree reports whether an address with this record may be given to anyone.
func (r *record) isFree() bool { return r == nil || r.rested() }

// A queue holds released records in the order of their release.
type queue struct {
	front, back *record
	n           int
}

// push puts r in its place, which is the end unless a change is being undone.
func (q *queue) push(r *record) {
	before := q.back
	if q.front != nil && r.seq < q.front.seq {
		before = nil
	}
	for before != nil && before.seq > r.seq {
		before = before.prev
	}
	r.prev = before
	if before == nil {
		r.next, q.front = q.front, r
	} else {
		r.next, before.next = before.next, r
	}
	if r.next == nil {
		q.back = r
	} else {
		r.next.prev = r
	}
	q.n++
}

func (q *queue) remove(r *record) {
	if r.prev == nil {
		q.front = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		q.back = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.next, r.prev = nil, nil
	q.n--
}
