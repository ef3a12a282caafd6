package ipam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// sample is the bytes of a file of several pages with a bit of everything in it,
// and what it was before its last transaction and is now.
func sample(tb testing.TB) (image []byte, before, after map[string]string) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "leases.db")
	a, err := Open(path, Config{Pools: []netip.Prefix{cluster, cluster6}})
	require.NoError(tb, err)
	fill(tb, a, cluster, 300)
	for _, o := range []Owner{node("a"), node("b"), service("web")} {
		s, err := a.Assign(SubnetRequest{Pool: cluster6, Owner: o})
		require.NoError(tb, err)
		l, err := a.Allocate(s.Prefix, Owner{Kind: "container", ID: "c", Boot: "b", NetNS: 1, Labels: map[string]string{"k": "v"}})
		require.NoError(tb, err)
		if o.ID == "b" {
			require.NoError(tb, a.Release(l))
		}
	}
	require.NoError(tb, a.Reserve(prefix("10.200.99.0/24"), node("a")))
	before = contents(a)
	_, err = a.Allocate(cluster6, container("last"))
	require.NoError(tb, err)
	after = contents(a)
	require.NoError(tb, a.Close())
	image, err = os.ReadFile(path)
	require.NoError(tb, err)
	return image, before, after
}

// damage changes an image as the fuzzer says: bytes at places, three for the place
// and one for the value, then perhaps its length. The metas get right sums again
// when mend is set, so that what they lead to is reached.
func damage(image []byte, patches []byte, length uint32, mend bool) []byte {
	image = bytes.Clone(image)
	for ; len(patches) >= 4; patches = patches[4:] {
		at := int(binary.LittleEndian.Uint32(patches) & 0xffffff)
		image[at%len(image)] ^= patches[3]
	}
	if mend {
		for id := range 2 {
			m := image[id*boltfile.PageSize+16:] // behind the page header
			binary.NativeEndian.PutUint64(m[56:], fnv1a(fnvOffset, m[:56]))
		}
	}
	if length != 0 {
		image = image[:int(length)%(len(image)+1)]
	}
	return image
}

// FuzzOpen opens damaged files. Each is as it was, or is refused and set aside as
// it is; and one that is taken can be worked with.
func FuzzOpen(f *testing.F) {
	image, before, after := sample(f)
	path := filepath.Join(f.TempDir(), "leases.db")
	seed := func(at int, b byte) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(at))[:3], b)
	}
	f.Add([]byte{}, uint32(0), false)
	f.Add([]byte{}, uint32(boltfile.PageSize*5), false)
	for page := range len(image) / boltfile.PageSize {
		for _, at := range []int{0, 8, 10, 12, 16, 24, 32, 40, 48, 56, 64, 72} {
			f.Add(seed(page*boltfile.PageSize+at, byte(1+page%3*127)), uint32(0), true)
		}
	}
	f.Fuzz(func(t *testing.T, patches []byte, length uint32, mend bool) {
		bad := damage(image, patches, length, mend)
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		a, err := Open(path, Config{})
		if err != nil {
			var aside *DamagedError
			var newer *SchemaError
			switch {
			case errors.As(err, &aside):
				kept, err := os.ReadFile(aside.Aside)
				require.NoError(t, err)
				require.Equal(t, bad, kept)
				require.NoError(t, os.Remove(aside.Aside))
			case errors.As(err, &newer):
			default:
				require.NoError(t, err)
			}
			return
		}
		a.file.DB.NoSync, a.file.DB.NoGrowSync = true, true
		requireSound(t, a)
		// When the latest meta page is not whole, the one before it counts: that
		// is what a crash leaves.
		got := contents(a)
		if difference(after, got) != "" {
			requireSame(t, before, got)
		}
		for i := range 3 {
			l, err := a.Allocate(cluster, container(fmt.Sprint("new ", i)))
			require.NoError(t, err)
			if i == 1 {
				require.NoError(t, a.Release(l))
			}
		}
		want := contents(a)
		require.NoError(t, a.Close())
		a, err = Open(path, Config{})
		require.NoError(t, err)
		requireSame(t, want, contents(a))
		require.NoError(t, a.Close())
	})
}

// FuzzRecord reads any pair of a bucket. What is read is written as it was, but for
// the order of labels and the length of numbers.
func FuzzRecord(f *testing.F) {
	r := &record{addr: addr("10.0.0.1"), since: 1, state: state{released: 2}, owner: Owner{Kind: "k", ID: "i", Boot: "b", NetNS: 3, Labels: map[string]string{"a": "b", "c": "d"}}}
	f.Add(addrKey(r.addr), appendRecord(nil, r.version()))
	for _, c := range []*claim{
		{prefix: cluster, class: classRoot, since: 1},
		{prefix: cluster6, class: classSubnet, since: 1, owner: service("a"), node: "n"},
		{prefix: cluster6, class: classReserved, since: 1, owner: node("a")},
	} {
		f.Add(prefixKey(c.prefix), appendClaim(nil, c))
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if r, err := parseRecord(key, value); err == nil {
			require.Equal(t, key, addrKey(r.addr))
			again, err := parseRecord(key, appendRecord(nil, r.version()))
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
		if c, err := parseClaim(key, value); err == nil {
			require.Equal(t, key, prefixKey(c.prefix))
			again, err := parseClaim(key, appendClaim(nil, c))
			require.NoError(t, err)
			require.Equal(t, c, again)
		}
	})
}
