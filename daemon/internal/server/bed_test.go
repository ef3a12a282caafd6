package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

// A bed is a server under test, on a socket of its own.
type bed struct {
	*Server
	t      testing.TB
	path   string
	log    *logs
	served chan error
}

// logs is what was logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type handler = func(ctx context.Context, r wire.Request) (wire.Response, error)

// start runs a server with a handler, which nil is one that says OK, and limits if
// there are.
func start(t testing.TB, h handler, limit ...func(*limits)) *bed {
	t.Helper()
	return startWith(t, Config{Handle: h}, limit...)
}

func startWith(t testing.TB, c Config, limit ...func(*limits)) *bed {
	t.Helper()
	return startAt(t, filepath.Join(t.TempDir(), "s"), c, limit...)
}

func startAt(t testing.TB, path string, c Config, limit ...func(*limits)) *bed {
	t.Helper()
	if c.Handle == nil {
		c.Handle = func(context.Context, wire.Request) (wire.Response, error) { return wire.OK{}, nil }
	}
	log := &logs{}
	c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := &bed{Server: New(c), t: t, path: path, log: log, served: make(chan error, 1)}
	l := defaultLimits
	for _, change := range limit {
		change(&l)
	}
	b.limit(l)
	listener, err := b.Listen(b.path)
	require.NoError(t, err)
	go func() { b.served <- b.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		require.NoError(t, <-b.served)
		require.Zero(t, b.requests.count())
		require.Zero(t, b.connections.count())
		require.Empty(t, b.large[true])
	})
	return b
}

// dial is a client of package client.
func (b *bed) dial() *client.Client {
	b.t.Helper()
	c, err := client.Dial(b.t.Context(), client.Config{Endpoint: b.path, Attempts: -1})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { c.Close() })
	return c
}

// A raw is a client that says what a test tells it to.
type raw struct {
	net.Conn
	t testing.TB
}

func (b *bed) raw() *raw {
	b.t.Helper()
	nc, err := net.Dial("unix", b.path)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { nc.Close() })
	require.NoError(b.t, nc.SetDeadline(time.Now().Add(2*time.Minute)))
	return &raw{nc, b.t}
}

// body is a frame with any body.
func body(text string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func request(id uint64, r wire.Request) []byte {
	b, err := wire.AppendFrame(nil, wire.RequestFrame{ID: id, Request: r})
	if err != nil {
		panic(err)
	}
	return b
}

func (r *raw) send(b []byte) {
	r.t.Helper()
	_, err := r.Write(b)
	require.NoError(r.t, err)
}

// next reads a frame.
func (r *raw) next() (wire.Frame, error) {
	b, err := wire.ReadFrame(r, nil)
	if err != nil {
		return nil, err
	}
	return wire.Decode(b)
}

// response reads a response.
func (r *raw) response() (id uint64, res wire.Response) {
	r.t.Helper()
	f, err := r.next()
	require.NoError(r.t, err)
	require.IsType(r.t, wire.ResponseFrame{}, f)
	return f.(wire.ResponseFrame).ID, f.(wire.ResponseFrame).Response
}

// refused reads a response that is an error.
func (r *raw) refused() (id uint64, e wire.Err) {
	r.t.Helper()
	id, res := r.response()
	require.IsType(r.t, wire.Err{}, res)
	return id, res.(wire.Err)
}

// ended checks that the server has closed the connection.
func (r *raw) ended() {
	r.t.Helper()
	_, err := r.Read(make([]byte, 1))
	require.Error(r.t, err)
	var late net.Error
	require.False(r.t, errors.As(err, &late) && late.Timeout(), "it is still open")
}

func (r *raw) call(id uint64, q wire.Request) wire.Response {
	r.t.Helper()
	r.send(request(id, q))
	got, res := r.response()
	require.Equal(r.t, id, got)
	return res
}

func (r *raw) pipeline() {
	r.t.Helper()
	res := r.call(1, wire.HelloRequest{Client: "test", Versions: []uint32{wire.Version}, Features: []string{wire.Pipelining}})
	require.Equal(r.t, []string{wire.Pipelining}, res.(wire.Hello).Features)
}

// soon waits for something to come true.
func soon(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "it does not come true that %s", what)
	}
}

var prefix = netip.MustParsePrefix
