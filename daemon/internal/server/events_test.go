package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func degraded(reason string) wire.Event { return wire.Degraded{Part: "dns", Reason: reason} }

func (r *raw) event() wire.Event {
	r.t.Helper()
	f, err := r.next()
	require.NoError(r.t, err)
	require.IsType(r.t, wire.EventFrame{}, f)
	return f.(wire.EventFrame).Event
}

func TestEventsComeToThoseWhoAsked(t *testing.T) {
	b := start(t, nil)
	all, some, none := b.raw(), b.raw(), b.raw()
	require.Equal(t, wire.OK{}, all.call(1, wire.SubscribeEvents{}))
	require.Equal(t, wire.OK{}, some.call(1, wire.SubscribeEvents{Events: []string{"recovered", "leases_low", "recovered"}}))
	require.Equal(t, wire.OK{}, none.call(1, wire.NATTick{}))
	b.Publish(degraded("x"))
	b.Publish(wire.Recovered{Part: "dns"})
	require.Equal(t, degraded("x"), all.event())
	require.Equal(t, wire.Recovered{Part: "dns"}, all.event())
	require.Equal(t, wire.Recovered{Part: "dns"}, some.event())
	for _, r := range []*raw{all, some, none} {
		require.Equal(t, wire.OK{}, r.call(2, wire.NATTick{}), "and nothing else did")
	}
}

func TestASubscriptionTakesThePlaceOfTheOneBefore(t *testing.T) {
	b := start(t, nil)
	r := b.raw()
	require.Equal(t, wire.OK{}, r.call(1, wire.SubscribeEvents{Events: []string{"degraded"}}))
	e := r.call(2, wire.SubscribeEvents{Events: []string{"recovered", "full_moon"}}).(wire.Err)
	require.Equal(t, wire.InvalidRequest, e.Code)
	require.Equal(t, "events[1]", e.Field)
	require.Contains(t, e.Message, "attachment_changed, degraded")
	b.Publish(degraded("x"))
	require.Equal(t, degraded("x"), r.event(), "one that is refused changes nothing")
	require.Equal(t, wire.OK{}, r.call(3, wire.SubscribeEvents{Events: []string{"recovered"}}))
	b.Publish(degraded("y"))
	b.Publish(wire.Recovered{Part: "z"})
	require.Equal(t, wire.Recovered{Part: "z"}, r.event())
}

func TestEventsComeInOrderAndBesideAnswers(t *testing.T) {
	b := start(t, nil, func(l *limits) { l.events = 10_000 })
	r := b.raw()
	r.pipeline()
	require.Equal(t, wire.OK{}, r.call(1, wire.SubscribeEvents{}))
	const n = 2000
	go func() {
		for i := range n {
			b.Publish(degraded(fmt.Sprint(i)))
		}
	}()
	go func() {
		for i := range n {
			r.Write(request(uint64(i), wire.NATTick{}))
		}
	}()
	var events, answers int
	for events < n || answers < n {
		f, err := r.next()
		require.NoError(t, err)
		switch f := f.(type) {
		case wire.EventFrame:
			require.Equal(t, degraded(fmt.Sprint(events)), f.Event)
			events++
		case wire.ResponseFrame:
			require.Equal(t, wire.OK{}, f.Response)
			answers++
		}
	}
}

