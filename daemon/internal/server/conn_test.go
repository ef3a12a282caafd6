package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

func TestWhatIsWrongWithAFrameIsAnsweredAndTheConnectionLives(t *testing.T) {
	b := start(t, nil)
	r := b.raw()
	for name, test := range map[string]struct {
		body  string
		id    uint64
		code  wire.Code
		field string
	}{
		"not JSON":                 {`{"frame":"request","id":7,"requ`, 7, wire.InvalidJSON, ""},
		"nothing":                  {``, 0, wire.InvalidJSON, ""},
		"no frame":                 {`{"id":8}`, 8, wire.InvalidFrame, "frame"},
		"an unknown kind of frame": {`{"frame":"letter","id":9}`, 9, wire.InvalidFrame, "frame"},
		"an unknown op":            {`{"frame":"request","id":10,"request":{"op":"dance"}}`, 10, wire.UnknownOp, ""},
		"a missing field":          {`{"frame":"request","id":11,"request":{"op":"unregister_dns"}}`, 11, wire.InvalidRequest, "name"},
		"an ill-typed field":       {`{"frame":"request","id":12,"request":{"op":"unregister_dns","name":1}}`, 12, wire.InvalidRequest, "name"},
		"an id that is none":       {`{"frame":"request","id":-1,"request":{"op":"status"}}`, 0, wire.InvalidFrame, "id"},
	} {
		t.Run(name, func(t *testing.T) {
			r.send(body(test.body))
			id, e := r.refused()
			require.Equal(t, test.id, id)
			require.Equal(t, test.code, e.Code)
			require.Equal(t, test.field, e.Field)
			require.Equal(t, wire.OK{}, r.call(99, wire.NATTick{}))
		})
	}
	st := b.Stats()
	require.EqualValues(t, 5, st.Garbage)
	require.EqualValues(t, 8, st.Requests["nat_tick"])
	require.EqualValues(t, 1, st.Failures[wire.UnknownOp])
	require.EqualValues(t, 2, st.Failures[wire.InvalidRequest])
}

func TestFramesAClientHasNoBusinessToSendAreIgnoredAndCounted(t *testing.T) {
	b := start(t, nil)
	r := b.raw()
	for _, text := range []string{
		`{"frame":"response","id":1,"response":{"result":"ok"}}`,
		`{"frame":"response","id":1,"response":{"result":"nonsense"}}`,
		`{"frame":"event","event":"recovered","part":"dns"}`,
		`{"frame":"event","event":"nonsense"}`,
	} {
		r.send(body(text))
	}
	require.Equal(t, wire.OK{}, r.call(5, wire.NATTick{}))
	require.EqualValues(t, 4, b.Stats().Ignored)
}

func TestWhereTheFramingIsLostTheClientIsToldAndTheConnectionEnds(t *testing.T) {
	whole := request(1, wire.NATTick{})
	for name, test := range map[string]struct {
		send []byte
		code wire.Code // "": nothing is said
	}{
		"a frame that is too large":     {[]byte{1, 0, 0x80, 0}, wire.FrameTooLarge},
		"the largest length":            {[]byte{255, 255, 255, 255, '{'}, wire.FrameTooLarge},
		"the end inside a length":       {whole[:3], wire.InvalidFrame},
		"the end inside a body":         {whole[:20], wire.InvalidFrame},
		"the end inside a large body":   {append([]byte{0, 0, 0x80, 0}, make([]byte, 5000)...), wire.InvalidFrame},
		"the end at a frame's boundary": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			r := b.raw()
			require.Equal(t, wire.OK{}, r.call(1, wire.NATTick{}))
			r.send(test.send)
			require.NoError(t, r.Conn.(*net.UnixConn).CloseWrite())
			if test.code != "" {
				id, e := r.refused()
				require.Zero(t, id)
				require.Equal(t, test.code, e.Code)
				require.EqualValues(t, 1, b.Stats().Garbage)
			}
			_, err := r.next()
			require.Equal(t, io.EOF, err)
			soon(t, "it is forgotten", func() bool { return b.Stats().Open == 0 })
		})
	}
}

func TestTheLargestFrameIsTaken(t *testing.T) {
	got := make(chan int, 1)
	b := start(t, func(_ context.Context, r wire.Request) (wire.Response, error) {
		got <- len(r.(wire.UnregisterDNS).Name)
		return wire.OK{}, nil
	})
	r := b.raw()
	n := wire.MaxFrame - (len(request(1, wire.UnregisterDNS{})) - 4)
	sent := make(chan error, 1)
	go func() {
		_, err := r.Write(request(1, wire.UnregisterDNS{Name: strings.Repeat("x", n)}))
		sent <- err
	}()
	_, res := r.response()
	require.Equal(t, wire.OK{}, res)
	require.Equal(t, n, <-got)
	require.NoError(t, <-sent)
}

