package ipam

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"os"
	"slices"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// load reads a file into an empty authority. What is wrong with the content is a
// boltfile.Damage.
func load(path string, a *Authority) (sum, error) {
	f, err := os.Open(path)
	if err != nil {
		return sum{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return sum{}, err
	}
	l := loader{a: a}
	if err := boltfile.Scan(f, info.Size(), l.pair); err != nil {
		return sum{}, err
	}
	switch {
	case l.schema > schema:
		return sum{}, &SchemaError{Path: path, Have: l.schema, Known: schema}
	case l.schema == 0:
		return sum{}, boltfile.Damaged("it has no schema")
	case l.err != nil:
		return sum{}, boltfile.Damaged("%v", l.err)
	case !bytes.Equal(l.written, l.sum.bytes()):
		return sum{}, boltfile.Damaged("its %d entries are not those that were written", l.sum.count)
	}
	l.restAll()
	return l.sum, nil
}

type loader struct {
	a        *Authority
	schema   uint32
	written  []byte // the sum the file says it has
	sum      sum    // the sum it has
	released []*record
	err      error // what is wrong with the content, if its schema is known
}

// pair takes in one pair of the file.
func (l *loader) pair(bucket string, key, value []byte) error {
	switch bucket {
	case string(bucketAuthority):
		switch {
		case bytes.Equal(key, keySchema) && len(value) == 4:
			l.schema = binary.BigEndian.Uint32(value)
		case bytes.Equal(key, keySum):
			l.written = bytes.Clone(value)
		}
		return nil
	case string(bucketClaims):
		l.sum.add(bucketClaims, key, value)
		l.fail(l.claim(key, value))
	case string(bucketLeases):
		l.sum.add(bucketLeases, key, value)
		l.fail(l.lease(key, value))
	default:
		l.fail(boltfile.Damaged("unknown bucket %q", bucket))
	}
	return nil
}

func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
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
