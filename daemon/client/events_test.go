package client

import (
	"context"
	"fmt"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

// subscribed answers subscribe_events and leaves what follows to then.
func subscribed(then func(*session, wire.SubscribeEvents)) func(*session, wire.RequestFrame) {
	return greeted(func(s *session, f wire.RequestFrame) {
		ok(s, f)
		if r, yes := f.Request.(wire.SubscribeEvents); yes {
			then(s, r)
		}
	})
}

func part(n int) wire.Event { return wire.Recovered{Part: fmt.Sprint(n)} }

func TestEventsComeInOrder(t *testing.T) {
	var kinds []string
	s := start(t, subscribed(func(s *session, r wire.SubscribeEvents) {
		kinds = r.Events
		for n := range 1000 {
			s.send(wire.EventFrame{Event: part(n)})
			s.raw(framed(`{"frame":"event","event":"from_the_future"}`))
		}
	}))
	c := connected(t, s)
	events, err := c.Events(deadline(t), "recovered", "degraded")
	require.NoError(t, err)
	n := 0
	for event, err := range events {
		require.NoError(t, err)
		require.Equal(t, part(n), event)
		if n++; n == 1000 {
			break
		}
	}
	require.Equal(t, []string{"recovered", "degraded"}, kinds)
	_, err = c.Status(deadline(t))
	require.NoError(t, err)
	require.EqualValues(t, 2, s.accepted.Load(), "events have a connection of their own")
}

func TestAnInterruptionOfEventsIsAGap(t *testing.T) {
	var round atomic.Int64
	s := start(t, subscribed(func(s *session, r wire.SubscribeEvents) {
		if len(r.Events) != 1 {
			t.Errorf("asked for %q", r.Events)
		}
		s.send(wire.EventFrame{Event: part(int(round.Add(1)))})
		s.Close()
	}))
	c := connected(t, s)
	events, err := c.Events(deadline(t), "recovered")
	require.NoError(t, err)
	next, stop := iter.Pull2(events)
	defer stop()
	for n := range 3 {
		event, err, _ := next()
		require.NoError(t, err)
		require.Equal(t, part(n+1), event)
		event, err, more := next()
		require.True(t, more)
		require.ErrorIs(t, err, ErrGap)
		require.EqualError(t, err, "overlayd: events may have been missed: the daemon hung up: EOF")
		require.Nil(t, event)
	}
}

func TestEventsEndWhenNoDaemonIsLeft(t *testing.T) {
	s := start(t, subscribed(func(s *session, _ wire.SubscribeEvents) {}))
	c := connectedAs(t, Config{Endpoint: s.path, Attempts: -1})
	events, err := c.Events(deadline(t))
	require.NoError(t, err)
	s.stop()
	var errs []error
	for _, err := range events {
		errs = append(errs, err)
	}
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], ErrUnreachable)
}

func TestEventsEndWithTheirContextOrTheClient(t *testing.T) {
	s := start(t, subscribed(func(s *session, _ wire.SubscribeEvents) { s.send(wire.EventFrame{Event: part(0)}) }))
	c := connected(t, s)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := c.Events(ctx)
	require.NoError(t, err)
	var last error
	for _, err := range events {
		cancel()
		last = err
	}
	require.ErrorIs(t, last, context.Canceled)

	events, err = c.Events(t.Context())
	require.NoError(t, err)
	var closing sync.WaitGroup
	for event, err := range events {
		if event != nil {
			closing.Go(func() { c.Close() })
		}
		last = err
	}
	closing.Wait()
	require.ErrorIs(t, last, net.ErrClosed)
}

func TestASubscriptionThatIsNeverReadEndsWithTheClient(t *testing.T) {
	s := start(t, subscribed(func(s *session, _ wire.SubscribeEvents) { s.send(wire.EventFrame{Event: part(0)}) }))
	c := connected(t, s)
	_, err := c.Events(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close()) // goleak sees the rest
}

func TestASlowLoopHoldsUpNoCalls(t *testing.T) {
	gone := make(chan struct{})
	s := start(t, subscribed(func(s *session, _ wire.SubscribeEvents) {
		defer close(gone)
		data, err := wire.AppendFrame(nil, wire.EventFrame{Event: part(0)})
		require.NoError(t, err)
		for {
			if _, err := s.Write(data); err != nil {
				return
			}
		}
	}))
	c := connected(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := c.Events(ctx)
	require.NoError(t, err)
	for range 100 {
		_, err := c.Status(deadline(t))
		require.NoError(t, err)
	}
	cancel()
	<-gone
}

func TestARefusedSubscriptionIsAnError(t *testing.T) {
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		s.reply(f, wire.Err{Message: `no event "nonsense"`, Code: wire.InvalidRequest, Field: "events[0]"})
	}))
	_, err := connected(t, s).Events(deadline(t), "nonsense")
	require.EqualError(t, err, `overlayd: subscribe_events: no event "nonsense" (invalid_request)`)
	require.ErrorIs(t, err, ErrInvalid)
}
