package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func framed(body string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestBytesThatAreNotTheContractEndTheConnection(t *testing.T) {
	for name, bytes := range map[string]string{
		"text":                   framed("HTTP/1.1 400 Bad Request"),
		"an empty frame":         framed(""),
		"a list":                 framed("[]"),
		"a request":              framed(`{"frame":"request","id":1,"request":{"op":"status"}}`),
		"a response without id":  framed(`{"frame":"response","response":{"result":"ok"}}`),
		"a length beyond bounds": "\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			bad := true
			s := start(t, greeted(func(s *session, f wire.RequestFrame) {
				if bad {
					bad = false
					s.raw(bytes)
					return
				}
				ok(s, f)
			}))
			c := connected(t, s)
			_, err := c.Status(deadline(t))
			require.ErrorIs(t, err, ErrProtocol)
			require.ErrorIs(t, err, ErrLost)
			_, err = c.Status(deadline(t))
			require.NoError(t, err)
			require.EqualValues(t, 2, s.accepted.Load())
		})
	}
}

func TestAnAnswerThatCannotBeReadConcernsItsRequestAlone(t *testing.T) {
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		switch f.Request.(type) {
		case wire.NATTick:
			s.raw(framed(fmt.Sprintf(`{"frame":"response","id":%d,"response":{"result":"future"}}`, f.ID)))
		case wire.Shutdown:
			s.reply(f, wire.BridgeName{Name: "x"})
		default:
			ok(s, f)
		}
	}))
	c, ctx := connected(t, s), deadline(t)
	require.EqualError(t, c.NATTick(ctx), "overlayd: nat_tick: the daemon does not keep to the contract: unknown result: future")
	require.EqualError(t, c.Shutdown(ctx), "overlayd: shutdown: the daemon does not keep to the contract: it answered with bridge_name and not ok")
	_, err := c.Status(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestWhatNobodyAskedForIsPassedOver(t *testing.T) {
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		s.send(wire.EventFrame{Event: wire.Recovered{Part: "dns"}})
		s.raw(framed(`{"frame":"event","event":"from_the_future","x":1}`))
		s.send(wire.ResponseFrame{ID: 1 << 40, Response: wire.OK{}})
		s.raw(framed(`{"frame":"response","id":99,"response":{"result":"future"}}`))
		ok(s, f)
		ok(s, f)
	}))
	c := connected(t, s)
	for range 3 {
		_, err := c.Status(deadline(t))
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestAChangeWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	half := framed(`{"frame":"response","id":2,"response":{"result":"ok"}}`)[:20]
	for name, last := range map[string]string{"without a word": "", "inside a length": half[:2], "inside a frame": half} {
		t.Run(name, func(t *testing.T) {
			var ticks atomic.Int64
			s := start(t, greeted(func(s *session, f wire.RequestFrame) {
				if _, tick := f.Request.(wire.NATTick); tick {
					ticks.Add(1)
					s.raw(last)
					s.Close()
					return
				}
				ok(s, f)
			}))
			c := connected(t, s)
			err := c.NATTick(deadline(t))
			require.ErrorIs(t, err, ErrLost)
			require.NotErrorIs(t, err, ErrProtocol)
			require.EqualValues(t, 1, ticks.Load())
			_, err = c.Status(deadline(t))
			require.NoError(t, err)
		})
	}
}

func TestAConnectionThatWasLostWhileIdleIsMadeAnewForAChange(t *testing.T) {
	s := start(t, greeted(ok))
	c := connected(t, s)
	for range 3 {
		c.mu.Lock()
		conn := c.conn
		c.mu.Unlock()
		s.drop()
		<-conn.done
		require.NoError(t, c.NATTick(deadline(t)))
	}
	require.EqualValues(t, 4, s.accepted.Load())
}

func TestAQuestionWhoseAnswerIsLostIsAskedAgainOnce(t *testing.T) {
	var asked atomic.Int64
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		if asked.Add(1) == 1 {
			s.Close()
			return
		}
		ok(s, f)
	}))
	c := connected(t, s)
	status, err := c.Status(deadline(t))
	require.NoError(t, err)
	require.EqualValues(t, 3, status.ServiceCount)

	s = start(t, greeted(func(s *session, _ wire.RequestFrame) {
		asked.Add(1)
		s.Close()
	}))
	c = connected(t, s)
	asked.Store(0)
	_, err = c.Status(deadline(t))
	require.ErrorIs(t, err, ErrLost)
	require.ErrorIs(t, err, io.EOF)
	require.EqualValues(t, 2, asked.Load())
}

