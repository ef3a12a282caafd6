package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// A Format says what is in a file.
type Format struct {
	About       string   // the bucket of the schema and the sum, in this and every later version the first
	Buckets     []string // those of the pairs
	Schema      uint32   // what is written, and the latest that is read; from 1
	FillPercent float64  // how much of a page that is split stays in its first half; 0: as bbolt has it
}

// The keys of a file's About.
var (
	KeySchema = []byte("schema") // big endian, 4 bytes
	KeySum    = []byte("sum")
)

// A Change is one pair, put or, if its value is nil, deleted.
type Change struct {
	Bucket     string
	Key, Value []byte
}

// A sum is how many pairs a file has, and the sum of their hashes. It is written
// with each change and tells whether what is read is all of what was written, and
// no older version of a part of it.
type sum struct{ count, hash uint64 }

func (s *sum) add(bucket string, key, value []byte) {
	s.count++
	s.hash += hashPair(bucket, key, value)
}

func (s *sum) remove(bucket string, key, value []byte) {
	s.count--
	s.hash -= hashPair(bucket, key, value)
}

func hashPair(bucket string, key, value []byte) uint64 {
	h := fnv.New64a()
	h.Write([]byte(bucket))
	h.Write(key)
	h.Write(value)
	return h.Sum64()
}

func (s sum) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.count), s.hash)
}

// A File is pairs in buckets that are on the disk when a Commit returns. One
// goroutine at a time may commit, and any number read.
type File struct {
	DB     *bolt.DB // for tests, which have it fail
	format Format
	sum    sum // of what is in DB
}

// Open opens a file that nobody else has, or makes it, of mode 0600, and yields its
// pairs. Key and value are only good until yield returns; what yield returns is
// what is wrong with them.
//
// A file of a later version is a *SchemaError and left as it is; one that is not
// what was written is set aside and is a *DamagedError; one that bbolt itself finds
// in use, by a tool, is a *HeldError.
func Open(path string, format Format, yield func(bucket string, key, value []byte) error) (*File, error) {
	f := &File{format: format}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = wrapErrno(f.create(path))
	}
	if err != nil {
		return nil, err
	}
	if err := f.load(path, yield); err != nil {
		return nil, setAside(path, err)
	}
	if f.DB, err = openBolt(path); err != nil {
		return nil, err
	}
	return f, nil
}

func openBolt(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize:     PageSize,
		FreelistType: bolt.FreelistMapType,
		// The free pages are found again at the next start, when the file is
		// read through anyway, and cost nothing until then.
		NoFreelistSync: true,
		// Hold's is the lock that counts; this one only keeps off tools.
		Timeout: 100 * time.Millisecond,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, &HeldError{Path: path}
	}
	return db, err
}

// create makes an empty file. It gets its name when it is complete, so a crash
// does not leave half of one under it.
func (f *File) create(path string) (err error) {
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
		for _, name := range f.format.Buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		about, err := tx.CreateBucket([]byte(f.format.About))
		if err != nil {
			return err
		}
		if err := about.Put(KeySchema, binary.BigEndian.AppendUint32(nil, f.format.Schema)); err != nil {
			return err
		}
		return about.Put(KeySum, sum{}.bytes())
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// load reads and checks the file. What is wrong with its content is a damage.
func (f *File) load(path string, yield func(bucket string, key, value []byte) error) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	var schema uint32
	var written []byte // the sum the file says it has
	err = scan(in, info.Size(), func(bucket string, key, value []byte) error {
		switch about := bucket == f.format.About; {
		case about && bytes.Equal(key, KeySchema) && len(value) == 4:
			if schema = binary.BigEndian.Uint32(value); schema > f.format.Schema {
				return &SchemaError{Path: path, Have: schema, Known: f.format.Schema}
			}
		case schema == 0: // it comes before all that may differ with it
			return damaged("it has no schema, or not at its beginning")
		case about && bytes.Equal(key, KeySum):
			written = bytes.Clone(value)
		case !about:
			f.sum.add(bucket, key, value)
			if err := yield(bucket, key, value); err != nil {
				return damaged("%v", err)
			}
		}
		return nil
	})
	if err == nil && !bytes.Equal(written, f.sum.bytes()) {
		return damaged("its %d entries are not those that were written", f.sum.count)
	}
	return err
}

// Each yields the pairs as the last Commit left them. Key and value are only good
// until yield returns.
func (f *File) Each(yield func(bucket string, key, value []byte) error) error {
	return f.DB.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if string(name) == f.format.About {
				return nil
			}
			return b.ForEach(func(k, v []byte) error { return yield(string(name), k, v) })
		})
	})
}

// Commit writes changes as one transaction and returns when they are on the disk.
// doubt tells, of an error, that they may be there nevertheless: then nothing more
// should be committed.
func (f *File) Commit(changes []Change) (doubt bool, err error) {
	defer func() {
		// bbolt panics at what it takes to be impossible. Those who wait must not take
		// that for success.
		if p := recover(); p != nil {
			doubt, err = true, fmt.Errorf("the file is not as it was left: %v", p)
		}
	}()
	tx, err := f.DB.Begin(true)
	if err != nil {
		return false, wrapErrno(err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	next := f.sum
	for _, c := range changes {
		b := tx.Bucket([]byte(c.Bucket))
		if f.format.FillPercent > 0 {
			b.FillPercent = f.format.FillPercent
		}
		if old := b.Get(c.Key); old != nil {
			next.remove(c.Bucket, c.Key, old)
		}
		if c.Value == nil {
			err = b.Delete(c.Key)
		} else {
			next.add(c.Bucket, c.Key, c.Value)
			err = b.Put(c.Key, c.Value)
		}
		if err != nil {
			return false, err
		}
	}
	if err := tx.Bucket([]byte(f.format.About)).Put(KeySum, next.bytes()); err != nil {
		return false, err
	}
	id := tx.ID()
	if err := tx.Commit(); err != nil {
		return f.LastCommit() == id, wrapErrno(err)
	}
	f.sum = next
	return false, nil
}

// LastCommit is the transaction that the file's metas tell of, or -1 if they cannot
// be read. That of a commit that failed may be among them, when it was its last
// step that did, and then the disk may have it or not.
func (f *File) LastCommit() (id int) {
	err := f.DB.View(func(tx *bolt.Tx) error {
		id = tx.ID()
		return nil
	})
	if err != nil {
		return -1
	}
	return id
}

// Close closes the file; who holds it lets go of it thereafter.
func (f *File) Close() error { return f.DB.Close() }
