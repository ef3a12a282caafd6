package ipam

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSpansAreASet compares random changes with a slice of booleans, on both sides
// of a carry, and enough of them for many blocks.
func TestSpansAreASet(t *testing.T) {
	const size = 5000
	base := uint128{7, 0}.sub(uint128{0, size / 2})
	at := func(i int) uint128 { return base.add(uint128{0, uint64(i)}) }
	rng := rand.New(rand.NewPCG(1, 2))
	var s spans
	var set [size]bool
	for round := range 40_000 {
		lo := rng.IntN(size)
		hi := min(lo+rng.IntN(1+rng.IntN(4)), size-1)
		all, none := true, true
		for i := lo; i <= hi; i++ {
			all, none = all && set[i], none && !set[i]
		}
		require.Equal(t, all, s.contains(at(lo), at(hi)))
		switch {
		case all:
			s.remove(at(lo), at(hi))
		case none:
			s.add(at(lo), at(hi))
		default:
			continue
		}
		for i := lo; i <= hi; i++ {
			set[i] = none
		}
		if round%1000 == 0 || round > 39_900 {
			requireSpans(t, &s, set[:], at)
		}
		x := rng.IntN(size)
		got, ok := s.from(at(x))
		next := slices.Index(set[x:], true)
		require.Equal(t, next >= 0, ok)
		if ok {
			require.Equal(t, at(x+next), got.lo)
		}
	}
	require.Greater(t, len(s.blocks), 3)
}

func requireSpans(t *testing.T, s *spans, set []bool, at func(int) uint128) {
	t.Helper()
	var want, got []span
	for i := 0; i < len(set); i++ {
		if lo := i; set[i] {
			for i+1 < len(set) && set[i+1] {
				i++
			}
			want = append(want, span{at(lo), at(i)})
		}
	}
	for _, block := range s.blocks {
		require.NotEmpty(t, block)
		require.LessOrEqual(t, len(block), blockLen)
		got = append(got, block...)
	}
	require.Equal(t, want, got)
}

func TestSpansPanicOnMisuse(t *testing.T) {
	var s spans
	s.add(uint128{0, 10}, uint128{0, 20})
	require.Panics(t, func() { s.add(uint128{0, 20}, uint128{0, 21}) })
	require.Panics(t, func() { s.remove(uint128{0, 20}, uint128{0, 21}) })
	require.Panics(t, func() { s.remove(uint128{0, 1}, uint128{0, 1}) })
}

func TestUint128IsArithmeticModulo128Bits(t *testing.T) {
	toBig := func(n uint128) *big.Int {
		b := new(big.Int).SetUint64(n.hi)
		return b.Or(b.Lsh(b, 64), new(big.Int).SetUint64(n.lo))
	}
	mod := new(big.Int).Lsh(big.NewInt(1), 128)
	rng := rand.New(rand.NewPCG(3, 4))
	number := func() uint128 {
		n := uint128{rng.Uint64(), rng.Uint64()}
		return n.shr(rng.IntN(128))
	}
	for range 10_000 {
		n, m, k := number(), number(), rng.IntN(128)
		a, b := toBig(n), toBig(m)
		require.Zero(t, new(big.Int).Mod(new(big.Int).Add(a, b), mod).Cmp(toBig(n.add(m))))
		require.Zero(t, new(big.Int).Mod(new(big.Int).Sub(a, b), mod).Cmp(toBig(n.sub(m))))
		require.Zero(t, new(big.Int).Mod(new(big.Int).Lsh(a, uint(k)), mod).Cmp(toBig(n.shl(k))))
		require.Zero(t, new(big.Int).Rsh(a, uint(k)).Cmp(toBig(n.shr(k))))
		require.Equal(t, a.Cmp(b), n.compare(m))
		require.Equal(t, a.Cmp(b) < 0, n.less(m))
		require.Equal(t, n, fromAddr(n.addr(128)))
	}
	require.Equal(t, netip.MustParseAddr("255.0.0.1"), fromAddr(netip.MustParseAddr("255.0.0.1")).addr(32))
}
