package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// schema is the version of the file's content that this package writes, and the
// latest it reads.
const schema = 1

// The buckets of a file. The first holds the schema and the sum of the others.
var (
	bucketAuthority = []byte("authority")
	bucketClaims    = []byte("claims")
	bucketLeases    = []byte("leases")

	keySchema = []byte("schema")
	keySum    = []byte("sum")
)

// A SchemaError says that a file was written by a later version of this package.
// The file was not touched.
type SchemaError struct {
	Path        string
	Have, Known uint32
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("ipam: %s has schema %d and this program knows only up to %d; use a newer version", e.Path, e.Have, e.Known)
}

// A DamagedError says that a file is not whole, and where it was put. The next
// Open of the path makes a new one.
type DamagedError struct {
	Path  string
	Aside string // where it is now
	Err   error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("ipam: %s is damaged (%v); it was set aside as %s", e.Path, e.Err, e.Aside)
}

// Unwrap is Err.
func (e *DamagedError) Unwrap() error { return e.Err }

// A file is the disk's half of an authority: memory has everything, the file has
// it too, and no transaction counts before it is there.
type file struct {
	path  string
	db    *bolt.DB
	lock  *os.File
	sum   sum
	doubt bool // a failed commit may be on the disk nevertheless
}

// A sum is how many pairs the claims and leases are, and the sum of their hashes.
// It is written with each change and tells whether what is read is all of what was
// written, and no older version of a part of it.
type sum struct{ count, hash uint64 }

func (s *sum) add(bucket, key, value []byte) {
	s.count++
	s.hash += hashPair(bucket, key, value)
}

func (s *sum) remove(bucket, key, value []byte) {
	s.count--
	s.hash -= hashPair(bucket, key, value)
}

func hashPair(bucket, key, value []byte) uint64 {
	return fnv1a(fnv1a(fnv1a(fnvOffset, bucket), key), value)
}

func (s sum) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.count), s.hash)
}

// Open opens the authority in a file, or makes the file, of mode 0600, and the
// folder it is in, of mode 0700. A file in use by another process, or by this one,
// is a [*HeldError]; one of a later version is a [*SchemaError] and left as it
// is; a damaged one is moved aside and is a [*DamagedError].
//
// Beside the file there is path.lock, which says who has it open and stays.
func Open(path string, c Config) (*Authority, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := newAuthority(c)
	if a.file, err = openFile(path, a); err != nil {
		return nil, err
	}
	if err := a.Update(a.addConfigured); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// openFile locks a file, or makes it, and loads a from it.
func openFile(path string, a *Authority) (_ *file, err error) {
	defer func() {
		if err != nil {
			err = openError(path, err)
		}
	}()
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := boltfile.MakeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := hold(path)
	if err != nil {
		return nil, err
	}
	f := &file{path: path, lock: lock}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is not a file", ErrInvalid)
	}
	if f.sum, err = load(path, a); err != nil {
		return nil, setAside(path, err)
	}
	f.db, err = openBolt(path)
	return f, err
}

// openError is err in the words of this package, if it is not yet.
func openError(path string, err error) error {
	var held *HeldError
	var newer *SchemaError
	var damaged *DamagedError
	if errors.As(err, &held) || errors.As(err, &newer) || errors.As(err, &damaged) {
		return err
	}
	return fmt.Errorf("ipam: open %s: %w", path, err)
}

func openBolt(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize:     boltfile.PageSize,
		FreelistType: bolt.FreelistMapType,
		// The free pages are found again at the next start, when the file is
		// read through anyway, and cost nothing until then.
		NoFreelistSync: true,
		// Ours is the lock that counts; this one only keeps off tools.
		Timeout: 100 * time.Millisecond,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, &HeldError{Path: path}
	}
	return db, err
}

// create makes an empty file. It gets its name when it is complete, so a crash
// does not leave half of one under it.
func create(path string) (err error) {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(unfinished)
		}
	}()
	db, err := openBolt(unfinished)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(bucketAuthority)
		if err != nil {
			return err
		}
		for _, name := range [][]byte{bucketClaims, bucketLeases} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := b.Put(keySchema, binary.BigEndian.AppendUint32(nil, schema)); err != nil {
			return err
		}
		return b.Put(keySum, sum{}.bytes())
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return boltfile.SyncDir(filepath.Dir(path))
}

// setAside moves a damaged file out of the way. Other errors it returns as they
// are.
func setAside(path string, err error) error {
	var what boltfile.Damage
	if !errors.As(err, &what) {
		return err
	}
	base := path + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for n := 2; ; n++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, n)
	}
	if e := os.Rename(path, aside); e != nil {
		return fmt.Errorf("it is damaged (%w) and cannot be set aside: %w", err, e)
	}
	if e := boltfile.SyncDir(filepath.Dir(path)); e != nil {
		return fmt.Errorf("it is damaged (%w) and was set aside as %s, but: %w", err, aside, e)
	}
	return &DamagedError{Path: path, Aside: aside, Err: err}
}

// commit writes changes as one transaction and returns when they are on the disk.
func (f *file) commit(changes []change) (err error) {
	defer func() {
		// bbolt panics at what it takes to be impossible. Those who wait must not take
		// that for success.
		if p := recover(); p != nil {
			f.doubt, err = true, fmt.Errorf("the file is not as it was left: %v", p)
		}
	}()
	tx, err := f.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	next := f.sum
	leases, claims := tx.Bucket(bucketLeases), tx.Bucket(bucketClaims)
	leases.FillPercent = 0.9 // addresses mostly come in order
	for _, c := range changes {
		b, name := leases, bucketLeases
		if _, ok := c.prefix(); ok {
			b, name = claims, bucketClaims
		}
		key, old, new := c.pair()
		if old != nil {
			next.remove(name, key, old)
		}
		if new != nil {
			next.add(name, key, new)
			err = b.Put(key, new)
		} else {
			err = b.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketAuthority).Put(keySum, next.bytes()); err != nil {
		return err
	}
	id := tx.ID()
	if err := tx.Commit(); err != nil {
		f.doubt = f.lastCommit() == id
		return err
	}
	f.sum = next
	return nil
}

// lastCommit is the transaction the file's metas tell of. That of a commit that
// failed may be among them, when it was the last step that did, and then the disk
// may have it or not.
func (f *file) lastCommit() (id int) {
	err := f.db.View(func(tx *bolt.Tx) error {
		id = tx.ID()
		return nil
	})
	if err != nil {
		return -1
	}
	return id
}

// pair is a change as the file has it: a key, and its value before and after.
func (c change) pair() (key, old, new []byte) {
	if p, ok := c.prefix(); ok {
		if c.oldClaim != nil {
			old = appendClaim(nil, c.oldClaim)
		}
		if c.newClaim != nil {
			new = appendClaim(nil, c.newClaim)
		}
		return prefixKey(p), old, new
	}
	if c.old.record != nil {
		old = appendRecord(nil, c.old)
	}
	if c.new.record != nil {
		new = appendRecord(nil, c.new)
	}
	return addrKey(c.addr()), old, new
}

func (f *file) close() error {
	err := f.db.Close()
	if err := errors.Join(err, f.lock.Close()); err != nil {
		return fmt.Errorf("ipam: close %s: %w", f.path, err)
	}
	return nil
}
