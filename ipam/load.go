package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// A loader takes the pairs of a file into an empty authority.
type loader struct {
	a        *Authority
	released []*record
}

// pair takes in one pair, or says what is wrong with it.
func (l *loader) pair(bucket string, key, value []byte) error {
	switch bucket {
	case bucketClaims:
		return l.claim(key, value)
	case bucketLeases:
		return l.lease(key, value)
	}
	return fmt.Errorf("unknown bucket %q", bucket)
}

var errMisplaced = errors.New("an entry where none may be")

// claim takes in a claim. One around another comes before it.
func (l *loader) claim(key, value []byte) error {
	c, err := parseClaim(key, value)
	if err != nil {
		return err
	}
	around, ok := l.a.claims.LookupPrefix(c.prefix)
	if ok == (c.class == classRoot) || ok && around.pool == nil {
		return errMisplaced
	}
	if ok {
		c.parent = around.pool
		lo, hi := rangeOf(c.prefix)
		if !c.parent.free.contains(lo, hi) {
			return errMisplaced
		}
	}
	if c.class != classReserved {
		c.pool = newPool(c.prefix)
	}
	if c.class == classSubnet {
		if _, ok := l.a.subnets[c.key()]; ok {
			return errMisplaced
		}
	}
	l.a.swapClaim(nil, c)
	return nil
}

func (l *loader) lease(key, value []byte) error {
	r, err := parseRecord(key, value)
	if err != nil {
		return err
	}
	c, ok := l.a.claims.Lookup(r.addr)
	if !ok || c.pool == nil {
		return errMisplaced
	}
	r.pool = c.pool
	if n := fromAddr(r.addr); n.less(r.pool.first) || r.pool.last.less(n) {
		return errMisplaced
	}
	if r.released != 0 {
		r.restFrom(l.a.epoch, l.a.config.Rest)
		l.released = append(l.released, r)
		return nil
	}
	l.a.swap(version{}, r.version())
	return nil
}

// restAll takes in what was released, in that order.
func (l *loader) restAll() {
	slices.SortStableFunc(l.released, func(r, s *record) int { return cmp.Compare(r.released, s.released) })
	for _, r := range l.released {
		l.a.released++
		r.seq = l.a.released
		l.a.swap(version{}, r.version())
	}
}
