package dnsd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is what a server is made from. The zero value refuses every query.
type Config struct {
	// Zones the server is authoritative for. Where one lies within another, the
	// inner one answers.
	Zones []*Zone
	// Forward says where other queries go. nil: they are refused.
	Forward *Forward

	// Ask holds the sources that may ask at all. nil: all.
	Ask []netip.Prefix
	// Recurse holds the sources whose queries are forwarded. nil: loopback,
	// private and link-local addresses, and those shared by RFC 6598.
	Recurse []netip.Prefix
	// RatePerSource is how many queries a second one address may ask; more are
	// dropped. Default 20,000; negative: any number.
	RatePerSource int
	// MaxInFlight is how many queries may wait for an upstream, or be worked on
	// otherwise than at once; one source has at most a quarter. More are answered
	// with SERVFAIL. Default 1,024.
	MaxInFlight int
	// MaxStreams is how many TCP connections there may be, of one source a quarter
	// at most. At the limit the one idle for longest makes room. Default 1,024.
	MaxStreams int

	// Logger hears of sockets and upstreams that fail. Default: nobody.
	Logger *slog.Logger
	// QueryLog hears of one query in QueryLogEvery (default: each). Default:
	// nobody.
	QueryLog      *slog.Logger
	QueryLogEvery int
}

// A Server answers queries. Safe for use by several goroutines.
type Server struct {
	zones    []*Zone
	forward  *forwarder // nil: there is none
	ask      sources
	recurse  sources
	rate     *rateLimit
	inFlight *inFlight
	streams  *streams
	logger   *slog.Logger
	queryLog *queryLog // nil: there is none
	counters counters
	epoch    time.Time // the server's clock starts here
	self     self

	lifetime

	mu      sync.Mutex // protects closed and sockets
	closed  bool
	sockets map[io.Closer]struct{}
}

// A lifetime is that of a server and of every goroutine it starts.
type lifetime struct {
	ctx  context.Context // ends with the server
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// New makes a server that runs, but listens nowhere yet. The error says which
// field is wrong.
func New(cfg Config) (*Server, error) {
	s := &Server{
		zones:   append([]*Zone(nil), cfg.Zones...),
		logger:  cfg.Logger,
		epoch:   time.Now(),
		sockets: make(map[io.Closer]struct{}),
	}
	for i, z := range s.zones {
		if z == nil {
			return nil, fmt.Errorf("dnsd: zone %d is nil", i)
		}
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Recurse == nil {
		cfg.Recurse = privateSources
	}
	var err error
	if s.ask, err = newSources(cfg.Ask); err != nil {
		return nil, err
	}
	if s.recurse, err = newSources(cfg.Recurse); err != nil {
		return nil, err
	}
	s.rate = newRateLimit(orDefault(cfg.RatePerSource, 20_000))
	s.inFlight = newInFlight(orDefault(max(cfg.MaxInFlight, 0), 1024))
	s.streams = newStreams(orDefault(max(cfg.MaxStreams, 0), 1024))
	s.ctx, s.stop = context.WithCancel(context.Background())
	if cfg.Forward != nil {
		if s.forward, err = newForwarder(s, cfg.Forward, 2*s.inFlight.max); err != nil {
			s.stop()
			return nil, err
		}
		s.wg.Go(s.forward.renewals)
	}
	if cfg.QueryLog != nil {
		s.queryLog = newQueryLog(cfg.QueryLog, cfg.QueryLogEvery)
		s.wg.Go(func() { s.queryLog.run(s.ctx) })
	}
	return s, nil
}

func orDefault(n, zero int) int {
	if n == 0 {
		return zero
	}
	return n
}

// clock is the time in ns since the server was made.
func (s *Server) clock() int64 { return int64(time.Since(s.epoch)) }

// Close closes every socket and connection, gives up the queries that are being
// worked on, and returns when nothing of the server runs any more. It is
// idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.sockets {
		c.Close()
	}
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	return nil
}

// ServePacket starts to answer the datagrams of a socket, such as a UDP one of
// the kernel or of a stack in the process, and returns. The server closes conn,
// at the latest when it is closed; closing conn oneself ends the service.
func (s *Server) ServePacket(conn net.PacketConn) error {
	_, err := s.adopt(conn, conn.LocalAddr(), func() { s.readPackets(conn) })
	return err
}

// ServeStream starts to answer the connections of a listener, such as a TCP one
// of the kernel or of a stack in the process, and returns. The server closes
// listener, at the latest when it is closed; closing it oneself ends the service
// and leaves the connections there are.
func (s *Server) ServeStream(listener net.Listener) error {
	_, err := s.adopt(listener, listener.Addr(), func() { s.acceptStreams(listener) })
	return err
}

// adopt makes c, which listens on addr, the server's to close, and runs serve in
// a goroutine of the server. done is closed when that has ended.
func (s *Server) adopt(c io.Closer, addr net.Addr, serve func()) (done <-chan struct{}, err error) {
	listens := addrPort(addr)
	s.self.add(listens)
	ended := make(chan struct{})
	err = s.run(c, func() {
		defer close(ended)
		serve()
		s.self.remove(listens)
	})
	if err != nil {
		s.self.remove(listens)
		return nil, fmt.Errorf("dnsd: serve %v: %w", addr, err)
	}
	return ended, nil
}

// run calls serve in a goroutine, closes c when it returns, and makes Close close
// it before.
func (s *Server) run(c io.Closer, serve func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return fmt.Errorf("the server is closed: %w", net.ErrClosed)
	}
	s.sockets[c] = struct{}{}
	s.wg.Go(func() {
		serve()
		c.Close()
		s.mu.Lock()
		delete(s.sockets, c)
		s.mu.Unlock()
	})
	return nil
}

// match finds what answers for a name among the zones: that of the longest apex,
// unless a route of the forwarder is longer still.
func (s *Server) match(n *name) (snap *snapshot, o *owner, zone string) {
	for _, z := range s.zones {
		now := z.now.Load()
		if found, apex := now.match(n); len(apex) > len(zone) {
			snap, o, zone = now, found, apex
		}
	}
	if zone != "" && s.forward != nil {
		for i := range s.forward.routes {
			if d := s.forward.routes[i].domain; len(d) > len(zone) && n.within(d) {
				return nil, nil, ""
			}
		}
	}
	return snap, o, zone
}
