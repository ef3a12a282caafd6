package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A subscription is the events a connection wants, and those that wait for it. The
// zero value wants none.
type subscription struct {
	wake  chan struct{}  // has room for one: there may be something to write
	done  chan struct{}  // of who reads the connection: nil until events are written
	ended sync.WaitGroup // the goroutine that writes them

	mu    sync.Mutex // guards all that follows
	on    bool
	kinds []string // none: all
	queue []event  // that wait
}

// An event is one that waits, as it will be written; the bytes are shared.
type event struct {
	kind  string
	frame []byte
}

func (s *subscription) wants(kind string) bool {
	return s.on && (len(s.kinds) == 0 || slices.Contains(s.kinds, kind))
}

// subscribe answers a request for events. From then on, and not before, they come:
// those that happen while the answer is written wait behind it.
func (c *conn) subscribe(id uint64, r wire.SubscribeEvents) bool {
	for i, kind := range r.Events {
		if known := wire.EventKinds(); !slices.Contains(known, kind) {
			field := fmt.Sprintf("events[%d]", i)
			return c.reply(id, wire.Err{
				Message: fmt.Sprintf("%s: %.64q is no kind of event: they are %s", field, kind, strings.Join(known, ", ")),
				Code:    wire.InvalidRequest, Field: field,
			})
		}
	}
	sub := &c.subscription
	c.writing.Lock()
	sub.mu.Lock()
	sub.on, sub.kinds = true, slices.Compact(slices.Sorted(slices.Values(r.Events)))
	sub.queue = slices.DeleteFunc(sub.queue, func(e event) bool { return !sub.wants(e.kind) })
	sub.mu.Unlock()
	c.s.subscribers.Lock()
	c.s.subscribers.conns[c] = struct{}{}
	c.s.subscribers.Unlock()
	ok := c.respond(id, wire.OK{})
	c.writing.Unlock()
	if ok && sub.done == nil {
		sub.done = make(chan struct{})
		sub.ended.Go(func() { c.writeEvents(sub.done) })
	}
	return ok
}

// unsubscribe ends what subscribe began.
func (c *conn) unsubscribe() {
	c.s.subscribers.Lock()
	delete(c.s.subscribers.conns, c)
	c.s.subscribers.Unlock()
	sub := &c.subscription
	if sub.done != nil {
		close(sub.done)
		c.hangUp()
		sub.ended.Wait()
	}
}

// writeEvents writes the events that wait until the connection ends.
func (c *conn) writeEvents(done <-chan struct{}) {
	for {
		select {
		case <-c.subscription.wake:
		case <-done:
			return
		}
		for more := true; more; {
			var ok bool
			if more, ok = c.writeSome(); !ok {
				return
			}
		}
	}
}

// writeSome writes some of the events that wait, so that answers get their turn, and
// reports whether there may be more and whether the connection lives.
func (c *conn) writeSome() (more, ok bool) {
	c.writing.Lock()
	defer c.writing.Unlock()
	sub := &c.subscription
	sub.mu.Lock()
	out, n := c.out[:0], 0
	for n < len(sub.queue) && len(out) < keepBuffer/2 {
		out = append(out, sub.queue[n].frame...)
		n++
	}
	sub.queue = slices.Delete(sub.queue, 0, n)
	sub.mu.Unlock()
	if n == 0 {
		return false, true
	}
	if c.out = out; cap(c.out) > keepBuffer {
		c.out = nil
	}
	return true, c.write(out)
}

// Publish sends an event to those who asked for it. It waits for no client: who does
// not read is disconnected. What it logs it logs with nothing held, so that a slow log
// is waited for by nobody else.
func (s *Server) Publish(e wire.Event) {
	slow, err := s.enqueue(e)
	for _, c := range slow {
		c.cutOff("it does not read its events")
	}
	if err != nil {
		s.log.Error("an event cannot be sent", "event", e.Kind(), "err", err)
	}
}

// enqueue has an event wait for those who asked for it, and returns who has so many
// waiting that it gets no more.
func (s *Server) enqueue(e wire.Event) (slow []*conn, err error) {
	s.subscribers.Lock()
	defer s.subscribers.Unlock()
	var frame []byte
	for c := range s.subscribers.conns {
		sub := &c.subscription
		sub.mu.Lock()
		if !sub.wants(e.Kind()) {
			sub.mu.Unlock()
			continue
		}
		if frame == nil {
			if frame, err = wire.AppendFrame(nil, wire.EventFrame{Event: e}); err != nil {
				sub.mu.Unlock()
				return slow, err
			}
		}
		full := len(sub.queue) >= s.limits.events
		if full {
			sub.on, sub.queue = false, nil
		} else {
			sub.queue = append(sub.queue, event{e.Kind(), frame})
		}
		sub.mu.Unlock()
		if full {
			delete(s.subscribers.conns, c)
			slow = append(slow, c)
			continue
		}
		select {
		case sub.wake <- struct{}{}:
		default: // it is awake
		}
	}
	return slow, nil
}
