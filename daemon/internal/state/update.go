package state

import (
	"fmt"

	"github.com/overlayd/overlayd/internal/boltfile"
)

// A group is the changes of updates that go to the disk together: all that came
// while the group before was being written.
type group struct {
	changes []boltfile.Change
	before  []byte // the node as it was
	done    chan struct{}
	failed  bool // with the group before it
	err     error
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

	doubt, err := s.file.Commit(g.changes)

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
