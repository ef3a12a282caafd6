package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func TestAttemptsPauseAsTheContractSays(t *testing.T) {
	tests := []struct {
		name     string
		attempts int
		pauses   []int // ms
	}{
		{"patient, which is the default", 0, append([]int{100, 200, 400, 800}, repeat(1000, 15)...)},
		{"impatient", Impatient, []int{100, 200, 400, 800, 1000}},
		{"twice", 2, []int{100}},
		{"once, which never sleeps", 1, nil},
		{"less than once is once", -3, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Time
				began := time.Now()
				_, err := dial(t.Context(), Config{Endpoint: "/run/x.sock", Attempts: test.attempts}, func(context.Context, string) (net.Conn, error) {
					at = append(at, time.Now())
					return nil, syscall.ECONNREFUSED
				})
				require.ErrorIs(t, err, ErrUnreachable)
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				require.Equal(t, began, at[0])
				var pauses []int
				for i := 1; i < len(at); i++ {
					pauses = append(pauses, int(at[i].Sub(at[i-1]).Milliseconds()))
				}
				require.Equal(t, test.pauses, pauses)
				require.Equal(t, at[len(at)-1], time.Now(), "slept after the last attempt")
			})
		})
	}
}

func repeat(n, times int) (all []int) {
	for range times {
		all = append(all, n)
	}
	return all
}

func TestDialTellsWhatWentWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := Dial(t.Context(), Config{Endpoint: path, Attempts: 1})
	require.EqualError(t, err, "overlayd: connecting to "+path+": no daemon answers (attempts: 1): dial unix "+path+": connect: no such file or directory")
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorIs(t, err, fs.ErrNotExist)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, Config{Endpoint: path})
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, fs.ErrNotExist)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = Dial(ctx, Config{Endpoint: path})
	require.ErrorIs(t, err, context.Canceled)

	_, err = Dial(t.Context(), Config{Endpoint: `\\.\pipe\overlayd`})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = Dial(t.Context(), Config{Endpoint: "/" + strings.Repeat("x", 103)})
	require.ErrorContains(t, err, "has 104 bytes, and a system takes at most 103: use a shorter one")
}

func TestADaemonThatIsLateIsWaitedFor(t *testing.T) {
	s := start(t, greeted(ok))
	s.stop()
	var calls sync.WaitGroup
	calls.Go(func() {
		c, err := Dial(deadline(t), Config{Endpoint: s.path})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	})
	s.listen()
	calls.Wait()
}

func TestADaemonWithoutExtensionsWorks(t *testing.T) {
	for name, toHello := range map[string]func(*session, wire.RequestFrame){
		"that answers hello with an error": func(s *session, f wire.RequestFrame) { s.reply(f, wire.Err{Message: "unknown op"}) },
		"that knows codes, but not hello": func(s *session, f wire.RequestFrame) {
			s.reply(f, wire.Err{Message: "unknown op", Code: wire.UnknownOp})
		},
		"that has lost the id": func(s *session, _ wire.RequestFrame) {
			s.send(wire.ResponseFrame{Response: wire.Err{Message: "bad frame"}})
		},
		"that hangs up on hello":              func(s *session, _ wire.RequestFrame) { s.Close() },
		"that hangs up on hello half way out": func(s *session, _ wire.RequestFrame) { s.raw("\x36\x00"); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(s *session, f wire.RequestFrame) {
				switch {
				case f.Request.Op() == "hello":
					toHello(s, f)
				case wire.IsExtension(f.Request):
					t.Errorf("was sent %s", f.Request.Op())
				default:
					ok(s, f)
				}
			})
			c := connected(t, s)
			status, err := c.Status(deadline(t))
			require.NoError(t, err)
			require.EqualValues(t, 3, status.ServiceCount)
			_, known := c.Hello()
			require.False(t, known)

			_, err = c.ListServices(deadline(t))
			require.ErrorIs(t, err, ErrUnknownOp)
			require.EqualError(t, err, "overlayd: list_services: this daemon has none of the contract's extensions (unknown_op)")
			_, err = c.Events(deadline(t))
			require.ErrorIs(t, err, ErrUnknownOp)
			_, err = c.Status(deadline(t))
			require.NoError(t, err)
		})
	}
}

func TestADaemonReplacedInTheMiddleOfHelloIsGreetedAgain(t *testing.T) {
	var asked atomic.Int64
	s := start(t, func(s *session, f wire.RequestFrame) {
		if asked.Add(1) == 1 {
			s.Close()
			return
		}
		ok(s, f)
	})
	c := connectedAs(t, Config{Endpoint: s.path, Attempts: 1})
	_, known := c.Hello()
	require.True(t, known)
}