// An idle client may stay, and its next frame has its time anew.
func TestTimeIsOfAFrameThatBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Handle: func(context.Context, wire.Request) (wire.Response, error) { return wire.OK{}, nil }})
		here, there := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- newConn(s, there, peer{}).readAll() }()
		r := &raw{here, t}
		frame := request(1, wire.NATTick{})
		for range 3 {
			require.Equal(t, wire.OK{}, r.call(1, wire.NATTick{}))
			time.Sleep(time.Hour)
			r.send(frame[:10])
			time.Sleep(defaultLimits.frame - 1)
			r.send(frame[10:])
			_, res := r.response()
			require.Equal(t, wire.OK{}, res)
		}
		r.send(frame[:10])
		time.Sleep(defaultLimits.frame - 1)
		synctest.Wait()
		require.Empty(t, ended)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.True(t, timedOut(<-ended))
		require.NoError(t, s.Close())
	})
}

func TestAFrameThatBeganHasToEnd(t *testing.T) {
	const within = 150 * time.Millisecond
	quick := func(l *limits) { l.frame = within }
	frame := request(1, wire.NATTick{})
	for name, first := range map[string][]byte{"after a byte": frame[:1], "in its length": frame[:3], "in its body": frame[:10], "in a large body": append([]byte{0, 0, 0x40, 0}, "{"...)} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil, quick)
			r := b.raw()
			r.send(first)
			id, e := r.refused()
			require.Zero(t, id)
			require.Equal(t, wire.Timeout, e.Code)
			require.Contains(t, e.Message, "did not come to its end within 150ms")
			r.ended()
		})
	}
	t.Run("byte after byte", func(t *testing.T) {
		b := start(t, nil, quick)
		r := b.raw()
		for i := 0; ; i = (i + 1) % 1000 {
			if _, err := r.Write([]byte{0, 0, 1, 0}[min(i, 3):][:1]); err != nil {
				break // it had 65536 bytes to send
			}
			time.Sleep(time.Millisecond) // a slow client
		}
		require.EqualValues(t, 1, b.Stats().Failures[wire.Timeout])
	})
}

func TestAFrameMayComeInPiecesAndManyAtOnce(t *testing.T) {
	r := start(t, nil).raw()
	for _, c := range request(1, wire.NATTick{}) {
		r.send([]byte{c})
	}
	_, res := r.response()
	require.Equal(t, wire.OK{}, res)
	var many []byte
	for i := range 500 {
		many = append(many, request(uint64(i), wire.NATTick{})...)
	}
	go r.Write(many)
	for i := range 500 {
		id, _ := r.response()
		require.EqualValues(t, i, id)
	}
}

// gate is a handler whose UnregisterDNS requests wait to be let through by name.
type gate struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
	running atomic.Int32
	most    atomic.Int32
}

func newGate() *gate { return &gate{waiting: make(map[string]chan struct{})} }

func (g *gate) at(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[name] == nil {
		g.waiting[name] = make(chan struct{})
	}
	return g.waiting[name]
}

func (g *gate) open(name string) { close(g.at(name)) }

func (g *gate) handle(ctx context.Context, r wire.Request) (wire.Response, error) {
	u, ok := r.(wire.UnregisterDNS)
	if !ok {
		return wire.OK{}, nil
	}
	n := g.running.Add(1)
	defer g.running.Add(-1)
	for most := g.most.Load(); n > most && !g.most.CompareAndSwap(most, n); most = g.most.Load() {
	}
	select {
	case <-g.at(u.Name):
		return wire.OK{}, nil
	case <-ctx.Done():
		return nil, wire.ShuttingDown
	}
}

func TestRequestsAreAnsweredInOrder(t *testing.T) {
	g := newGate()
	b := start(t, g.handle)
	r := b.raw()
	r.send(request(1, wire.UnregisterDNS{Name: "a"}))
	r.send(request(2, wire.NATTick{}))
	r.send(request(1, wire.UnregisterDNS{Name: "b"}))
	soon(t, "the first runs", func() bool { return g.running.Load() == 1 })
	require.Zero(t, b.Stats().Requests["nat_tick"])
	g.open("b")
	g.open("a")
	for _, want := range []uint64{1, 2, 1} {
		id, res := r.response()
		require.Equal(t, want, id)
		require.Equal(t, wire.OK{}, res)
	}
	require.EqualValues(t, 1, g.most.Load())
}

