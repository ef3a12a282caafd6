package ipam

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overlayd/overlayd/internal/boltfile"
	"github.com/overlayd/overlayd/internal/testchild"
)

type writeAt func(b []byte, off int64) (int, error)

// hook puts a function before every write of a database to its file, through the
// field bbolt keeps for its own tests. It returns the function that was there.
func hook(db *bolt.DB, with func(write writeAt, b []byte, off int64) (int, error)) {
	field := reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	at := (*func(b []byte, off int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	write := writeAt(*at)
	*at = func(b []byte, off int64) (int, error) { return with(write, b, off) }
}

// isMeta reports whether a write is that of a meta page, before which bbolt has
// synced everything else, and after which it syncs again.
func isMeta(off int64) bool { return off < 2*boltfile.PageSize }

// A write is one that bbolt made, and how long the file was then.
type write struct {
	data []byte
	off  int64
	size int64
}

// A disk remembers what was written to a file in one transaction.
type disk struct {
	path   string
	image  []byte // what is on it for certain: the file before the transaction
	writes []write
}

func newDisk(t testing.TB, a *Authority) *disk {
	t.Helper()
	d := &disk{path: a.file.path}
	a.file.DB.NoSync, a.file.DB.NoGrowSync = true, true // crashes are made here, not waited for
	hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
		info, err := os.Stat(d.path)
		if err != nil {
			return 0, err
		}
		d.writes = append(d.writes, write{append([]byte(nil), b...), off, info.Size()})
		return next(b, off)
	})
	d.settle(t)
	return d
}

// settle makes the file as it is what is on the disk for certain.
func (d *disk) settle(t testing.TB) {
	t.Helper()
	b, err := os.ReadFile(d.path)
	require.NoError(t, err)
	d.image, d.writes = b, nil
}

// apply puts the part of a write from byte lo to byte hi into an image.
func (w write) apply(image []byte, lo, hi int) []byte {
	if grow := int(w.size) - len(image); grow > 0 {
		image = append(image, make([]byte, grow)...)
	}
	copy(image[w.off+int64(lo):], w.data[lo:hi])
	return image
}

// put writes an image to the file of a folder and returns its path. It does not
// truncate the file first, which would make ext4 write it to the disk.
func put(t testing.TB, dir string, image []byte) string {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "leases.db"), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	_, err = f.WriteAt(image, 0)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(int64(len(image))))
	require.NoError(t, f.Close())
	return f.Name()
}

var helpers = testchild.Helpers{
	"hold": func(args []string) error {
		a, err := Open(args[0], Config{})
		if err != nil {
			return err
		}
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
		if err != nil {
			return err
		}
		return a.Close()
	},
}
