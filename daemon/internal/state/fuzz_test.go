package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// FuzzEntry reads any pair of any table. One that is taken is written again as one
// that is taken for the same.
func FuzzEntry(f *testing.F) {
	tx := &Tx{}
	putAll(tx, sample(f))
	require.NoError(f, tx.err)
	for _, c := range tx.changes {
		f.Add(c.Bucket, c.Key, c.Value)
		f.Add(c.Bucket, c.Key, bytes.Replace(c.Value, []byte(`":`), []byte(`":null,"x":`), 1))
	}
	f.Add("nothing", []byte("a"), []byte("{}"))
	f.Fuzz(func(t *testing.T, name string, key, value []byte) {
		var st State
		if st.add(name, key, value) != nil {
			return
		}
		tx := &Tx{}
		if name == nodes.name {
			tx.SetNode(st.Node)
		} else {
			st.Node = Node{}
			putAll(tx, st)
			tx.changes = tx.changes[1:] // that of the node
		}
		require.NoError(t, tx.err)
		require.Len(t, tx.changes, 1)
		c := tx.changes[0]
		require.Equal(t, string(key), string(c.Key))
		var again State
		require.NoError(t, again.add(name, c.Key, c.Value))
		tx = &Tx{}
		putAll(tx, again)
		for _, d := range tx.changes {
			if d.Bucket == name {
				require.Equal(t, string(c.Value), string(d.Value))
			}
		}
	})
}

// FuzzOpen opens damaged files. Each is as it was, or is refused and set aside as
// it is; and one that is taken can be worked with.
func FuzzOpen(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "data")
	path := filepath.Join(dir, fileState)
	s := open(f, dir)
	before := sample(f)
	update(f, s, func(tx *Tx) { putAll(tx, before) })
	after := before
	after.Records = append(after.Records[:len(after.Records):len(after.Records)], Record{"z", addr("::1")})
	update(f, s, func(tx *Tx) { tx.PutRecord(after.Records[len(after.Records)-1]) })
	require.NoError(f, s.Close())
	image, err := os.ReadFile(path)
	require.NoError(f, err)

	seed := func(at int, b byte) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(at))[:3], b)
	}
	f.Add([]byte{}, uint32(0), false)
	f.Add([]byte{}, uint32(boltfile.PageSize*5), false)
	for page := range len(image) / boltfile.PageSize {
		for _, at := range []int{0, 8, 12, 16, 24, 32, 48, 56, 72} {
			f.Add(seed(page*boltfile.PageSize+at, byte(1+page%3*127)), uint32(0), true)
		}
	}
	f.Fuzz(func(t *testing.T, patches []byte, length uint32, mend bool) {
		bad := bytes.Clone(image)
		for ; len(patches) >= 4; patches = patches[4:] {
			at := int(binary.LittleEndian.Uint32(patches) & 0xffffff)
			bad[at%len(bad)] ^= patches[3]
		}
		for id := 0; mend && id < 2; id++ {
			m := bad[id*boltfile.PageSize+16:] // behind the page header
			h := fnv.New64a()
			h.Write(m[:56])
			binary.NativeEndian.PutUint64(m[56:], h.Sum64())
		}
		if length != 0 {
			bad = bad[:int(length)%(len(bad)+1)]
		}
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		s, err := Open(dir)
		if err != nil {
			var aside *DamagedError
			var newer *SchemaError
			if errors.As(err, &newer) {
				return
			}
			require.ErrorAs(t, err, &aside)
			kept, err := os.ReadFile(aside.Aside)
			require.NoError(t, err)
			require.Equal(t, bad, kept)
			require.NoError(t, os.Remove(aside.Aside))
			return
		}
		defer s.Close()
		s.file.DB.NoSync, s.file.DB.NoGrowSync = true, true
		// When the latest meta page is not whole, the one before it counts: that is
		// what a crash leaves.
		got := load(t, s)
		if len(got.Records) == len(before.Records) {
			require.Equal(t, before, got)
		} else {
			require.Equal(t, after, got)
		}
		update(t, s, func(tx *Tx) { tx.DeleteService("web"); tx.SetNode(Node{ID: 9}) })
		want := load(t, s)
		require.EqualValues(t, 9, want.Node.ID)
		require.NoError(t, s.Close())
		require.Equal(t, want, load(t, open(t, dir)))
	})
}