func TestWithPipeliningRequestsAreAnsweredAsTheyAreDone(t *testing.T) {
	g := newGate()
	b := start(t, g.handle, func(l *limits) { l.pipelined = 4 })
	r := b.raw()
	r.pipeline()
	for i := range 6 {
		r.send(request(uint64(i), wire.UnregisterDNS{Name: fmt.Sprint(i)}))
	}
	soon(t, "four run", func() bool { return g.running.Load() == 4 })
	g.open("2")
	id, _ := r.response()
	require.EqualValues(t, 2, id)
	soon(t, "the fifth has its place", func() bool { return g.running.Load() == 4 })
	g.open("4")
	id, _ = r.response()
	require.EqualValues(t, 4, id)
	for _, name := range []string{"0", "1", "3", "5"} {
		g.open(name)
	}
	seen := make(map[uint64]bool)
	for range 4 {
		id, _ := r.response()
		seen[id] = true
	}
	require.Equal(t, map[uint64]bool{0: true, 1: true, 3: true, 5: true}, seen)
	require.EqualValues(t, 4, g.most.Load(), "no more than four at once")
}

func TestHelloAgainTakesPipeliningBack(t *testing.T) {
	g := newGate()
	b := start(t, g.handle)
	r := b.raw()
	r.pipeline()
	r.send(request(1, wire.UnregisterDNS{Name: "a"}))
	r.send(request(2, wire.HelloRequest{Versions: []uint32{1}}))
	soon(t, "the first runs", func() bool { return g.running.Load() == 1 })
	g.open("a")
	id, _ := r.response()
	require.EqualValues(t, 1, id, "what came before is answered first")
	_, res := r.response()
	require.Empty(t, res.(wire.Hello).Features)
	r.send(request(3, wire.UnregisterDNS{Name: "b"}))
	r.send(request(4, wire.NATTick{}))
	g.open("b")
	id, _ = r.response()
	require.EqualValues(t, 3, id)
	id, _ = r.response()
	require.EqualValues(t, 4, id)
}

func TestHello(t *testing.T) {
	b := startWith(t, Config{Hello: func() wire.Hello {
		return wire.Hello{Version: 99, Features: []string{"x"}, BootID: "boot", Build: "v1", Platform: "p", Mode: "tun", PublicKey: "k"}
	}})
	want := wire.Hello{Version: 1, BootID: "boot", Build: "v1", Platform: "p", Mode: "tun", PublicKey: "k"}
	r := b.raw()
	require.Equal(t, want, r.call(1, wire.HelloRequest{Versions: []uint32{7, 1}, Features: []string{"teleport"}}))
	want.Features = []string{wire.Pipelining}
	long, ok := r.call(1, wire.HelloRequest{Client: strings.Repeat("x", maxClient+1), Versions: []uint32{1}}).(wire.Err)
	require.True(t, ok)
	require.Equal(t, "client", long.Field)
	require.Equal(t, want, r.call(1, wire.HelloRequest{Client: strings.Repeat("x\n", maxClient/2), Versions: []uint32{1}, Features: []string{"teleport", wire.Pipelining, wire.Pipelining}}))
	require.Less(t, len(b.log.String()), 4096, "a long name does not fill the log")
	for _, versions := range [][]uint32{nil, {0}, {2, 3}} {
		e := r.call(2, wire.HelloRequest{Versions: versions}).(wire.Err)
		require.Equal(t, wire.InvalidRequest, e.Code)
		require.Equal(t, "versions", e.Field)
		require.Contains(t, e.Message, "speaks version 1")
		require.False(t, e.Retryable)
	}
}

func TestWhatBecomesOfAnAnswer(t *testing.T) {
	mine := errors.New("mine")
	answers := map[string]func() (wire.Response, error){
		"an error":               func() (wire.Response, error) { return nil, mine },
		"an error of a code":     func() (wire.Response, error) { return nil, fmt.Errorf("no %w", wire.Conflict) },
		"none":                   func() (wire.Response, error) { return nil, nil },
		"one that is incomplete": func() (wire.Response, error) { return wire.IP{}, nil },
		"one that is too large": func() (wire.Response, error) {
			return wire.BridgeName{Name: strings.Repeat("x", wire.MaxFrame)}, nil
		},
		"an error that is huge": func() (wire.Response, error) {
			return nil, errors.New(strings.Repeat("x", wire.MaxFrame))
		},
		"a panic":                   func() (wire.Response, error) { panic(mine) },
		"a panic with nil in it":    func() (wire.Response, error) { var p *int; *p = 1; return nil, nil },
		"an error that is a result": func() (wire.Response, error) { return wire.Err{Message: "m", Code: wire.NotReady}, nil },
	}
	b := start(t, func(_ context.Context, r wire.Request) (wire.Response, error) {
		if u, ok := r.(wire.UnregisterDNS); ok {
			return answers[u.Name]()
		}
		return wire.OK{}, nil
	})
	for name, want := range map[string]wire.Err{
		"an error":                  {Message: "mine", Code: wire.Internal},
		"an error of a code":        {Message: "no conflict", Code: wire.Conflict},
		"none":                      {Message: "has no answer", Code: wire.Internal},
		"one that is incomplete":    {Message: "ip: is not set", Code: wire.Internal},
		"one that is too large":     {Message: "8388608 are allowed", Code: wire.Internal},
		"an error that is huge":     {Message: "8388608 are allowed", Code: wire.Internal},
		"a panic":                   {Message: "its log says where", Code: wire.Internal},
		"a panic with nil in it":    {Message: "its log says where", Code: wire.Internal},
		"an error that is a result": {Message: "m", Code: wire.NotReady},
	} {
		for _, how := range []string{"", " with pipelining"} {
			t.Run(name+how, func(t *testing.T) {
				r := b.raw()
				if how != "" {
					r.pipeline()
				}
				e := r.call(3, wire.UnregisterDNS{Name: name}).(wire.Err)
				require.Equal(t, want.Code, e.Code)
				require.Contains(t, e.Message, want.Message)
				require.Equal(t, wire.OK{}, r.call(4, wire.NATTick{}), "the connection lives")
			})
		}
	}
	require.EqualValues(t, 4, b.Stats().Panics)
	require.Contains(t, b.log.String(), "conn_test.go", "the stack is in the log")
	require.Contains(t, b.log.String(), "op=unregister_dns")
}