// When the answer to a subscription is there everything that happens from then on
// comes, and nothing comes before it.
func TestNoEventIsMissedOnceTheAnswerIsThere(t *testing.T) {
	b := start(t, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
				b.Publish(wire.LeasesLow{Pool: prefix("10.0.0.0/8")})
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for i := range 50 {
		r := b.raw()
		require.Equal(t, wire.OK{}, r.call(1, wire.SubscribeEvents{}), "the answer is first")
		b.Publish(degraded(fmt.Sprint(i)))
		for {
			if e, ok := r.event().(wire.Degraded); ok {
				require.Equal(t, degraded(fmt.Sprint(i)), e)
				break
			}
		}
		require.NoError(t, r.Close())
	}
}

func TestASubscriberThatNeverReadsIsCutOffAndNobodyWaits(t *testing.T) {
	// For that what waits is too much, however slow the machine; who waits for the
	// subscriber waits for good.
	b := start(t, nil, func(l *limits) { l.write = time.Hour })
	good, bad := b.raw(), b.raw()
	for _, r := range []*raw{good, bad} {
		require.Equal(t, wire.OK{}, r.call(1, wire.SubscribeEvents{Events: []string{"degraded"}}))
	}
	event := degraded(string(make([]byte, 2000)))
	for sent := 0; b.Stats().Slow == 0; sent++ {
		b.Publish(event)
		require.Less(t, sent, 10_000)
		require.Equal(t, event, good.event())
	}
	soon(t, "it is gone", func() bool { return b.Stats().Open == 1 })
	require.EqualValues(t, 1, b.Stats().Slow)
	require.Contains(t, b.log.String(), "does not read its events")
	b.Publish(degraded("last"))
	require.Equal(t, degraded("last"), good.event())
}

func TestAnEventThatCannotBeSentIsLogged(t *testing.T) {
	b := start(t, nil)
	r := b.raw()
	require.Equal(t, wire.OK{}, r.call(1, wire.SubscribeEvents{}))
	b.Publish(wire.AttachmentChanged{})
	b.Publish(degraded("x"))
	require.Equal(t, degraded("x"), r.event())
	require.Contains(t, b.log.String(), "an event cannot be sent")
}

// stuck is a log that takes nothing that holds a text until it is let go on.
type stuck struct {
	text    string
	reached chan struct{}
	let     chan struct{}
}

func (l *stuck) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(l.text)) {
		l.reached <- struct{}{}
		<-l.let
	}
	return len(b), nil
}

// Somebody's terminal may be stopped, or a pipe full.
func TestALogThatIsStuckStopsNoOtherEvents(t *testing.T) {
	for text, stop := range map[string]func(b *bed){
		"does not read its events": func(b *bed) {
			bad := b.raw()
			require.Equal(t, wire.OK{}, bad.call(1, wire.SubscribeEvents{Events: []string{"leases_low"}}))
			for b.Stats().Slow == 0 {
				b.Publish(wire.LeasesLow{Pool: prefix("10.0.0.0/8")})
			}
		},
		"an event cannot be sent": func(b *bed) { b.Publish(wire.AttachmentChanged{}) },
	} {
		t.Run(text, func(t *testing.T) {
			b := start(t, nil, func(l *limits) { l.events = 16 })
			log := &stuck{text, make(chan struct{}), make(chan struct{})}
			b.Server.log = slog.New(slog.NewTextHandler(log, nil))
			good := b.raw()
			require.Equal(t, wire.OK{}, good.call(1, wire.SubscribeEvents{Events: []string{"degraded", "attachment_changed"}}))
			var stopped sync.WaitGroup
			stopped.Go(func() { stop(b) })
			defer stopped.Wait()
			defer close(log.let)
			<-log.reached
			told := make(chan struct{})
			go func() {
				defer close(told)
				b.Publish(degraded("x"))
			}()
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				require.Fail(t, "an event waits for the log")
			}
			require.Equal(t, degraded("x"), good.event())
			require.Equal(t, wire.OK{}, b.raw().call(1, wire.SubscribeEvents{}), "another may ask for them")
		})
	}
}

func TestEventsThroughTheClient(t *testing.T) {
	b := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := b.dial().Events(ctx, "degraded")
	require.NoError(t, err)
	for i := range 20 {
		b.Publish(degraded(fmt.Sprint(i)))
	}
	i := 0
	for e, err := range events {
		require.NoError(t, err)
		require.Equal(t, degraded(fmt.Sprint(i)), e)
		if i++; i == 20 {
			break
		}
	}
}
