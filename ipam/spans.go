package ipam

import (
	"slices"
	"sort"
)

// A span is a run of addresses, both ends included.
type span struct{ lo, hi uint128 }

// spans is a set of addresses kept as its maximal runs, in order. A pool that is
// filled from the bottom is one run whatever its size, so neither memory nor time
// depends on how large the pool is; n scattered addresses cost n runs at most.
//
// The runs are kept in blocks of at most blockLen, so that finding one is two
// binary searches and changing one moves at most a block.
type spans struct{ blocks [][]span }

const blockLen = 256

// at finds the first run that ends at or after x.
func (s *spans) at(x uint128) (block, i int, ok bool) {
	// Allocation asks for the lowest run nearly always.
	if len(s.blocks) > 0 && !s.blocks[0][0].hi.less(x) {
		return 0, 0, true
	}
	block = sort.Search(len(s.blocks), func(b int) bool {
		run := s.blocks[b]
		return !run[len(run)-1].hi.less(x)
	})
	if block == len(s.blocks) {
		return block, 0, false
	}
	run := s.blocks[block]
	i = sort.Search(len(run), func(i int) bool { return !run[i].hi.less(x) })
	return block, i, true
}

// from is the first run that ends at or after x, without what it has below x.
func (s *spans) from(x uint128) (span, bool) {
	b, i, ok := s.at(x)
	if !ok {
		return span{}, false
	}
	r := s.blocks[b][i]
	if r.lo.less(x) {
		r.lo = x
	}
	return r, true
}

// contains reports whether every address from lo to hi is in the set.
func (s *spans) contains(lo, hi uint128) bool {
	b, i, ok := s.at(lo)
	if !ok {
		return false
	}
	r := s.blocks[b][i]
	return !lo.less(r.lo) && !r.hi.less(hi)
}

// remove takes the addresses from lo to hi, all of which are in the set, out of it.
func (s *spans) remove(lo, hi uint128) {
	b, i, ok := s.at(lo)
	if !ok || lo.less(s.blocks[b][i].lo) || s.blocks[b][i].hi.less(hi) {
		panic("ipam: removed addresses that are not in the set")
	}
	r := &s.blocks[b][i]
	switch {
	case r.lo == lo && r.hi == hi:
		s.blocks[b] = slices.Delete(s.blocks[b], i, i+1)
		if len(s.blocks[b]) == 0 {
			s.blocks = slices.Delete(s.blocks, b, b+1)
		}
	case r.lo == lo:
		r.lo = hi.next()
	case r.hi == hi:
		r.hi = lo.prev()
	default:
		above := span{hi.next(), r.hi}
		r.hi = lo.prev()
		s.insert(b, i+1, above)
	}
}

// add puts the addresses from lo to hi, none of which is in the set, into it.
func (s *spans) add(lo, hi uint128) {
	b, i, ok := s.at(lo)
	if !ok { // above every run
		if len(s.blocks) == 0 {
			s.blocks = append(s.blocks, append(make([]span, 0, blockLen), span{lo, hi}))
			return
		}
		b = len(s.blocks) - 1
		i = len(s.blocks[b])
	}
	var below, above *span
	if i < len(s.blocks[b]) {
		above = &s.blocks[b][i]
		if !hi.less(above.lo) {
			panic("ipam: added addresses that are in the set already")
		}
	}
	switch {
	case i > 0:
		below = &s.blocks[b][i-1]
	case b > 0:
		below = &s.blocks[b-1][len(s.blocks[b-1])-1]
	}
	joinsBelow := below != nil && below.hi.next() == lo
	joinsAbove := above != nil && hi.next() == above.lo
	switch {
	case joinsBelow && joinsAbove:
		above.lo = below.lo
		if i > 0 {
			s.blocks[b] = slices.Delete(s.blocks[b], i-1, i)
			return
		}
		run := s.blocks[b-1]
		s.blocks[b-1] = run[:len(run)-1]
		if len(s.blocks[b-1]) == 0 {
			s.blocks = slices.Delete(s.blocks, b-1, b)
		}
	case joinsBelow:
		below.hi = hi
	case joinsAbove:
		above.lo = lo
	default:
		s.insert(b, i, span{lo, hi})
	}
}

// insert puts r before run i of a block, and cuts the block in two when it is full.
func (s *spans) insert(b, i int, r span) {
	if run := s.blocks[b]; len(run) == blockLen {
		half := append(make([]span, 0, blockLen), run[blockLen/2:]...)
		s.blocks[b] = run[:blockLen/2]
		s.blocks = slices.Insert(s.blocks, b+1, half)
		if i > blockLen/2 {
			b, i = b+1, i-blockLen/2
		}
	}
	s.blocks[b] = slices.Insert(s.blocks[b], i, r)
}