func TestReplyTellsErrors(t *testing.T) {
	b := startWith(t, Config{
		Handle: func(context.Context, wire.Request) (wire.Response, error) { return nil, errors.New("x") },
		Reply: func(err error) wire.Err {
			return wire.Err{Message: "told: " + err.Error(), Code: wire.Exhausted, Field: "f", Retryable: true}
		},
	})
	require.Equal(t, wire.Err{Message: "told: x", Code: wire.Exhausted, Field: "f", Retryable: true}, b.raw().call(1, wire.NATTick{}))
	_, err := b.dial().Status(t.Context())
	require.ErrorIs(t, err, client.ErrExhausted)
	require.EqualValues(t, 2, b.Stats().Failures[wire.Exhausted])
}

func TestTooManyRequestsAtOnceAreRefused(t *testing.T) {
	g := newGate()
	b := start(t, g.handle, func(l *limits) { l.requests = 3 })
	var busy []*raw
	for range 3 {
		r := b.raw()
		r.send(request(1, wire.UnregisterDNS{Name: "a"}))
		busy = append(busy, r)
	}
	soon(t, "three run", func() bool { return b.Stats().InFlight == 3 })
	r := b.raw()
	e := r.call(9, wire.NATTick{}).(wire.Err)
	require.Equal(t, wire.Overloaded, e.Code)
	require.True(t, e.Retryable)
	g.open("a")
	for _, r := range busy {
		_, res := r.response()
		require.Equal(t, wire.OK{}, res)
	}
	soon(t, "they are done", func() bool { return b.Stats().InFlight == 0 })
	require.Equal(t, wire.OK{}, r.call(9, wire.NATTick{}))
}

func TestAClientThatHalfClosesGetsItsAnswers(t *testing.T) {
	g := newGate()
	b := start(t, g.handle)
	r := b.raw()
	r.pipeline()
	r.send(request(1, wire.UnregisterDNS{Name: "a"}))
	soon(t, "it runs", func() bool { return g.running.Load() == 1 })
	require.NoError(t, r.Conn.(*net.UnixConn).CloseWrite())
	g.open("a")
	_, res := r.response()
	require.Equal(t, wire.OK{}, res)
	r.ended()
}

func TestWhatAClientBeganIsDoneWhenItLeaves(t *testing.T) {
	g := newGate()
	done := make(chan error, 1)
	b := start(t, func(ctx context.Context, r wire.Request) (wire.Response, error) {
		res, err := g.handle(ctx, r)
		done <- err
		return res, err
	})
	r := b.raw()
	r.send(request(1, wire.UnregisterDNS{Name: "a"}))
	soon(t, "it runs", func() bool { return g.running.Load() == 1 })
	require.NoError(t, r.Close())
	g.open("a")
	require.NoError(t, <-done)
}

func TestSixteenClientsAtOnce(t *testing.T) {
	b := start(t, func(_ context.Context, r wire.Request) (wire.Response, error) {
		if r, ok := r.(wire.Resolve); ok {
			return wire.Resolved{Name: r.Name, IPs: []netip.Addr{netip.MustParseAddr("::1")}}, nil
		}
		return wire.OK{}, nil
	})
	var wg sync.WaitGroup
	for i := range 16 {
		c := b.dial()
		for j := range 4 {
			wg.Go(func() {
				for k := range 100 {
					name := fmt.Sprint(i, j, k)
					got, err := c.Resolve(context.Background(), name)
					if err != nil || got.Name != name {
						t.Errorf("%s: %v %v", name, got, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	require.EqualValues(t, 6400, b.Stats().Requests["resolve"])
	require.EqualValues(t, 16, b.Stats().Requests["hello"])
}
