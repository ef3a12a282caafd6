package server

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func TestMoreConnectionsThanThereMayBeAreSentAway(t *testing.T) {
	b := start(t, nil)
	var conns []*raw
	for range defaultLimits.connections {
		r := b.raw()
		require.Equal(t, wire.OK{}, r.call(1, wire.NATTick{}))
		conns = append(conns, r)
	}
	for range 44 {
		r := b.raw()
		id, e := r.refused()
		require.Zero(t, id)
		require.Equal(t, wire.Overloaded, e.Code)
		require.True(t, e.Retryable)
		r.ended()
	}
	st := b.Stats()
	require.EqualValues(t, 300, st.Connections)
	require.EqualValues(t, 44, st.Refused)
	require.Equal(t, 256, st.Open)
	require.Equal(t, 1, strings.Count(b.log.String(), "sent a client away"), "the log is not filled")
	for _, r := range conns {
		require.Equal(t, wire.OK{}, r.call(2, wire.NATTick{}), "those that were there go on")
	}
	require.NoError(t, conns[0].Close())
	soon(t, "there is room", func() bool { return b.Stats().Open == 255 })
	require.Equal(t, wire.OK{}, b.raw().call(1, wire.NATTick{}))
}

func TestNoUserKeepsOthersOut(t *testing.T) {
	q := quota{max: 16}
	root, alice, bob := peer{privileged: true}, peer{uid: 1}, peer{uid: 2}
	takeAll := func(p peer) (n int) {
		for q.take(p) {
			n++
		}
		return n
	}
	require.Equal(t, 4, takeAll(alice))
	require.Equal(t, 4, takeAll(bob))
	require.Equal(t, 4, takeAll(peer{uid: 3}))
	require.Equal(t, 0, takeAll(peer{uid: 4}), "three quarters are theirs")
	require.Equal(t, 4, takeAll(root))
	q.give(alice)
	require.Equal(t, 0, takeAll(bob))
	require.Equal(t, 1, takeAll(root))
	q.give(root)
	require.Equal(t, 1, takeAll(alice))

	drained := q.drain()
	for range 4 {
		q.give(alice)
		q.give(bob)
		q.give(peer{uid: 3})
		require.False(t, q.take(root))
	}
	for range 4 {
		select {
		case <-drained:
			t.Fatal("some are still taken")
		default:
		}
		q.give(root)
	}
	<-drained
	<-q.drain()
	require.Empty(t, q.byUser)
}

// large is an answer that no socket's buffer holds.
func large(context.Context, wire.Request) (wire.Response, error) {
	return wire.BridgeName{Name: strings.Repeat("x", 1<<20)}, nil
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	quick := func(l *limits) { l.write = 100 * time.Millisecond }
	for name, read := range map[string]func(r *raw){
		"at all": func(*raw) {},
		"but a little": func(r *raw) {
			go func() {
				for {
					if _, err := r.Read(make([]byte, 1)); err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond) // a slow client
				}
			}()
		},
	} {
		for _, how := range []string{"", " with pipelining"} {
			t.Run(name+how, func(t *testing.T) {
				b := start(t, large, quick)
				r := b.raw()
				n := 1
				if how != "" {
					r.pipeline()
					n = 10
				}
				for i := range n {
					r.send(request(uint64(i), wire.StatusRequest{}))
				}
				read(r)
				soon(t, "it is cut off", func() bool { return b.Stats().Slow == 1 && b.Stats().Open == 0 })
				require.Contains(t, b.log.String(), "does not read what it asked for")
				require.Zero(t, b.Stats().InFlight)
				require.NoError(t, r.Close())
			})
		}
	}
	t.Run("but one that takes its time may", func(t *testing.T) {
		b := start(t, large)
		r := b.raw()
		r.send(request(1, wire.StatusRequest{}))
		time.Sleep(50 * time.Millisecond) // a slow client
		_, res := r.response()
		require.Len(t, res.(wire.BridgeName).Name, 1<<20)
	})
}

