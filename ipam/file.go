package ipam

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// The buckets of a file.
const (
	bucketClaims = "claims"
	bucketLeases = "leases"
)

var format = boltfile.Format{
	About:       "authority",
	Buckets:     []string{bucketClaims, bucketLeases},
	Schema:      1,
	FillPercent: 0.9, // addresses mostly come in order
}

// A HeldError says that a file is open already, and by whom.
type HeldError struct {
	Path    string
	PID     int // 0: not known
	Program string
	Since   time.Time
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("ipam: %s is in use by another process", e.Path)
	}
	return fmt.Sprintf("ipam: %s is in use by %s, process %d, since %s; stop it or use another file",
		e.Path, e.Program, e.PID, e.Since.Format(time.RFC3339))
}

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
	*boltfile.File
	path string
	lock *os.File
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
	lock, err := boltfile.Hold(path + ".lock")
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%w: it is not a file", ErrInvalid), lock.Close())
	}
	l := loader{a: a}
	f, err := boltfile.Open(path, format, l.pair)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.restAll()
	return &file{File: f, path: path, lock: lock}, nil
}

// openError is err in the words of this package.
func openError(path string, err error) error {
	if held, ok := errors.AsType[*boltfile.HeldError](err); ok {
		return &HeldError{Path: path, PID: held.PID, Program: held.Program, Since: held.Since}
	}
	if newer, ok := errors.AsType[*boltfile.SchemaError](err); ok {
		return (*SchemaError)(newer)
	}
	if damaged, ok := errors.AsType[*boltfile.DamagedError](err); ok {
		return (*DamagedError)(damaged)
	}
	return fmt.Errorf("ipam: open %s: %w", path, err)
}

// commit writes changes as one transaction and returns when they are on the disk.
// doubt tells, of an error, that they may be there nevertheless.
func (f *file) commit(changes []change) (doubt bool, err error) {
	pairs := make([]boltfile.Change, len(changes))
	for i, c := range changes {
		pairs[i] = c.pair()
	}
	return f.Commit(pairs)
}

// pair is a change as the file has it.
func (c change) pair() boltfile.Change {
	if p, ok := c.prefix(); ok {
		pair := boltfile.Change{Bucket: bucketClaims, Key: prefixKey(p)}
		if c.newClaim != nil {
			pair.Value = appendClaim(nil, c.newClaim)
		}
		return pair
	}
	pair := boltfile.Change{Bucket: bucketLeases, Key: addrKey(c.addr())}
	if c.new.record != nil {
		pair.Value = appendRecord(nil, c.new)
	}
	return pair
}

func (f *file) close() error {
	if err := errors.Join(f.File.Close(), f.lock.Close()); err != nil {
		return fmt.Errorf("ipam: close %s: %w", f.path, err)
	}
	return nil
}