func TestADaemonThatTurnsTheClientAwayIsNotAskedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		answer wire.Response
		says   string
	}{
		"not allowed":     {wire.Err{Message: "you are not in the group overlayd", Code: wire.Permission}, "you are not in the group overlayd (permission)"},
		"no such version": {func() wire.Response { h := greeting("b"); h.Version = 2; return h }(), "no daemon answers (attempts: 1): the daemon does not keep to the contract: it speaks version 2, and this client version 1"},
		"nonsense":        {wire.OK{}, "no daemon answers (attempts: 1): the daemon does not keep to the contract: it answered hello with ok"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(s *session, f wire.RequestFrame) { s.reply(f, test.answer) })
			_, err := Dial(deadline(t), Config{Endpoint: s.path, Attempts: 1})
			require.EqualError(t, err, "overlayd: connecting to "+s.path+": "+test.says)
			require.EqualValues(t, 1, s.accepted.Load())
		})
	}
	s := start(t, func(s *session, f wire.RequestFrame) {
		s.reply(f, wire.Err{Message: "no", Code: wire.Permission})
	})
	_, err := Dial(deadline(t), Config{Endpoint: s.path})
	require.ErrorIs(t, err, ErrPermission)
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestADaemonThatIsFullIsAskedAgain(t *testing.T) {
	var asked atomic.Int64
	s := start(t, func(s *session, f wire.RequestFrame) {
		if asked.Add(1) == 1 {
			s.send(wire.ResponseFrame{Response: wire.Err{Message: "full", Code: wire.Overloaded, Retryable: true}})
			s.Close()
			return
		}
		ok(s, f)
	})
	connected(t, s)
	require.EqualValues(t, 2, s.accepted.Load())
}

func TestADaemonThatTakesTheConnectionAndSaysNothingIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var there []net.Conn
		_, err := dial(t.Context(), Config{Endpoint: "/s", Attempts: 2}, func(context.Context, string) (net.Conn, error) {
			here, other := net.Pipe()
			there = append(there, other)
			go func() {
				for buf := make([]byte, 4096); ; {
					if _, err := other.Read(buf); err != nil {
						return
					}
				}
			}()
			return here, nil
		})
		require.ErrorIs(t, err, ErrUnreachable)
		require.ErrorContains(t, err, "it took the connection, but did not answer within 5s")
		require.Equal(t, 2*helloTimeout+firstPause, time.Since(began))
		require.Len(t, there, 2)
	})
}

func TestHelloTellsWhoAnswers(t *testing.T) {
	var said wire.HelloRequest
	s := start(t, func(s *session, f wire.RequestFrame) {
		said = f.Request.(wire.HelloRequest)
		ok(s, f)
	})
	c := connectedAs(t, Config{Endpoint: s.path, Name: "tester"})
	require.Equal(t, wire.HelloRequest{Client: "tester", Versions: []uint32{1}, Features: []string{"pipelining"}}, said)
	h, known := c.Hello()
	require.True(t, known)
	require.Equal(t, greeting("boot-1"), h)
}

func TestAnotherDaemonAfterTheConnectionWasLostIsReported(t *testing.T) {
	var boot atomic.Value
	boot.Store("a")
	s := start(t, func(s *session, f wire.RequestFrame) {
		if f.Request.Op() == "hello" {
			s.reply(f, greeting(boot.Load().(string)))
			return
		}
		ok(s, f)
	})
	type report struct{ before, now string }
	reports := make(chan report)
	var c *Client
	c = connectedAs(t, Config{Endpoint: s.path, Restarted: func(before, now string) {
		_, err := c.Status(context.Background()) // a callback may call
		require.NoError(t, err)
		reports <- report{before, now}
	}})

	again := func(id string) {
		s.stop()
		boot.Store(id)
		s.listen()
		require.Eventually(t, func() bool { _, err := c.Status(deadline(t)); return err == nil }, 30*time.Second, time.Millisecond)
	}
	again("a") // the connection is new, the daemon is not
	again("b")
	require.Equal(t, report{"a", "b"}, <-reports)
	again("c")
	require.Equal(t, report{"b", "c"}, <-reports)
	h, _ := c.Hello()
	require.Equal(t, "c", h.BootID)
}

func TestCallersThatWaitForADaemonShareTheAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled int
		var daemon net.Conn
		c, err := dial(t.Context(), Config{Endpoint: "/s", Attempts: 3}, func(context.Context, string) (net.Conn, error) {
			if dialled++; dialled > 1 {
				return nil, syscall.ECONNREFUSED
			}
			here, there := net.Pipe()
			daemon = there
			go serve(t, there, greeted(ok))
			return here, nil
		})
		require.NoError(t, err)
		defer c.Close()
		daemon.Close()
		synctest.Wait()
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() {
				require.ErrorIs(t, c.NATTick(t.Context()), ErrUnreachable)
			})
		}
		calls.Wait()
		require.Equal(t, 1+3, dialled)
	})
}

func TestEndpointsAreWhereTheContractHasThem(t *testing.T) {
	require.Equal(t, filepath.Join("/data", "run", "overlayd.sock"), DataDirEndpoint("/data"))
	require.NoError(t, CheckEndpoint("/"+strings.Repeat("x", 102)))
	require.NoError(t, CheckEndpoint(`\\.\pipe\`+strings.Repeat("x", 200)))
	require.Error(t, CheckEndpoint("/"+strings.Repeat("x", 103)))
	require.Error(t, CheckEndpoint(""))
	require.Error(t, CheckEndpoint("/a\x00b"))
	require.ErrorContains(t, CheckEndpoint("/"+strings.Repeat("x", 103)), "104 bytes")
}

func TestTheProgramsNameIsTheClients(t *testing.T) {
	cfg, err := Config{Endpoint: "/s"}.check()
	require.NoError(t, err)
	require.Equal(t, Config{Endpoint: "/s", Attempts: Patient, Name: filepath.Base(os.Args[0])}, cfg)
}
