package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/overlayd/overlayd/daemon/wire"
)

// Events subscribes to events of some kinds, as in "peer_health_changed", or to
// all if none is given. When it returns the subscription holds: what happens from
// then on is yielded by the iterator, which is for one loop.
//
// If the connection is lost the iterator subscribes anew and yields an error that
// matches ErrGap: state read after it is complete again. Any other error ends the
// iteration: ctx is done, the client is closed, or no daemon was reached. ctx
// bounds the iteration; it or Close must end for the subscription to be given back
// when the iterator is never used. A loop that takes too long over an event is
// disconnected by the daemon, which is a gap as well.
//
// The subscription has a connection of its own, so a slow loop holds up no calls.
func (c *Client) Events(ctx context.Context, kinds ...string) (iter.Seq2[wire.Event, error], error) {
	conn, err := c.subscribe(ctx, kinds)
	if err != nil {
		return nil, failed("subscribe_events", err)
	}
	return func(yield func(wire.Event, error) bool) {
		defer func() { conn.fail(errClosed) }()
		for {
			select {
			case event := <-conn.events:
				if !yield(event, nil) {
					return
				}
				continue
			case <-conn.done:
			}
			gap := errors.Unwrap(conn.lost())
			next, err := c.subscribe(ctx, kinds)
			if err != nil {
				yield(nil, failed("events", err))
				return
			}
			conn = next
			if !yield(nil, fmt.Errorf("overlayd: %w: %w", ErrGap, gap)) {
				return
			}
		}
	}, nil
}

// subscribe makes a connection for events. It ends when ctx does.
func (c *Client) subscribe(ctx context.Context, kinds []string) (*conn, error) {
	within, cancel := c.bounded(ctx)
	defer cancel()
	for again := false; ; again = true {
		conn, err := c.connect(within, make(chan wire.Event))
		if err != nil {
			return nil, err
		}
		if err = conn.subscribe(within, wire.SubscribeEvents{Events: kinds}); err == nil {
			conn.endWith(ctx)
			return conn, nil
		}
		conn.fail(errClosed)
		if again || !hungUp(err) {
			return nil, err
		}
	}
}

func (c *conn) subscribe(ctx context.Context, r wire.SubscribeEvents) error {
	if !c.extended() {
		return unknownOp(r)
	}
	res, _, err := c.call(ctx, r)
	if err != nil {
		return err
	}
	if _, ok := res.(wire.OK); !ok {
		return fmt.Errorf("%w: it answered with %s", ErrProtocol, res.Result())
	}
	return nil
}
