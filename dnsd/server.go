package dnsd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Config is what a server is made from. The zero value refuses every query.
type Config struct {
	// Zones the server is authoritative for. Where one lies within another, the
	// inner one answers.
	Zones []*Zone
	// Logger hears of sockets that fail. Default: nobody.
	Logger *slog.Logger
}

// A Server answers queries. Safe for use by several goroutines.
type Server struct {
	zones  []*Zone
	logger *slog.Logger

	ctx  context.Context // ends with the server
	stop context.CancelFunc
	wg   sync.WaitGroup // every goroutine

	mu      sync.Mutex // protects closed and sockets
	closed  bool
	sockets map[io.Closer]struct{}
}

// New makes a server that runs, but listens nowhere yet.
func New(cfg Config) (*Server, error) {
	s := &Server{
		zones:   append([]*Zone(nil), cfg.Zones...),
		logger:  cfg.Logger,
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
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Close closes every socket and listener, gives up the queries that are being
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

// adopt makes c the server's to close, and runs serve in a goroutine of the
// server. done is closed when that has ended.
func (s *Server) adopt(c io.Closer, addr net.Addr, serve func()) (done <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return nil, fmt.Errorf("dnsd: serve %v: the server is closed: %w", addr, net.ErrClosed)
	}
	s.sockets[c] = struct{}{}
	ended := make(chan struct{})
	s.wg.Go(func() {
		defer close(ended)
		serve()
		c.Close()
		s.mu.Lock()
		delete(s.sockets, c)
		s.mu.Unlock()
	})
	return ended, nil
}
