// Package server is the daemon's end of its socket: who may connect, how frames
// come and go, and what becomes of clients that are slow, silent or hostile. What
// requests mean is the handler's.
//
// A client costs a goroutine, a second one if it asked for events, and one for each
// request that is under way beside others. Everything it can make grow is bounded:
// see limits.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A Config is what a server is made from.
type Config struct {
	// Handle does what a request asks, and returns its result or an error; see
	// Reply for how an error is told. Calls of several connections, and with
	// pipelining of one, run at once. ctx ends with the server, not with the
	// connection: what was begun is done. It is never called with HelloRequest,
	// SubscribeEvents or Shutdown. A panic in it is logged, and answered Internal.
	Handle func(ctx context.Context, req wire.Request) (wire.Response, error)
	// Hello is what the server says of itself; the version and features are the
	// server's own.
	Hello func() wire.Hello
	// Shutdown is called, once, when a client asked for the end and was answered. It
	// must not wait for the server to end. Default: nobody is told.
	Shutdown func()
	// Reply makes an error of Handle the client's. Default: its text, with the
	// wire.Code it wraps or Internal.
	Reply func(error) wire.Err

	// Group may use the socket besides the daemon's own user and root; "": nobody.
	Group string
	// Logger. Default: slog.Default().
	Logger *slog.Logger
}

// limits are what the clients of a server can make it bear.
type limits struct {
	connections int           // at once; see quota for those of one user
	requests    int           // under way at once, likewise
	pipelined   int           // of those, of one connection; more are not read
	large       int           // frames of more than largeFrame that are read or under way; half as many of users that are not privileged
	events      int           // that wait to be written to one connection
	frame       time.Duration // within which a frame that began has to end
	write       time.Duration // within which a client has to read what is written to it
}

var defaultLimits = limits{
	connections: 256,
	requests:    1024,
	pipelined:   64, // the requests package client has out at once
	large:       4,
	events:      4096, // enough for what happens when a host's containers all end
	frame:       10 * time.Second,
	write:       10 * time.Second,
}

const (
	largeFrame = 256 << 10 // bytes
	readBuffer = 4 << 10   // bytes, of each connection
	keepBuffer = 64 << 10  // bytes, of the largest buffer kept from one frame to the next
)

// A Server answers clients. Safe for use by several goroutines.
type Server struct {
	config Config
	limits limits
	log    *slog.Logger

	ctx    context.Context // of all calls of Handle
	cancel context.CancelFunc
	asked  sync.Once // for the end, by a client

	connections quota
	requests    quota
	large       map[bool]chan struct{} // by whether the user is privileged: holds a token for each large frame
	counters    counters
	warned      atomic.Int64 // Unix nanoseconds of the last warning about a client

	subscribers struct {
		sync.Mutex
		conns map[*conn]struct{}
	}

	draining chan struct{} // closed when the end has begun

	mu        sync.Mutex // guards all that follows
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	ending    bool // draining is closed
	closed    bool // there will be no more connections
	running   sync.WaitGroup
}

// New makes a server that listens nowhere yet.
func New(c Config) *Server {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Hello == nil {
		c.Hello = func() wire.Hello { return wire.Hello{} }
	}
	if c.Shutdown == nil {
		c.Shutdown = func() {}
	}
	if c.Reply == nil {
		c.Reply = reply
	}
	s := &Server{
		config: c, log: c.Logger, draining: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.subscribers.conns = make(map[*conn]struct{})
	s.counters.init()
	s.limit(defaultLimits)
	return s
}

// limit sets the limits, before there are connections.
func (s *Server) limit(l limits) {
	s.limits = l
	s.connections.max, s.requests.max = l.connections, l.requests
	s.large = map[bool]chan struct{}{true: make(chan struct{}, l.large), false: make(chan struct{}, max(l.large/2, 1))}
}

// reply is an error as a client gets it, if nothing better is known.
func reply(err error) wire.Err {
	e := wire.Err{Message: err.Error(), Code: wire.Internal}
	if code, ok := errors.AsType[wire.Code](err); ok {
		e.Code = code
	}
	return e
}

// Serve answers the clients of a listener, which the server closes in the end,
// until Shutdown or Close, and then returns nil; at once, if that was before. It outlives everything that goes
// wrong with a single connection and whatever a busy system refuses; only when
// somebody else closes the listener it returns an error.
//
// The listener is one of Listen, or a Unix socket the daemon was started with.
func (s *Server) Serve(l net.Listener) error {
	allowed := users{group: s.config.Group}
	allowed.gid, allowed.grouped = s.group()
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		l.Close() //nolint:errcheck // it is of no use any more
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		l.Close() //nolint:errcheck // it is of no use any more
	}()

	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = shortest
			s.welcome(nc, allowed)
			continue
		}
		select {
		case <-s.draining:
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("overlayd: somebody closed the socket %s: %w", l.Addr(), err)
		}
		if pause == shortest {
			s.log.Warn("cannot take connections for now, and goes on trying", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-s.draining:
			return nil
		}
		pause = min(2*pause, longest)
	}
}

// welcome begins to serve a connection, or sends it away.
func (s *Server) welcome(nc net.Conn, allowed users) {
	s.counters.connections.Add(1)
	p, err := allowed.check(nc)
	if err != nil {
		s.sendAway(nc, p, wire.Err{Message: err.Error(), Code: wire.Permission})
		return
	}
	if !s.connections.take(p) {
		s.sendAway(nc, p, wire.Err{
			Message: "there are too many connections: try again, or close some", Code: wire.Overloaded, Retryable: true,
		})
		return
	}
	c := newConn(s, nc, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.connections.give(p)
		nc.Close() //nolint:errcheck // nothing was said on it
		return
	}
	s.conns[c] = struct{}{}
	s.running.Go(c.serve)
}

// sendAway tells a connection why it ends, if it takes a frame at once.
func (s *Server) sendAway(nc net.Conn, p peer, why wire.Err) {
	defer nc.Close() //nolint:errcheck // it is of no use any more
	s.counters.refused.Add(1)
	s.warn("sent a client away", "reason", why.Message, "uid", p.uid, "pid", p.pid)
	frame, err := wire.AppendFrame(nil, wire.ResponseFrame{Response: why})
	if err != nil {
		return
	}
	const atOnce = 100 * time.Millisecond
	nc.SetWriteDeadline(time.Now().Add(atOnce)) //nolint:errcheck // then it is not told
	nc.Write(frame)                             //nolint:errcheck // likewise
}

// warn logs what a client did, at most once a second: its doing shall not fill the
// log.
func (s *Server) warn(msg string, args ...any) {
	now := time.Now().UnixNano()
	last := s.warned.Load()
	if now-last >= int64(time.Second) && s.warned.CompareAndSwap(last, now) {
		s.log.Warn(msg, args...)
	}
}

// gone forgets a connection.
func (s *Server) gone(c *conn) {
	s.connections.give(c.peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Shutdown takes no more connections and refuses requests from now on, lets what
// was begun come to its end, or ctx, and then closes every connection and listener.
// When ctx ends first so does that of the calls of Handle, and the error is ctx's.
// It returns when all goroutines of the server have ended, calls of Handle
// included.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.ending {
		s.ending = true
		close(s.draining)
	}
	listeners := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close() //nolint:errcheck // it is of no use any more
	}

	var err error
	select {
	case <-s.requests.drain():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// Close is Shutdown without patience. It is idempotent, and always nil.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx) //nolint:errcheck // it says that there was no patience
	return nil
}
