package client

import (
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/overlayd/overlayd/daemon/wire"
)

// How many attempts are made to reach a daemon: many if it may be about to start,
// few if it ought to be there.
const (
	Patient   = 20 // about 17 seconds
	Impatient = 6  // about 3 seconds
)

// A Config says how to reach a daemon. Its zero value is the default.
type Config struct {
	// Endpoint is a socket's path, or a pipe's name on Windows. Default:
	// DefaultEndpoint.
	Endpoint string

	// Attempts is how often to try to connect before giving up, each time, with
	// pauses in between that begin at 100 ms and double up to a second. Default:
	// Patient. Negative: once.
	Attempts int

	// Name is what the daemon's log calls this client. Default: the program's
	// name.
	Name string

	// Restarted is called when a new connection finds another daemon than the one
	// before, which is how one that was started anew shows, with the boot ids of
	// both. Calls are not held up for it. It may call the client, but not Close.
	// Default: nobody is told.
	Restarted func(before, now string)
}

// check is the config with its defaults.
func (cfg Config) check() (Config, error) {
	if cfg.Endpoint == "" {
		endpoint, err := DefaultEndpoint()
		if err != nil {
			return cfg, err
		}
		cfg.Endpoint = endpoint
	}
	if err := CheckEndpoint(cfg.Endpoint); err != nil {
		return cfg, err
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = Patient
	}
	cfg.Attempts = max(cfg.Attempts, 1)
	if cfg.Name == "" && len(os.Args) > 0 {
		cfg.Name = filepath.Base(os.Args[0])
	}
	return cfg, nil
}

// A Client is connected to a daemon. Its methods may be used by several
// goroutines at once.
type Client struct {
	cfg     Config
	dial    func(ctx context.Context, endpoint string) (net.Conn, error)
	bounded func(context.Context) (context.Context, context.CancelFunc) // also by Close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // protects all that follows
	closed   bool
	conns    map[*conn]struct{} // all that live
	conn     *conn              // the newest; may be lost
	attempt  *attempt           // nil: none is under way
	trouble  error              // why the last attempt failed; nil: it did not
	boot     string             // of the daemon connected to last
	restarts [][2]string        // not reported yet
	telling  bool               // a goroutine is reporting them
}

// An attempt to connect is one for all who wait for it.
type attempt struct {
	done chan struct{}
	conn *conn
	err  error
}

// Dial connects to a daemon. ctx bounds the dialing alone. The error matches
// ErrUnreachable if no attempt succeeded.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	return dial(ctx, cfg, dialEndpoint)
}

func dial(ctx context.Context, cfg Config, by func(context.Context, string) (net.Conn, error)) (*Client, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	c := &Client{cfg: cfg, dial: by, stop: stop, conns: make(map[*conn]struct{})}
	c.bounded = func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		release := context.AfterFunc(life, func() { cancel(errClosed) })
		return ctx, func() { release(); cancel(nil) }
	}
	if _, err := c.connection(ctx); err != nil {
		c.Close() //nolint:errcheck // it has no connection to lose
		return nil, failed("connecting to "+cfg.Endpoint, err)
	}
	return c, nil
}

// Close ends the client: calls under way and iterations over events return an
// error that is net.ErrClosed, as later ones do. It is idempotent, and returns
// when all the client's goroutines have ended. The error is always nil.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	conns := slices.Collect(maps.Keys(c.conns))
	c.mu.Unlock()
	c.stop()
	for _, conn := range conns {
		conn.fail(errClosed)
	}
	c.running.Wait()
	return nil
}

// Hello is what the daemon said of itself on the newest connection, and whether it
// said anything: one without extensions does not.
func (c *Client) Hello() (wire.Hello, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return wire.Hello{}, false
	}
	return c.conn.hello, c.conn.extended()
}

// Call sends any request and returns what answers it, which is never an Err. The
// methods named after the operations are easier to use.
func (c *Client) Call(ctx context.Context, r wire.Request) (wire.Response, error) {
	for again := false; ; again = true {
		conn, err := c.connection(ctx)
		if err != nil {
			return nil, failed(r.Op(), err)
		}
		if wire.IsExtension(r) && !conn.extended() {
			return nil, unknownOp(r)
		}
		res, sent, err := conn.call(ctx, r)
		if err == nil {
			return res, nil
		}
		if again || !hungUp(err) || sent && !asks(r) {
			return nil, failed(r.Op(), err)
		}
	}
}

// unknownOp is the refusal of an operation on behalf of a daemon that might hang
// up on it, and with it on all the calls beside it.
func unknownOp(r wire.Request) *Error {
	return &Error{Op: r.Op(), Code: wire.UnknownOp, Message: "this daemon has none of the contract's extensions"}
}

// asks reports whether a request changes nothing, so that it may be sent twice.
func asks(r wire.Request) bool {
	switch r.(type) {
	case wire.StatusRequest, wire.ListAttachments, wire.ListServices, wire.ListLeases, wire.ListPeers, wire.ListDNS,
		wire.ListPorts, wire.Resolve, wire.Explain, wire.Ping:
		return true
	}
	return false
}
