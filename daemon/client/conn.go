package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

// maxInFlight is how many requests may be out at once on a connection whose
// daemon takes several.
const maxInFlight = 64

// keepBuffer is the largest buffer kept from one frame to the next.
const keepBuffer = 64 << 10

// lastWords is how long the daemon's reason is waited for when it stopped reading.
const lastWords = time.Second

// A conn is one connection. Its two goroutines end with it: one writes frames,
// so that a caller who gives up never leaves half of one behind, and one reads.
type conn struct {
	net   net.Conn
	hello wire.Hello // zero: the daemon has no extensions

	slots  chan struct{}   // holds a token for each request that is out
	out    chan []byte     // frames to write
	events chan wire.Event // nil: events are dropped
	done   chan struct{}   // closed when the connection is lost

	mu      sync.Mutex
	waiting map[uint64]waiter
	last    uint64      // the id given out last
	err     error       // why it was lost
	release func() bool // ends what endWith began
}

// A waiter is a request that is out. It keeps its slot until the answer comes,
// whether or not anyone still waits for it.
type waiter struct {
	op     string
	slot   <-chan struct{}
	answer chan<- answer // has room for one
}

type answer struct {
	response wire.Response
	err      error
}

func newConn(nc net.Conn, events chan wire.Event) *conn {
	return &conn{
		net: nc, slots: make(chan struct{}, 1), out: make(chan []byte), events: events,
		done: make(chan struct{}), waiting: make(map[uint64]waiter), release: func() bool { return true },
	}
}

// endWith ends the connection when ctx is done.
func (c *conn) endWith(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.release = context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	}
}

// greeted takes note of the daemon's answer to hello, before anyone else has the
// connection.
func (c *conn) greeted(h wire.Hello) {
	c.hello = h
	for _, f := range h.Features {
		if f == wire.Pipelining {
			c.slots = make(chan struct{}, maxInFlight)
		}
	}
}

// extended reports whether the daemon has the extensions.
func (c *conn) extended() bool { return c.hello.Version != 0 }

// fail ends the connection; the first reason stays.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.release()
	c.net.Close() //nolint:errcheck // nothing is lost that is not lost already
	close(c.done)
}

// lost is why the connection ended: a *lostError, or nil while it lives.
func (c *conn) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return &lostError{c.err}
}

// call sends a request and waits for its answer. sent tells whether the daemon may
// have got it.
func (c *conn) call(ctx context.Context, r wire.Request) (res wire.Response, sent bool, err error) {
	select {
	case c.slots <- struct{}{}:
	case <-c.done:
		return nil, false, c.lost()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	got := make(chan answer, 1)
	id := c.await(waiter{r.Op(), c.slots, got})
	frame, err := wire.AppendFrame(nil, wire.RequestFrame{ID: id, Request: r})
	if err != nil {
		c.take(id)
		return nil, false, err
	}
	select {
	case c.out <- frame:
	case <-c.done:
		c.take(id)
		return nil, false, c.lost()
	case <-ctx.Done():
		c.take(id)
		return nil, false, context.Cause(ctx)
	}
	select {
	case a := <-got:
		return a.response, true, a.err
	case <-ctx.Done():
		return nil, true, context.Cause(ctx)
	case <-c.done:
	}
	select {
	case a := <-got: // it came before the end
		return a.response, true, a.err
	default:
		return nil, true, c.lost()
	}
}

// await registers a request and gives it an id, never 0.
func (c *conn) await(w waiter) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.waiting[c.last] = w
	return c.last
}

// take removes a request and frees its slot.
func (c *conn) take(id uint64) (w waiter, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok = c.waiting[id]; ok {
		delete(c.waiting, id)
		<-w.slot
	}
	return w, ok
}

// deliver hands an answer to the request with its id. One nobody asked for is
// dropped.
func (c *conn) deliver(id uint64, a answer) {
	w, ok := c.take(id)
	if !ok {
		return
	}
	if e, ok := a.response.(wire.Err); ok {
		a = answer{err: refused(w.op, e)}
	}
	w.answer <- a
}

func (c *conn) write() {
	for {
		select {
		case frame := <-c.out:
			if _, err := c.net.Write(frame); err != nil {
				// A daemon that will not listen says why before it closes: the
				// reader has a moment to find that.
				select {
				case <-time.After(lastWords):
					c.fail(err)
				case <-c.done:
				}
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *conn) read() {
	in := bufio.NewReader(c.net)
	var buf []byte
	for {
		body, err := wire.ReadFrame(in, buf)
		if err == nil {
			err = c.receive(body)
		} else if errors.Is(err, wire.FrameTooLarge) {
			err = fmt.Errorf("%w: %w", ErrProtocol, err)
		} else if err == io.EOF {
			err = fmt.Errorf("the daemon hung up: %w", err)
		}
		if err != nil {
			c.fail(err)
			return
		}
		if buf = body; cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// receive acts on a frame from the daemon; an error ends the connection.
func (c *conn) receive(body []byte) error {
	frame, err := wire.Decode(body)
	if err != nil {
		bad, _ := errors.AsType[*wire.DecodeError](err)
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
		switch {
		case bad.Frame == "event": // of a kind that is newer than this client
			return nil
		case bad.Frame == "response" && bad.ID != 0:
			c.deliver(bad.ID, answer{err: err})
			return nil
		}
		return err
	}
	switch f := frame.(type) {
	case wire.ResponseFrame:
		if e, ok := f.Response.(wire.Err); ok && f.ID == 0 {
			return refused("connection", e)
		}
		c.deliver(f.ID, answer{response: f.Response})
	case wire.EventFrame:
		if c.events == nil {
			return nil
		}
		select {
		case c.events <- f.Event:
		case <-c.done:
		}
	default:
		return fmt.Errorf("%w: it sent a request", ErrProtocol)
	}
	return nil
}
