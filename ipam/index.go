package ipam

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// An addrIndex finds the record of an address. Sixteen neighbours share an entry,
// because addresses are mostly handed out in order: so the maps of a million
// leases stay small enough for the processor's caches.
type addrIndex struct {
	v4 map[uint32]*block
	v6 map[uint128]*block
	n  int
}

type block struct {
	n       int
	records [16]*record
}

func newAddrIndex() addrIndex {
	return addrIndex{v4: make(map[uint32]*block), v6: make(map[uint128]*block)}
}

// get is the record of an address, or nil.
func (x *addrIndex) get(a netip.Addr) *record {
	if a.Is4() {
		n := number4(a)
		if b := x.v4[n>>4]; b != nil {
			return b.records[n&15]
		}
		return nil
	}
	if !a.IsValid() || a.Zone() != "" {
		return nil
	}
	n := fromAddr(a)
	if b := x.v6[n.shr(4)]; b != nil {
		return b.records[n.lo&15]
	}
	return nil
}

// put replaces the record of an address that has one, or not; nil takes it away.
func (x *addrIndex) put(a netip.Addr, r *record) {
	if a.Is4() {
		n := number4(a)
		putIn(x, x.v4, n>>4, int(n&15), r)
		return
	}
	n := fromAddr(a)
	putIn(x, x.v6, n.shr(4), int(n.lo&15), r)
}

func putIn[K comparable](x *addrIndex, blocks map[K]*block, k K, i int, r *record) {
	b := blocks[k]
	if b == nil {
		b = &block{}
		blocks[k] = b
	}
	if b.records[i] != nil {
		b.n--
		x.n--
	}
	if b.records[i] = r; r != nil {
		b.n++
		x.n++
	}
	if b.n == 0 {
		delete(blocks, k)
	}
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// all is every record, in no order.
func (x *addrIndex) all() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for _, b := range x.v4 {
			if !b.each(yield) {
				return
			}
		}
		for _, b := range x.v6 {
			if !b.each(yield) {
				return
			}
		}
	}
}

func (b *block) each(yield func(*record) bool) bool {
	for _, r := range b.records {
		if r != nil && !yield(r) {
			return false
		}
	}
	return true
}

// An ownerIndex finds an owner's records, by kind and ID: one of them, which links
// to the others.
type ownerIndex struct {
	kinds map[string]map[string]*record

	kind string // the one asked for last, and what is in kinds for it
	ids  map[string]*record
}

func newOwnerIndex() ownerIndex {
	return ownerIndex{kinds: make(map[string]map[string]*record)}
}

// of is the owners of a kind, by ID; nil if there are none.
func (x *ownerIndex) of(kind string) map[string]*record {
	if x.ids == nil || x.kind != kind {
		x.kind, x.ids = kind, x.kinds[kind]
	}
	return x.ids
}

// get is one of an owner's records, or nil. Readers may call it, who share a lock.
func (x *ownerIndex) get(o Owner) *record { return x.kinds[o.Kind][o.ID] }

func (x *ownerIndex) add(r *record) {
	ids := x.of(r.owner.Kind)
	if ids == nil {
		ids = make(map[string]*record)
		x.kinds[r.owner.Kind], x.ids = ids, ids
	}
	r.prevOwned, r.nextOwned = nil, ids[r.owner.ID]
	if r.nextOwned != nil {
		r.nextOwned.prevOwned = r
	}
	ids[r.owner.ID] = r
}

func (x *ownerIndex) remove(r *record) {
	switch ids := x.of(r.owner.Kind); {
	case r.prevOwned != nil:
		r.prevOwned.nextOwned = r.nextOwned
	case r.nextOwned != nil:
		ids[r.owner.ID] = r.nextOwned
	case len(ids) == 1:
		delete(x.kinds, r.owner.Kind)
		x.ids = nil
	default:
		delete(ids, r.owner.ID)
	}
	if r.nextOwned != nil {
		r.nextOwned.prevOwned = r.prevOwned
	}
	r.prevOwned, r.nextOwned = nil, nil
}