// heap is the size of the heap that is in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestPrefixesAloneTakeNoMemory(t *testing.T) {
	b := start(t, nil)
	before := heap()
	var conns []*raw
	for range 200 {
		r := b.raw()
		r.send([]byte{0, 0, 0x80, 0, '{'}) // 8 MiB are to come
		conns = append(conns, r)
	}
	soon(t, "all are there", func() bool { return b.Stats().Open == 200 })
	soon(t, "some are read", func() bool { return len(b.large[true]) == cap(b.large[true]) })
	require.Less(t, int64(heap())-int64(before), int64(8<<20))
	for _, r := range conns {
		require.NoError(t, r.Close())
	}
	soon(t, "all are gone", func() bool { return b.Stats().Open == 0 })
	require.Empty(t, b.large[true])
}

func TestLargeFramesAreReadAFewAtATime(t *testing.T) {
	g := newGate()
	b := start(t, func(ctx context.Context, r wire.Request) (wire.Response, error) {
		if _, ok := r.(wire.UnregisterDNS); ok {
			r = wire.UnregisterDNS{Name: "a"}
		}
		return g.handle(ctx, r)
	})
	frame := request(1, wire.UnregisterDNS{Name: strings.Repeat("x", largeFrame)})
	before := heap()
	var conns []*raw
	var wg sync.WaitGroup
	for range 16 {
		r := b.raw()
		wg.Go(func() { r.Write(frame) })
		conns = append(conns, r)
	}
	soon(t, "a few are under way", func() bool { return g.running.Load() == int32(defaultLimits.large) })
	require.Less(t, int64(heap())-int64(before), int64(defaultLimits.large)*(6*largeFrame))
	require.Equal(t, wire.OK{}, b.raw().call(1, wire.StatusRequest{}), "others are served meanwhile")
	g.open("a")
	for _, r := range conns {
		_, res := r.response()
		require.Equal(t, wire.OK{}, res)
	}
	wg.Wait()
	require.EqualValues(t, defaultLimits.large, g.most.Load())
}

func TestFloodsOfGarbageNeitherStallNorGrowIt(t *testing.T) {
	b := start(t, nil)
	good := b.raw()
	before, goroutines := heap(), runtime.NumGoroutine()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	noise := make([]byte, 1<<16)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for i := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("unix", b.path)
				if err != nil {
					continue
				}
				junk := noise[rng.IntN(len(noise)):]
				switch rng.IntN(3) {
				case 0: // whole frames of garbage, answered, and never read
					for range 20 {
						if _, err := nc.Write(body(string(junk[:min(len(junk), 300)]))); err != nil {
							break
						}
					}
				case 1:
					nc.Write(append([]byte{byte(rng.Uint32()), byte(rng.Uint32()), 0x7f, 0}, junk...))
				default:
					nc.Write(junk)
				}
				nc.Close()
			}
		})
	}
	for range 100 {
		require.Equal(t, wire.OK{}, good.call(1, wire.StatusRequest{}))
	}
	close(stop)
	wg.Wait()
	soon(t, "all are gone", func() bool { return b.Stats().Open == 1 })
	t.Logf("garbage %d, connections %d", b.Stats().Garbage, b.Stats().Connections)
	require.NotZero(t, b.Stats().Garbage)
	require.Less(t, int64(heap())-int64(before), int64(4<<20))
	soon(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
}

func TestAfterALargeFrameTheBuffersAreSmallAgain(t *testing.T) {
	b := start(t, func(_ context.Context, r wire.Request) (wire.Response, error) {
		if u, ok := r.(wire.UnregisterDNS); ok {
			return wire.BridgeName(u), nil
		}
		return wire.OK{}, nil
	})
	before := heap()
	var conns []*raw
	frame := request(1, wire.UnregisterDNS{Name: strings.Repeat("x", 2*largeFrame)})
	for range 12 {
		r := b.raw()
		go r.Write(frame)
		_, err := wire.ReadFrame(r, nil)
		require.NoError(t, err)
		conns = append(conns, r)
	}
	// A connection gives its buffer up after the answer was written.
	soon(t, "they are small", func() bool { return int64(heap())-int64(before) < 1<<20 })
	for _, r := range conns {
		require.Equal(t, wire.OK{}, r.call(1, wire.NATTick{}))
	}
}

