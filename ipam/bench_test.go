package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkAllocate is one allocation and one release, of any of the leases there
// are: the number in the name. So it goes through all of the memory they take.
func BenchmarkAllocate(b *testing.B) {
	kinds := []struct {
		name string
		pool netip.Prefix
		open func(b *testing.B, c Config) (*Authority, error)
	}{
		{"memory/ipv4", netip.MustParsePrefix("10.0.0.0/8"), func(_ *testing.B, c Config) (*Authority, error) { return NewMemory(c) }},
		{"memory/ipv6", netip.MustParsePrefix("fd00:200::/64"), func(_ *testing.B, c Config) (*Authority, error) { return NewMemory(c) }},
		{"file/ipv4", netip.MustParsePrefix("10.0.0.0/8"), func(b *testing.B, c Config) (*Authority, error) {
			return Open(filepath.Join(b.TempDir(), "leases.db"), c)
		}},
	}
	for _, k := range kinds {
		for _, n := range []int{10, 1_000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/leases=%d", k.name, n), func(b *testing.B) {
				a, err := k.open(b, Config{Pools: []netip.Prefix{k.pool}, Rest: -1})
				require.NoError(b, err)
				defer a.Close()
				leases := fill(b, a, k.pool, n)
				next := Owner{Kind: "container", ID: "next"}
				runtime.GC()
				b.ReportAllocs()
				for b.Loop() {
					i := rand.IntN(n)
					gone := leases[i]
					if err := a.Release(gone); err != nil {
						b.Fatal(err)
					}
					if leases[i], err = a.Allocate(k.pool, next); err != nil {
						b.Fatal(err)
					}
					next = gone.Owner
				}
			})
		}
	}
}

// fill leases the n lowest addresses of a pool, each to an owner of its own.
func fill(tb testing.TB, a *Authority, pool netip.Prefix, n int) []Lease {
	tb.Helper()
	leases := make([]Lease, n)
	require.NoError(tb, a.Update(func(tx *Tx) (err error) {
		for i := range leases {
			leases[i], err = tx.Allocate(pool, Owner{Kind: "container", ID: strconv.Itoa(i)})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	return leases
}
