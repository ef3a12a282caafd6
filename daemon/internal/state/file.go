package state

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

	"github.com/overlayd/overlayd/internal/boltfile"
)

// schema is the version of the file's content that this package writes, and the
// latest it reads.
const schema = 1

// A sum is how many pairs the tables have, and the sum of their hashes. It is
// written with each change, and tells whether what is read is all of what was
// written, and no older version of a part of it.
type sum struct{ count, hash uint64 }

func (s *sum) add(table string, key, value []byte) {
	s.count++
	s.hash += hashPair(table, key, value)
}

func (s *sum) remove(table string, key, value []byte) {
	s.count--
	s.hash -= hashPair(table, key, value)
}

func hashPair(table string, key, value []byte) uint64 {
	h := fnv.New64a()
	h.Write([]byte(table))
	h.Write(key)
	h.Write(value)
	return h.Sum64()
}

func (s sum) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.count), s.hash)
}

// open opens the state file of a folder that is locked, and makes it if need be.
func (s *Store) open() error {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(s.path); err != nil {
			return wrapErrno(err)
		}
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file: move it away", fileState)
	default:
		if why := exposed(info); why != "" { // services and guests have their keys in it
			return fmt.Errorf("%s: %s", fileState, why)
		}
	}
	l := loader{path: s.path}
	if err := l.read(); err != nil {
		return setAside(s.path, err)
	}
	s.sum = l.sum
	s.node = l.node
	s.db, err = openBolt(s.path)
	return err
}

// A loader takes in the pairs of a state file.
type loader struct {
	path    string
	state   State
	node    []byte // as the file has it
	schema  uint32
	written []byte // the sum the file says it has
	sum     sum    // the sum it has
}

// read reads and checks the file. What is wrong with its content is a
// boltfile.Damage.
func (l *loader) read() error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := boltfile.Scan(f, info.Size(), l.pair); err != nil {
		return err
	}
	if !bytes.Equal(l.written, l.sum.bytes()) {
		return boltfile.Damaged("its %d entries are not those that were written", l.sum.count)
	}
	return nil
}

// pair takes in one pair. The schema comes before all that may differ with it.
func (l *loader) pair(table string, key, value []byte) error {
	switch {
	case table == tableAbout && bytes.Equal(key, keySchema) && len(value) == 4:
		l.schema = binary.BigEndian.Uint32(value)
		if l.schema > schema {
			return &SchemaError{Path: l.path, Have: l.schema, Known: schema}
		}
		return nil
	case l.schema == 0:
		return boltfile.Damaged("it does not begin with its schema")
	case table == tableAbout:
		if bytes.Equal(key, keySum) {
			l.written = bytes.Clone(value)
		}
		return nil
	}
	if err := l.state.add(table, key, value); err != nil {
		return boltfile.Damaged("%v", err)
	}
	if table == nodes.name {
		l.node = bytes.Clone(value)
	}
	l.sum.add(table, key, value)
	return nil
}

func openBolt(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize:     boltfile.PageSize,
		FreelistType: bolt.FreelistMapType,
		// The free pages are found again at the next start, when the file is read
		// through anyway.
		NoFreelistSync: true,
		// Ours is the lock that counts; this one only keeps off tools.
		Timeout: 100 * time.Millisecond,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, &HeldError{Path: filepath.Dir(path)}
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
		for _, name := range tables {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		about := tx.Bucket([]byte(tableAbout))
		if err := about.Put(keySchema, binary.BigEndian.AppendUint32(nil, schema)); err != nil {
			return err
		}
		return about.Put(keySum, sum{}.bytes())
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
	if _, ok := errors.AsType[boltfile.Damage](err); !ok {
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
		return fmt.Errorf("%s is damaged (%w) and cannot be set aside: %w", fileState, err, e)
	}
	if e := boltfile.SyncDir(filepath.Dir(path)); e != nil {
		return fmt.Errorf("%s is damaged (%w) and was set aside as %s, but: %w", fileState, err, aside, e)
	}
	return &DamagedError{Path: path, Aside: aside, Err: err}
}