// A failing listener refuses a few times, as the system does when it is out of file
// descriptors, before it accepts.
type failing struct {
	net.Listener
	left int
	err  error
}

func (l *failing) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, &net.OpError{Op: "accept", Err: l.err}
	}
	return l.Listener.Accept()
}

func TestErrorsOfAcceptAreOutlived(t *testing.T) {
	for _, err := range []error{syscall.EMFILE, errors.New("any other")} {
		t.Run(err.Error(), func(t *testing.T) {
			b := start(t, nil)
			path := b.path + "2"
			l, e := b.Listen(path)
			require.NoError(t, e)
			served := make(chan error, 1)
			go func() { served <- b.Serve(&failing{l, 4, err}) }()
			b.path = path
			require.Equal(t, wire.OK{}, b.raw().call(1, wire.NATTick{}))
			require.Equal(t, 1, strings.Count(b.log.String(), "cannot take connections"))
			require.NoError(t, b.Close())
			require.NoError(t, <-served)
		})
	}
	t.Run("and do not hold up the end", func(t *testing.T) {
		b := start(t, nil)
		l, err := b.Listen(b.path + "2")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- b.Serve(&failing{l, 1 << 30, syscall.EMFILE}) }()
		soon(t, "it fails", func() bool { return strings.Contains(b.log.String(), "cannot take") })
		require.NoError(t, b.Close())
		require.NoError(t, <-served)
	})
	t.Run("but a listener that somebody closed ends it", func(t *testing.T) {
		b := start(t, nil)
		l, err := b.Listen(b.path + "2")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.ErrorIs(t, b.Serve(l), net.ErrClosed)
	})
}

// FuzzConnection sends any bytes on a connection: the server survives, says nothing
// but frames, and answers another connection.
func FuzzConnection(f *testing.F) {
	hello := request(1, wire.HelloRequest{Client: "f", Versions: []uint32{1}, Features: []string{wire.Pipelining}})
	for _, seed := range [][]byte{
		nil, {0}, {0, 0, 0, 0}, {255, 255, 255, 255}, body("{}"), body("[1,2"), hello,
		request(2, wire.StatusRequest{}), request(3, wire.SubscribeEvents{}), request(4, wire.SubscribeEvents{Events: []string{"x"}}),
		request(5, wire.Shutdown{}), bytes.Join([][]byte{hello, request(6, wire.NATTick{}), request(7, wire.NATTick{}), hello}, nil),
		body(`{"frame":"response","id":1,"response":{"result":"ok"}}`), body(`{"frame":"event","event":"x"}`),
	} {
		f.Add(seed, uint8(3))
	}
	b := start(f, nil, func(l *limits) { l.frame = 50 * time.Millisecond })
	good := b.raw()
	require.NoError(f, good.SetDeadline(time.Time{}))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		nc, err := net.Dial("unix", b.path)
		require.NoError(t, err)
		defer nc.Close()
		require.NoError(t, nc.SetDeadline(time.Now().Add(10*time.Second)))
		go func() {
			at := min(int(cut), len(data))
			nc.Write(data[:at])
			nc.Write(data[at:])
			nc.(*net.UnixConn).CloseWrite()
		}()
		for {
			body, err := wire.ReadFrame(nc, nil)
			if err != nil {
				var late net.Error
				require.False(t, errors.As(err, &late) && late.Timeout(), "it hangs")
				break
			}
			frame, err := wire.Decode(body)
			require.NoError(t, err)
			require.IsType(t, wire.ResponseFrame{}, frame)
		}
		b.Publish(wire.Recovered{Part: "dns"})
		_, err = good.Write(request(1, wire.NATTick{}))
		require.NoError(t, err)
		_, err = wire.ReadFrame(good, nil)
		require.NoError(t, err)
	})
}
