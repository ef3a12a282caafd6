// Package server is the daemon's end of its socket: who may connect, how frames
// come and go, and what becomes of clients that are slow, silent or hostile. What
// requests mean is the handler's.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A Config is what a server is made from.
type Config struct {
	// Handle does what a request asks, and returns its result or an error; see
	// Reply for how an error is told. Calls of several connections, and with
	// pipelining of one, run at once. ctx ends with the server, not with the
	// connection: what was begun is done. It is never called with HelloRequest,
	// SubscribeEvents or Shutdown.
	Handle func(ctx context.Context, req wire.Request) (wire.Response, error)
	// Hello is what the server says of itself; the version and features are the
	// server's own.
	Hello func() wire.Hello
	// Shutdown is called, once, when a client asked for the end and was answered.
	Shutdown func()
	// Reply makes an error of Handle the client's.
	Reply func(error) wire.Err

	// Group may use the socket besides the daemon's own user and root; "": nobody.
	Group  string
	Logger *slog.Logger
}

// A Server answers clients. Safe for use by several goroutines.
type Server struct{}

// New makes a server that listens nowhere yet.
func New(c Config) *Server { return &Server{} }

// Listen makes the endpoint, private from its first moment on. One that a daemon
// answers at is refused, and a stale one replaced.
func (s *Server) Listen(endpoint string) (net.Listener, error) { return nil, errors.ErrUnsupported }

// Serve answers the clients of a listener, which the server closes in the end,
// until Shutdown or Close.
func (s *Server) Serve(l net.Listener) error { return errors.ErrUnsupported }

// Publish sends an event to those who asked for it. It never waits: who does not
// read is disconnected.
func (s *Server) Publish(e wire.Event) {}

// Stats is what was counted since the start.
func (s *Server) Stats() Stats { return Stats{} }

// Stats counts connections and requests.
type Stats struct {
	Connections uint64 // accepted
	Open        int
	Refused     uint64            // by credentials, or because there were too many
	Requests    map[string]uint64 // by op
	Failures    map[wire.Code]uint64
	InFlight    int
	Ignored     uint64 // frames a client has no business to send
	Garbage     uint64 // frames that were none
	Slow        uint64 // clients cut off because they did not read
}

// Shutdown lets what was begun come to its end, or ctx, and then closes every
// connection and listener.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// Close is Shutdown without patience.
func (s *Server) Close() error { return nil }
