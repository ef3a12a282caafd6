package server

import "sync"

// A quota is how many of something there may be at once. Users other than root and
// the daemon's own have at most three quarters of it together and a quarter each,
// so that none of them keeps the others out, and all of them not root.
type quota struct {
	max int

	mu      sync.Mutex
	taken   int
	others  int            // of those, by users that are not privileged
	byUser  map[uint32]int // of those, by the user
	closed  bool
	drained chan struct{} // closed when closed and none is taken
}

// take takes one, and reports whether it could.
func (q *quota) take(p peer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.taken >= q.max {
		return false
	}
	if !p.privileged {
		if q.others >= max(q.max*3/4, 1) || q.byUser[p.uid] >= max(q.max/4, 1) {
			return false
		}
		if q.byUser == nil {
			q.byUser = make(map[uint32]int)
		}
		q.others++
		q.byUser[p.uid]++
	}
	q.taken++
	return true
}

// give gives one back.
func (q *quota) give(p peer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken--
	if !p.privileged {
		q.others--
		if q.byUser[p.uid]--; q.byUser[p.uid] == 0 {
			delete(q.byUser, p.uid)
		}
	}
	if q.closed && q.taken == 0 {
		close(q.drained)
	}
}

// drain lets none be taken any more, and returns a channel that is closed when all
// were given back.
func (q *quota) drain() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed, q.drained = true, make(chan struct{})
		if q.taken == 0 {
			close(q.drained)
		}
	}
	return q.drained
}

// count is how many are taken.
func (q *quota) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken
}
