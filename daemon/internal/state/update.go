package state

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// A group is the changes of updates that go to the disk together: all that came
// while the group before was being written.
type group struct {
	changes []change
	before  []byte // the node as it was
	done    chan struct{}
	failed  bool // with the group before it
	err     error
}

// A change is one pair of the file, put or, if its value is nil, deleted.
type change struct {
	table      string
	key, value []byte
}

// Update changes what is stored: all that fn does, or, when fn or the disk fails,
// nothing. It is on the disk when Update returns; updates that come while another
// is written go to the disk together. fn must not call the Store, nor wait for
// anything: it holds up all other updates.
//
// When the disk fails so that nobody knows whether the update is on it, Update and
// all later ones say so: it shows when the folder is opened again.
func (s *Store) Update(fn func(tx *Tx) error) error {
	g, lead, err := s.enqueue(fn)
	if g == nil || err != nil {
		return err
	}
	if lead {
		s.write(g)
	}
	<-g.done
	return g.err
}

// enqueue runs fn and adds what it changes to the group that is forming. lead
// tells the caller to write it. A function that changed nothing may have seen what
// is not on the disk yet, and has the latest of that to wait for.
func (s *Store) enqueue(fn func(tx *Tx) error) (g *group, lead bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, false, s.errClosed()
	case s.broken != nil:
		return nil, false, s.broken
	}
	tx := &Tx{node: s.node}
	err = fn(tx)
	if tx.err != nil {
		return nil, false, tx.err
	}
	if err != nil {
		return nil, false, err
	}
	if len(tx.changes) == 0 {
		if s.forming != nil {
			return s.forming, false, nil
		}
		return s.writing, false, nil
	}
	g = s.forming
	if g == nil {
		lead = true
		g = &group{before: s.node, done: make(chan struct{})}
		s.forming = g
	}
	g.changes = append(g.changes, tx.changes...)
	s.node = tx.node
	return g, lead, nil
}

// write puts a group into the file once the group before is there. When that
// fails so does the group that formed meanwhile, which may rest on it.
func (s *Store) write(g *group) {
	s.writer.Lock()
	defer s.writer.Unlock()
	defer close(g.done)

	s.mu.Lock()
	if g.failed {
		s.mu.Unlock()
		return
	}
	s.forming, s.writing = nil, g
	s.mu.Unlock()

	doubt, err := s.commit(g.changes)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = nil
	if err == nil {
		return
	}
	g.err = folderError(s.dir, fmt.Errorf("writing %s: %w; nothing was changed", fileState, err))
	if doubt {
		g.err = folderError(s.dir, fmt.Errorf("writing %s: %w; whether it is there shows at the next start", fileState, err))
		s.broken = g.err
	}
	s.node = g.before
	if f := s.forming; f != nil {
		f.failed, f.err = true, g.err
		s.forming = nil
	}
}

// commit writes changes as one transaction and returns when they are on the disk.
// doubt tells, of an error, that they may be there nevertheless.
func (s *Store) commit(changes []change) (doubt bool, err error) {
	defer func() {
		// bbolt panics at what it takes to be impossible. Those who wait must not take
		// that for success.
		if p := recover(); p != nil {
			doubt, err = true, fmt.Errorf("the file is not as it was left: %v", p)
		}
	}()
	tx, err := s.db.Begin(true)
	if err != nil {
		return false, wrapErrno(err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	next := s.sum
	for _, c := range changes {
		b := tx.Bucket([]byte(c.table))
		if old := b.Get(c.key); old != nil {
			next.remove(c.table, c.key, old)
		}
		if c.value == nil {
			err = b.Delete(c.key)
		} else {
			next.add(c.table, c.key, c.value)
			err = b.Put(c.key, c.value)
		}
		if err != nil {
			return false, err
		}
	}
	if err := tx.Bucket([]byte(tableAbout)).Put(keySum, next.bytes()); err != nil {
		return false, err
	}
	id := tx.ID()
	if err := tx.Commit(); err != nil {
		return s.lastCommit() == id, wrapErrno(err)
	}
	s.sum = next
	return false, nil
}

// lastCommit is the transaction that the file's metas tell of. That of a commit
// that failed may be among them, if it was its last step that did.
func (s *Store) lastCommit() (id int) {
	err := s.db.View(func(tx *bolt.Tx) error {
		id = tx.ID()
		return nil
	})
	if err != nil {
		return -1
	}
	return id
}
