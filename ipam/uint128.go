package ipam

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A uint128 is an address as a number. IPv4 addresses use the low 32 bits.
type uint128 struct{ hi, lo uint64 }

func fromAddr(a netip.Addr) uint128 {
	if a.Is4() {
		b := a.As4()
		return uint128{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addr is n as an address of the given length: 32 bits or 128.
func (n uint128) addr(bitLen int) netip.Addr {
	if bitLen == 32 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	return netip.AddrFrom16(b)
}

func (n uint128) less(m uint128) bool {
	return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo
}

func (n uint128) compare(m uint128) int {
	return cmp.Or(cmp.Compare(n.hi, m.hi), cmp.Compare(n.lo, m.lo))
}

func (n uint128) add(m uint128) uint128 {
	lo, carry := bits.Add64(n.lo, m.lo, 0)
	hi, _ := bits.Add64(n.hi, m.hi, carry)
	return uint128{hi, lo}
}

func (n uint128) sub(m uint128) uint128 {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	hi, _ := bits.Sub64(n.hi, m.hi, borrow)
	return uint128{hi, lo}
}

func (n uint128) next() uint128 { return n.add(uint128{0, 1}) }
func (n uint128) prev() uint128 { return n.sub(uint128{0, 1}) }

func (n uint128) shl(k int) uint128 {
	if k >= 64 {
		return uint128{n.lo << (k - 64), 0}
	}
	return uint128{n.hi<<k | n.lo>>(64-k), n.lo << k}
}

func (n uint128) shr(k int) uint128 {
	if k >= 64 {
		return uint128{0, n.hi >> (k - 64)}
	}
	return uint128{n.hi >> k, n.lo>>k | n.hi<<(64-k)}
}

// rangeOf is the first and the last address of a masked prefix.
func rangeOf(p netip.Prefix) (first, last uint128) {
	first = fromAddr(p.Addr())
	size := uint128{0, 1}.shl(p.Addr().BitLen() - p.Bits()) // wraps to 0 for ::/0
	return first, first.add(size.prev())
}
