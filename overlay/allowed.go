package overlay

import (
	"errors"
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

var (
	errPrefixInvalid = errors.New("is not a prefix: want address/length")
	errPrefixMapped  = errors.New("reaches beyond the IPv4-mapped addresses: give the IPv4 prefix, or an IPv6 one")
)

// canonical is p with its host bits cleared, as wg(8) takes it; an IPv4-mapped
// prefix is the IPv4 prefix it means. peer is who it is for, for the error.
func canonical(peer PublicKey, p netip.Prefix) (netip.Prefix, error) {
	var err error
	switch {
	case !p.IsValid():
		err = errPrefixInvalid
	case p.Addr().Is4In6() && p.Bits() < 96:
		err = errPrefixMapped
	case p.Addr().Is4In6():
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if err != nil {
		return p, &ConfigError{Peer: peer, Field: "AllowedIPs", Value: p.String(), Err: err}
	}
	return p.Masked(), nil
}

// canonicals is each prefix canonical, sorted, without duplicates.
func canonicals(peer PublicKey, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		var err error
		if out[i], err = canonical(peer, p); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out), nil
}

// An ownerTable knows which peer owns which prefix.
type ownerTable struct {
	table bart.Table[PublicKey]
}

// check refuses canonical prefixes that overlap another peer's.
func (t *ownerTable) check(peer PublicKey, prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		for owned, owner := range t.overlapping(p) {
			if owner != peer {
				return &OverlapError{Peer: peer, Prefix: p, Owner: owner, Owned: owned}
			}
		}
	}
	return nil
}

// overlapping yields what equals, holds or lies in p. A default route overlaps
// only itself.
func (t *ownerTable) overlapping(p netip.Prefix) iter.Seq2[netip.Prefix, PublicKey] {
	return func(yield func(netip.Prefix, PublicKey) bool) {
		for owned, owner := range t.table.Supernets(p) { // p itself included
			if (owned.Bits() != 0 || p.Bits() == 0) && !yield(owned, owner) {
				return
			}
		}
		if p.Bits() == 0 {
			return
		}
		for owned, owner := range t.table.Subnets(p) {
			if !yield(owned, owner) {
				return
			}
		}
	}
}

func (t *ownerTable) take(peer PublicKey, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		t.table.Insert(p, peer)
	}
}

func (t *ownerTable) release(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		t.table.Delete(p)
	}
}
