package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

// The pauses between attempts to connect.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
)

// helloTimeout is how long a daemon may take to answer the greeting, which costs
// it nothing.
const helloTimeout = 5 * time.Second

// connection is one that lives, or did a moment ago. It is made if there is none.
func (c *Client) connection(ctx context.Context) (*conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClosed
	}
	if c.conn != nil && c.conn.lost() == nil {
		defer c.mu.Unlock()
		return c.conn, nil
	}
	if c.attempt == nil {
		a := &attempt{done: make(chan struct{})}
		c.attempt = a
		c.running.Go(func() { c.reconnect(a) })
	}
	a := c.attempt
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, c.gaveUp(ctx)
	}
}

// gaveUp is the error when nobody waits any longer: also what had gone wrong until
// then, if something had.
func (c *Client) gaveUp(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why := context.Cause(ctx); c.trouble == nil || why == errClosed {
		return why
	}
	return fmt.Errorf("%w: %w: %w", ErrUnreachable, context.Cause(ctx), c.trouble)
}

// reconnect makes a connection for all who wait for it, and outlives them: the
// next to come finds it made.
func (c *Client) reconnect(a *attempt) {
	ctx, cancel := c.bounded(context.Background())
	defer cancel()
	a.conn, a.err = c.connect(ctx, nil)
	c.mu.Lock()
	c.attempt = nil
	if a.err == nil {
		c.conn = a.conn
	}
	c.mu.Unlock()
	close(a.done)
}

// connect tries to connect as often as the config says. events is where the
// connection's events go, if it is for them.
func (c *Client) connect(ctx context.Context, events chan wire.Event) (*conn, error) {
	pause := firstPause
	for n := 1; ; n++ {
		conn, err := c.open(ctx, events)
		c.mu.Lock()
		c.trouble = err
		c.mu.Unlock()
		if err == nil {
			return conn, nil
		}
		if final(ctx, err) {
			return nil, err
		}
		if n == c.cfg.Attempts {
			return nil, fmt.Errorf("%w (attempts: %d): %w", ErrUnreachable, n, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, c.gaveUp(ctx)
		}
		pause = min(2*pause, lastPause)
	}
}

// final reports whether a failed attempt is the last: nobody waits any more, or
// the daemon's answer will be the same the next time.
func final(ctx context.Context, err error) bool {
	refusal, ok := errors.AsType[*Error](err)
	return ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) || ok && !refusal.Retryable
}

// open makes one attempt. A daemon without extensions answers the greeting with an
// error, or hangs up; then it is called once more, and not greeted. One that hung
// up gets a second greeting before that, as it may just have been replaced.
func (c *Client) open(ctx context.Context, events chan wire.Event) (*conn, error) {
	for greetings := 2; greetings > 0; greetings-- {
		conn, err := c.openOnce(ctx, events)
		if err != nil {
			return nil, err
		}
		if err = c.greet(ctx, conn); err == nil {
			return conn, nil
		}
		conn.fail(err)
		if ungreetable(err) {
			break
		}
		if lost, ok := err.(*lostError); ok && !hungUp(err) {
			return nil, lost.err // nothing was asked for, so nothing is in doubt
		} else if !ok {
			return nil, err
		}
	}
	return c.openOnce(ctx, events)
}

// ungreetable reports whether an error is the answer of a daemon that does not
// know what hello is.
func ungreetable(err error) bool {
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch refusal.Code {
	case "", wire.UnknownOp, wire.InvalidRequest, wire.InvalidFrame, wire.InvalidJSON:
		return true
	}
	return false
}

func (c *Client) openOnce(ctx context.Context, events chan wire.Event) (*conn, error) {
	nc, err := c.dial(ctx, c.cfg.Endpoint)
	if err != nil {
		if why := context.Cause(ctx); why != nil {
			return nil, why
		}
		return nil, err
	}
	conn := newConn(nc, events)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.fail(errClosed)
		return nil, errClosed
	}
	c.conns[conn] = struct{}{}
	c.running.Go(conn.write)
	c.running.Go(func() {
		conn.read()
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
	})
	return conn, nil
}

// greet sends hello and takes the answer in.
func (c *Client) greet(ctx context.Context, conn *conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("it took the connection, but did not answer within %v", helloTimeout))
	defer cancel()
	res, _, err := conn.call(ctx, wire.HelloRequest{
		Client: c.cfg.Name, Versions: []uint32{wire.Version}, Features: []string{wire.Pipelining},
	})
	if err != nil && ungreetable(err) && conn.lost() == nil {
		return nil
	}
	if err != nil {
		return err
	}
	h, ok := res.(wire.Hello)
	switch {
	case !ok:
		return fmt.Errorf("%w: it answered hello with %s", ErrProtocol, res.Result())
	case h.Version != wire.Version:
		return fmt.Errorf("%w: it speaks version %d, and this client version %d", ErrProtocol, h.Version, wire.Version)
	}
	conn.greeted(h)
	c.met(h.BootID)
	return nil
}

// met notes which daemon answered, and has Restarted called if it is another one.
func (c *Client) met(boot string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.boot
	if boot == "" || boot == before {
		return
	}
	c.boot = boot
	if before == "" || c.cfg.Restarted == nil || c.closed {
		return
	}
	c.restarts = append(c.restarts, [2]string{before, boot})
	if !c.telling {
		c.telling = true
		c.running.Go(c.tell)
	}
}

// tell reports restarts, one after the other.
func (c *Client) tell() {
	for {
		c.mu.Lock()
		if len(c.restarts) == 0 {
			c.telling = false
			c.mu.Unlock()
			return
		}
		next := c.restarts[0]
		c.restarts = c.restarts[1:]
		c.mu.Unlock()
		c.cfg.Restarted(next[0], next[1])
	}
}
