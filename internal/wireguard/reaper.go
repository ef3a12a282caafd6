package wireguard

import "sync"

// A reaper wipes sessions that ended. It waits for the lanes that hold them,
// which those who end sessions must not do under a peer's lock.
type reaper struct {
	mu      sync.Mutex
	pending []*session
	wake    chan struct{}
	stop    chan struct{}
}

func (r *reaper) init() {
	r.wake = make(chan struct{}, 1)
	r.stop = make(chan struct{})
}

// add takes a session that nobody can find any more.
func (r *reaper) add(s *session) {
	r.mu.Lock()
	r.pending = append(r.pending, s)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reaper) run() {
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
			r.wipe()
		}
	}
}

func (r *reaper) wipe() {
	r.mu.Lock()
	ended := r.pending
	r.pending = nil
	r.mu.Unlock()
	for _, s := range ended {
		s.wipe()
	}
}

func (r *reaper) close() { close(r.stop) }

// retire ends a session, which may be nil: its index names nothing any more and
// its keys are about to be wiped.
func (e *Engine) retire(s *session) {
	if s == nil {
		return
	}
	e.sessions.release(s.local)
	e.reaper.add(s)
}
