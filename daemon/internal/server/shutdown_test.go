package server

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

func TestShutdownIsAnsweredAndToldOnce(t *testing.T) {
	var told atomic.Int32
	b := startWith(t, Config{Shutdown: func() { told.Add(1) }})
	r, other := b.raw(), b.raw()
	require.Equal(t, wire.OK{}, r.call(1, wire.Shutdown{}))
	r.ended()
	require.EqualValues(t, 1, told.Load())
	require.Equal(t, wire.OK{}, other.call(1, wire.NATTick{}), "until the daemon does end")
	require.Equal(t, wire.OK{}, other.call(2, wire.Shutdown{}))
	other.ended()
	require.EqualValues(t, 1, told.Load())
}

func TestShutdownThroughTheClient(t *testing.T) {
	told := make(chan struct{})
	b := startWith(t, Config{Shutdown: func() { close(told) }})
	require.NoError(t, b.dial().Shutdown(t.Context()))
	<-told
}

func TestInTheEndWhatWasBegunIsAnsweredAndTheRestRefused(t *testing.T) {
	g := newGate()
	b := start(t, g.handle)
	busy, idle, asking := b.raw(), b.raw(), b.raw()
	require.Equal(t, wire.OK{}, asking.call(1, wire.NATTick{}))
	busy.send(request(1, wire.UnregisterDNS{Name: "a"}))
	require.Equal(t, wire.OK{}, idle.call(1, wire.NATTick{}))
	soon(t, "it runs", func() bool { return g.running.Load() == 1 })
	ended := make(chan error, 1)
	go func() { ended <- b.Shutdown(context.Background()) }()
	<-b.draining

	soon(t, "requests are refused", func() bool {
		e, ok := idle.call(2, wire.NATTick{}).(wire.Err)
		if ok {
			require.Equal(t, wire.ShuttingDown, e.Code)
			require.True(t, e.Retryable)
		}
		return ok
	})
	require.Equal(t, wire.OK{}, asking.call(1, wire.Shutdown{}), "but for what happens anyway")
	asking.ended()
	require.NoFileExists(t, b.path)
	_, err := net.Dial("unix", b.path)
	require.Error(t, err, "nobody can connect any more")
	require.Empty(t, ended)
	g.open("a")
	_, res := busy.response()
	require.Equal(t, wire.OK{}, res)
	require.NoError(t, <-ended)
	busy.ended()
	idle.ended()
	require.NoError(t, b.Shutdown(context.Background()), "and it may be called again")

	l, err := b.Listen(b.path)
	require.NoError(t, err)
	require.NoError(t, b.Serve(l))
	require.NoFileExists(t, b.path)
}

func TestWhenPatienceEndsSoDoesTheContextOfRequests(t *testing.T) {
	g := newGate()
	b := start(t, g.handle)
	r := b.raw()
	r.send(request(1, wire.UnregisterDNS{Name: "never"}))
	soon(t, "it runs", func() bool { return g.running.Load() == 1 })
	mine := errors.New("mine")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, mine)
	defer cancel()
	require.ErrorIs(t, b.Shutdown(ctx), mine)
	require.Zero(t, g.running.Load())
	r.ended()
}

func TestShutdownUnderLoad(t *testing.T) {
	var began, done atomic.Int64
	b := start(t, func(context.Context, wire.Request) (wire.Response, error) {
		began.Add(1)
		time.Sleep(100 * time.Microsecond) // some work
		done.Add(1)
		return wire.OK{}, nil
	})
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		c, err := client.Dial(t.Context(), client.Config{Endpoint: b.path, Attempts: -1})
		require.NoError(t, err)
		defer c.Close()
		for range 4 {
			wg.Go(func() {
				for {
					err := c.NATTick(context.Background())
					switch {
					case err == nil:
						answered.Add(1)
					case errors.Is(err, client.ErrShuttingDown):
					default:
						return // the connection has ended
					}
				}
			})
		}
	}
	soon(t, "it is busy", func() bool { return answered.Load() > 500 })
	require.NoError(t, b.Shutdown(t.Context()))
	require.Equal(t, began.Load(), done.Load())
	wg.Wait()
	require.Equal(t, done.Load(), answered.Load(), "what was done was answered, and arrived")
	_, err := os.Lstat(b.path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
