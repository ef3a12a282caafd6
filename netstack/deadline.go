package netstack

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A deadline ends the waiting of one direction of a socket: when its time has
// come, or for good when the socket is closed.
type deadline struct {
	state atomic.Int32 // running, expired or closed; written under mu

	mu    sync.Mutex
	timer *time.Timer
	moves int           // counts the calls of set
	done  chan struct{} // closed when state is not running; made when somebody waits
}

const (
	running int32 = iota
	expired
	closed
)

// err is why nothing may be done any more, or nil.
func (d *deadline) err() error {
	switch d.state.Load() {
	case expired:
		return os.ErrDeadlineExceeded
	case closed:
		return net.ErrClosed
	}
	return nil
}

// wait is closed when err stops being nil.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
		if d.state.Load() != running {
			close(d.done)
		}
	}
	return d.done
}

// set moves the deadline; the zero time is none. It fails on a closed socket.
func (d *deadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves++
	if d.timer != nil {
		d.timer.Stop() // when it is too late for that, it finds that the deadline has moved
		d.timer = nil
	}
	switch d.state.Load() {
	case closed:
		return net.ErrClosed
	case expired:
		d.done = nil
		d.state.Store(running)
	}
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.end(expired)
		return nil
	}
	move := d.moves
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.moves == move && d.state.Load() == running {
			d.end(expired)
		}
	})
	return nil
}

// end wakes who waits; the caller holds mu, and state is running.
func (d *deadline) end(state int32) {
	d.state.Store(state)
	if d.done != nil {
		close(d.done)
	}
}

// close ends everything for good.
func (d *deadline) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	switch d.state.Load() {
	case running:
		d.end(closed)
	case expired:
		d.state.Store(closed)
	}
}
