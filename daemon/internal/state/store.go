package state

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/overlayd/overlayd/internal/boltfile"
	"github.com/overlayd/overlayd/overlay"
)

// The files of a data folder that are this package's.
const (
	fileLock  = "overlayd.lock"
	fileState = "state.db"
	fileKey   = "node.key"
)

// A Store is a data folder. Its methods are safe for use by several goroutines.
type Store struct {
	dir  string
	lock *os.File
	file *boltfile.File

	writer sync.Mutex // held by who writes to the file

	mu      sync.Mutex // guards all that follows
	node    []byte     // as the latest update has it; nil: none
	forming *group     // updates that wait for their turn to be written
	writing *group     // updates that are being written
	broken  error      // why nothing is written any more
	closed  bool

	keyMu sync.Mutex         // held by who reads or makes the node's key
	key   overlay.PrivateKey // zero: not read yet
}

// Open opens a data folder, which it makes if need be, of mode 0700, for this
// process alone. One in use by another is a *HeldError, which says by whom.
//
// A folder that others than its owner can write to, or that is another user's, is
// refused, and so is a state file that others can read, which has keys in it. A
// state file of a later version is a *SchemaError and left as it is. A damaged one
// is set aside and is a *DamagedError: the next Open starts with nothing but the
// node's key. The folder is this process's until Close; a file in it,
// overlayd.lock, says whose it is.
func Open(dir string) (_ *Store, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, folderError(dir, err)
	}
	if err := boltfile.MakeDir(dir); err != nil {
		return nil, folderError(dir, err)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	s := &Store{dir: dir}
	if s.lock, err = boltfile.Hold(filepath.Join(dir, fileLock)); err != nil {
		return nil, folderError(dir, err)
	}
	if err := s.open(filepath.Join(dir, fileState)); err != nil {
		return nil, errors.Join(folderError(dir, err), s.lock.Close())
	}
	return s, nil
}

// open opens the state file, and makes it if need be.
func (s *Store) open(path string) error {
	if err := checkFile(path); err != nil {
		return err
	}
	var whole State // that it can be read is all there is to know yet
	var err error
	s.file, err = boltfile.Open(path, format, func(table string, key, value []byte) error {
		if table == nodes.name {
			s.node = bytes.Clone(value)
		}
		return whole.add(table, key, value)
	})
	return err
}

// Load is everything that is stored, with the updates that have returned.
func (s *Store) Load() (st State, err error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return State{}, s.errClosed()
	}
	if err := s.file.Each(st.add); err != nil {
		return State{}, folderError(s.dir, err)
	}
	return st, nil
}

// Close releases the folder, when the updates under way are done. Every later call
// returns an error that is net.ErrClosed. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	for s.forming != nil || s.writing != nil {
		g := s.forming
		if g == nil {
			g = s.writing
		}
		s.mu.Unlock()
		<-g.done
		s.mu.Lock()
	}
	s.mu.Unlock()
	if !first {
		return nil
	}
	if err := errors.Join(s.file.Close(), s.lock.Close()); err != nil {
		return folderError(s.dir, err)
	}
	return nil
}

func (s *Store) errClosed() error {
	return fmt.Errorf("data folder %s: it is closed: %w", s.dir, net.ErrClosed)
}
