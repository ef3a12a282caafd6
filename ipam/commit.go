package ipam

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
)

// A group is the changes of transactions that go to the file together: all that
// came while the group before was being written. Until it is on the disk its
// transactions wait, and readers see what was before.
type group struct {
	changes []change
	records map[netip.Addr]version // as they were
	claims  map[netip.Prefix]*claim
	done    chan struct{}
	failed  bool // undone, with the group before it
	err     error
}

// enqueue adds changes to the group that is forming. lead tells the caller to
// write it. A transaction without changes may rest on others that are not on the
// disk yet, and waits for the latest of them. It is called with mu held.
func (a *Authority) enqueue(changes []change) (g *group, lead bool) {
	if len(changes) == 0 {
		if a.forming != nil {
			return a.forming, false
		}
		return a.writing, false
	}
	g = a.forming
	if g == nil {
		lead = true
		g = &group{
			records: make(map[netip.Addr]version),
			claims:  make(map[netip.Prefix]*claim),
			done:    make(chan struct{}),
		}
		a.forming = g
	}
	for _, c := range changes {
		if p, ok := c.prefix(); ok {
			if _, known := g.claims[p]; !known {
				g.claims[p] = c.oldClaim
			}
		} else if _, known := g.records[c.addr()]; !known {
			g.records[c.addr()] = c.old
		}
	}
	g.changes = append(g.changes, changes...)
	return g, lead
}

// write puts a group into the file once the group before is there. When that
// fails it takes the group's changes back, and those of the group that formed
// meanwhile, which may rest on them.
func (a *Authority) write(g *group) {
	a.writer <- struct{}{}
	defer func() {
		close(g.done)
		<-a.writer
	}()

	a.mu.Lock()
	if g.failed {
		a.mu.Unlock()
		return
	}
	a.forming, a.writing = nil, g
	a.mu.Unlock()

	doubt, err := a.file.commit(g.changes)

	a.mu.Lock()
	defer a.mu.Unlock()
	a.writing = nil
	if err == nil {
		return
	}
	g.err = fmt.Errorf("ipam: write %s: %w; nothing was changed", a.file.path, err)
	if doubt {
		g.err = fmt.Errorf("ipam: write %s: %w; whether it is there shows when it is opened again", a.file.path, err)
		a.broken = g.err
	}
	if f := a.forming; f != nil {
		a.undo(f.changes)
		f.failed, f.err = true, g.err
		a.forming = nil
	}
	a.undo(g.changes)
}

// Close ends the authority, when what is under way is done. Every later call
// returns an error that is [net.ErrClosed]. It is idempotent.
func (a *Authority) Close() error {
	a.mu.Lock()
	first := !a.closed
	a.closed = true
	for a.forming != nil || a.writing != nil {
		g := a.forming
		if g == nil {
			g = a.writing
		}
		a.mu.Unlock()
		<-g.done
		a.mu.Lock()
	}
	a.mu.Unlock()
	if first && a.file != nil {
		return a.file.close()
	}
	return nil
}

func errClosed() error { return fmt.Errorf("ipam: the authority is closed: %w", net.ErrClosed) }

// before is what stands on the disk where memory is ahead of it: the changes of
// the group that is being written, then of the one that is forming.
func (a *Authority) before() (writing, forming *group) {
	writing, forming = a.writing, a.forming
	if writing == nil {
		writing = &group{}
	}
	if forming == nil {
		forming = &group{}
	}
	return writing, forming
}

// overlaid is every entry of both maps; where both have a key, that of the first.
func overlaid[K comparable, V any](first, second map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range first {
			if !yield(k, v) {
				return
			}
		}
		for k, v := range second {
			if _, ok := first[k]; ok {
				continue
			}
			if !yield(k, v) {
				return
			}
		}
	}
}

// record is what readers see of an address. It is called with mu held.
func (a *Authority) record(addr netip.Addr) version {
	writing, forming := a.before()
	if r, ok := writing.records[addr]; ok {
		return r
	}
	if r, ok := forming.records[addr]; ok {
		return r
	}
	return a.records.get(addr).version()
}

// claim is what readers see of a prefix. It is called with mu held.
func (a *Authority) claim(p netip.Prefix) *claim {
	writing, forming := a.before()
	if c, ok := writing.claims[p]; ok {
		return c
	}
	if c, ok := forming.claims[p]; ok {
		return c
	}
	c, _ := a.claims.Get(p)
	return c
}