func TestTheReasonTheDaemonGivesForHangingUpIsTold(t *testing.T) {
	s := start(t, greeted(func(s *session, _ wire.RequestFrame) {
		s.send(wire.ResponseFrame{Response: wire.Err{Message: "too many requests", Code: wire.Overloaded, Retryable: true}})
		s.Close()
	}))
	_, err := connected(t, s).Status(deadline(t))
	require.EqualError(t, err, "overlayd: status: the connection was lost before the answer came: too many requests (overloaded)")
	require.ErrorIs(t, err, ErrLost)
	require.ErrorIs(t, err, ErrOverloaded)
}

func TestACallGivenUpLeavesTheConnectionUsable(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{})
	var busy atomic.Bool
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		if busy.Load() {
			t.Error("a second request came before the answer to the first")
		}
		if _, slow := f.Request.(wire.NATTick); !slow {
			ok(s, f)
			return
		}
		busy.Store(true)
		close(entered)
		go func() {
			<-release
			busy.Store(false)
			ok(s, f)
		}()
	}))
	c := connected(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	require.ErrorIs(t, c.NATTick(ctx), context.Canceled)

	// One request at a time: the next waits its turn, and no longer than it may.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Status(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, "overlayd: status: context deadline exceeded")

	close(release)
	status, err := c.Status(deadline(t))
	require.NoError(t, err)
	require.EqualValues(t, 3, status.ServiceCount)
	require.EqualValues(t, 1, s.accepted.Load())
}

// largeWrites tells when a large frame begins to be written.
type largeWrites struct {
	net.Conn
	begun chan struct{}
}

func (c largeWrites) Write(p []byte) (int, error) {
	if len(p) > 1<<20 {
		close(c.begun)
	}
	return c.Conn.Write(p)
}

