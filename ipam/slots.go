package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sort"
)

// slotHash is FNV-1a 64 of what names a subnet.
func slotHash(o Owner, node string) uint64 {
	h := fnv1a(fnvOffset, o.ID)
	if o.Kind == KindService {
		h = fnv1a(fnv1a(h, "\x1f"), node)
	}
	return h
}

const (
	fnvOffset = 0xcbf29ce484222325
	fnvPrime  = 0x00000100000001b3
)

func fnv1a[T string | []byte](h uint64, s T) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// slots are the equal parts of a pool that subnets take.
type slots struct {
	p        *pool
	base     uint128
	bits     int // of a slot's prefix
	hostBits int
	count    uint64
	exclude  []span // in order, none within another
}

// newSlots cuts a pool into slots. A longer cut than 2⁶⁴-1 slots is not counted
// on: those beyond are never taken.
func newSlots(p *pool, bits int, exclude []netip.Prefix) *slots {
	s := &slots{p: p, bits: bits, hostBits: p.bits - bits, count: math.MaxUint64}
	s.base, _ = rangeOf(p.prefix)
	if n := bits - p.prefix.Bits(); n < 64 {
		s.count = 1 << n
	}
	var all []span
	for _, e := range exclude {
		if e.IsValid() && e.Addr().BitLen() == p.bits {
			lo, hi := rangeOf(e.Masked())
			all = append(all, span{lo, hi})
		}
	}
	slices.SortFunc(all, func(a, b span) int {
		return cmp.Or(a.lo.compare(b.lo), b.hi.compare(a.hi))
	})
	for _, e := range all {
		if n := len(s.exclude); n == 0 || s.exclude[n-1].hi.less(e.hi) {
			s.exclude = append(s.exclude, e)
		}
	}
	return s
}

// probe finds the first slot that is free, from the hash's own on and around the
// end. It leaps over what is taken, so its cost is that of the runs in the pool
// and not that of the slots.
func (s *slots) probe(hash uint64) (uint64, bool) {
	start := hash % s.count
	if i, ok := s.from(start); ok {
		return i, true
	}
	if i, ok := s.from(0); ok && i < start {
		return i, true
	}
	return 0, false
}

// from finds the first free slot from i on.
func (s *slots) from(i uint64) (uint64, bool) {
	for i < s.count {
		r := s.span(i)
		run, ok := s.p.free.from(r.lo)
		if !ok {
			return 0, false
		}
		var past uint128 // everything from r.lo to here is taken
		switch {
		case r.lo.less(run.lo):
			past = run.lo.prev()
		case run.hi.less(r.hi):
			past = r.hi
		default:
			x, ok := s.excluded(r)
			if !ok {
				return i, true
			}
			past = x.hi
		}
		n := past.sub(s.base).shr(s.hostBits)
		if n.hi != 0 || n.lo == math.MaxUint64 {
			return 0, false
		}
		i = n.lo + 1
	}
	return 0, false
}

// excluded is what is excluded in a slot.
func (s *slots) excluded(r span) (span, bool) {
	i := sort.Search(len(s.exclude), func(i int) bool { return !s.exclude[i].hi.less(r.lo) })
	if i == len(s.exclude) || r.hi.less(s.exclude[i].lo) {
		return span{}, false
	}
	return s.exclude[i], true
}

// free reports whether slot i is free and not excluded.
func (s *slots) free(i uint64) bool {
	r := s.span(i)
	_, excluded := s.excluded(r)
	return i < s.count && !excluded && s.p.free.contains(r.lo, r.hi)
}

// span is the addresses of slot i.
func (s *slots) span(i uint64) span {
	lo := s.base.add(uint128{0, i}.shl(s.hostBits))
	size := uint128{0, 1}.shl(s.hostBits)
	return span{lo, lo.add(size.prev())}
}

// at is the slot an address is in.
func (s *slots) at(addr uint128) uint64 { return addr.sub(s.base).shr(s.hostBits).lo }

func (s *slots) prefix(i uint64) netip.Prefix {
	return netip.PrefixFrom(s.span(i).lo.addr(s.p.bits), s.bits)
}