func TestACallGivenUpInTheMiddleOfAFrameLeavesTheFrameWhole(t *testing.T) {
	read := make(chan struct{})
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		if _, tick := f.Request.(wire.NATTick); tick {
			<-read // and until then the socket fills up
		}
		ok(s, f)
	}, wire.Pipelining))
	begun := make(chan struct{})
	c, err := dial(deadline(t), Config{Endpoint: s.path}, func(ctx context.Context, endpoint string) (net.Conn, error) {
		nc, err := dialEndpoint(ctx, endpoint)
		return largeWrites{nc, begun}, err
	})
	require.NoError(t, err)
	defer c.Close()
	var tick sync.WaitGroup
	tick.Go(func() { require.NoError(t, c.NATTick(deadline(t))) })
	ctx, cancel := context.WithCancel(t.Context())
	tick.Go(func() {
		<-begun
		cancel()
	})
	_, err = c.SetPeers(ctx, make([]wire.PeerSpec, 15_000), nil)
	require.ErrorIs(t, err, context.Canceled)
	close(read)
	tick.Wait()
	_, err = c.Status(deadline(t))
	require.NoError(t, err)
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestRequestsGoSideBySideIfTheDaemonOffersIt(t *testing.T) {
	const n = 16
	var held []wire.RequestFrame
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		if held = append(held, f); len(held) < n {
			return
		}
		for i := range held { // the last first
			f := held[n-1-i]
			s.reply(f, wire.Pong{IP: f.Request.(wire.Ping).IP})
		}
	}, wire.Pipelining))
	c := connected(t, s)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			ip := addr(fmt.Sprintf("10.0.0.%d", i))
			pong, err := c.Ping(deadline(t), ip)
			if err != nil || pong.IP != ip {
				t.Errorf("ping %v: %v, %v", ip, pong, err)
			}
		})
	}
	calls.Wait()
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestRequestsGoOneByOneIfItDoesNot(t *testing.T) {
	var out atomic.Int64
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		if out.Add(1) > 1 {
			t.Error("a second request came before the answer to the first")
		}
		go func() {
			time.Sleep(time.Millisecond)
			out.Add(-1)
			ok(s, f)
		}()
	}))
	c := connected(t, s)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 4 {
				if _, err := c.Status(deadline(t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
}

func TestManyCallersSurviveConnectionsThatBreak(t *testing.T) {
	for _, features := range [][]string{nil, {wire.Pipelining}} {
		t.Run(strings.Join(append(features, "calls"), " "), func(t *testing.T) {
			var asked atomic.Int64
			s := start(t, greeted(func(s *session, f wire.RequestFrame) {
				if asked.Add(1)%50 == 0 {
					s.Close()
					return
				}
				p, isPing := f.Request.(wire.Ping)
				if !isPing {
					ok(s, f)
					return
				}
				s.reply(f, wire.Pong{IP: p.IP})
			}, features...))
			c := connected(t, s)
			var calls sync.WaitGroup
			var answered, lost atomic.Int64
			for i := range 16 {
				calls.Go(func() {
					ip := addr(fmt.Sprintf("10.0.0.%d", i))
					for range 40 {
						pong, err := c.Ping(deadline(t), ip)
						switch {
						case err != nil:
							require.ErrorIs(t, err, ErrLost)
							lost.Add(1)
						case pong.IP != ip:
							t.Errorf("%v got the answer for %v", ip, pong.IP)
						default:
							answered.Add(1)
						}
					}
				})
			}
			calls.Wait()
			require.EqualValues(t, 640, answered.Load()+lost.Load())
			require.Greater(t, answered.Load(), int64(500))
			require.Greater(t, s.accepted.Load(), int64(10))
		})
	}
}

func TestCloseEndsTheCallsUnderWay(t *testing.T) {
	entered := make(chan struct{})
	s := start(t, greeted(func(*session, wire.RequestFrame) { close(entered) }))
	c := connected(t, s)
	var call sync.WaitGroup
	call.Go(func() {
		_, err := c.Status(deadline(t))
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, ErrLost)
		require.EqualError(t, err, "overlayd: status: the client is closed: use of closed network connection")
	})
	<-entered
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	call.Wait()
	_, err := c.Status(deadline(t))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = c.Events(deadline(t))
	require.ErrorIs(t, err, net.ErrClosed)
}

// FuzzAnswers has the daemon answer with any bytes, after hello or instead of it.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(framed(`{"frame":"response","id":2,"response":{"result":"status","peer_count":1,"service_count":0}}`)), true)
	f.Add([]byte(framed(`{"frame":"response","id":1,"response":{"result":"hello","version":1,"boot_id":"b","build":"v","platform":"p","mode":"tun"}}`)), false)
	f.Add([]byte(framed(`{"frame":"response","id":1,"response":{"result":"err","message":"unknown"}}`)+
		framed(`{"frame":"response","id":2,"response":{"result":"err","message":"m","code":"not_found"}}`)), false)
	f.Add([]byte(framed(`{"frame":"response","id":0,"response":{"result":"err","message":"full","code":"overloaded"}}`)), true)
	f.Add([]byte(framed(`{"frame":"response","id":2,"response":{"result":"bogus"}}`)), true)
	f.Add([]byte(framed(`{"frame":"event","event":"bogus"}`)+"\x05\x00\x00\x00{"), true)
	f.Add([]byte("\xff\xff\xff\xff"), true)
	f.Fuzz(func(t *testing.T, stream []byte, greet bool) {
		synctest.Test(t, func(t *testing.T) {
			dialer := func(context.Context, string) (net.Conn, error) {
				here, there := net.Pipe()
				go serve(t, there, func(s *session, f wire.RequestFrame) {
					if _, hello := f.Request.(wire.HelloRequest); hello && greet {
						s.reply(f, greeting("b"))
						return
					}
					s.raw(string(stream))
					s.Close()
				})
				return here, nil
			}
			c, err := dial(t.Context(), Config{Endpoint: "/fuzz", Attempts: -1}, dialer)
			if err != nil {
				return
			}
			_, err = c.Status(t.Context())
			if err != nil {
				require.NotEmpty(t, err.Error())
			}
			require.NoError(t, c.Close())
		})
	})
}
