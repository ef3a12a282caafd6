package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A conn is one connection. One goroutine reads its frames and does what they ask,
// or, with pipelining, starts a goroutine for each request.
type conn struct {
	s    *Server
	net  net.Conn
	peer peer

	pipelining bool           // of the reader
	slots      chan struct{}  // holds a token for each request beside others
	running    sync.WaitGroup // those requests

	subscription subscription

	writing sync.Mutex // held by who writes a frame
	out     []byte     // of who writes: the frame
	cut     sync.Once  // for not reading
}

func newConn(s *Server, nc net.Conn, p peer) *conn {
	c := &conn{s: s, net: nc, peer: p}
	c.subscription.wake = make(chan struct{}, 1)
	return c
}

// hangUp ends the connection at once.
func (c *conn) hangUp() { c.net.Close() } //nolint:errcheck // nothing is lost that is not lost already

// serve reads frames until the connection ends, and answers all it read.
func (c *conn) serve() {
	defer c.s.gone(c)
	defer c.hangUp()
	err := c.readAll()
	c.running.Wait()
	if err != nil {
		c.lastWords(err)
	}
	c.unsubscribe()
}

// readAll acts on frames until there are no more. The error is that of reading.
func (c *conn) readAll() error {
	in := bufio.NewReaderSize(c.net, readBuffer)
	var buf []byte
	for {
		body, large, err := c.readFrame(in, buf)
		if err != nil {
			return err
		}
		if !c.receive(body, large) {
			return nil
		}
		if buf = body; cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// readFrame reads a frame. An idle client may take as long as it likes to begin
// one, but not to end it. large tells that a token is held for it.
func (c *conn) readFrame(in *bufio.Reader, buf []byte) (body []byte, large bool, err error) {
	if _, err := in.Peek(1); err != nil {
		return nil, false, err
	}
	const prefix = 4
	size := func() (n int, ok bool) {
		if in.Buffered() < prefix {
			return 0, false
		}
		p, err := in.Peek(prefix)
		return int(binary.LittleEndian.Uint32(p)), err == nil
	}
	if n, ok := size(); !ok || n > in.Buffered()-prefix {
		c.readWithin(c.s.limits.frame)
		defer c.net.SetReadDeadline(time.Time{}) //nolint:errcheck // the next read finds out
		in.Peek(prefix)                          //nolint:errcheck // ReadFrame says it better
		if n, ok = size(); ok && n > largeFrame && n <= wire.MaxFrame {
			// Others may take long, for which this client can do nothing.
			select {
			case c.s.large[c.peer.privileged] <- struct{}{}:
				large = true
			case <-c.s.ctx.Done():
				return nil, false, net.ErrClosed
			}
			c.readWithin(c.s.limits.frame)
		}
	}
	body, err = wire.ReadFrame(in, buf)
	if err != nil && large {
		c.doneLarge(large)
		large = false
	}
	return body, large, err
}

func (c *conn) readWithin(d time.Duration) {
	c.net.SetReadDeadline(time.Now().Add(d)) //nolint:errcheck // the next read finds out
}

// doneLarge gives the token of a large frame back.
func (c *conn) doneLarge(large bool) {
	if large {
		<-c.s.large[c.peer.privileged]
	}
}

// lastWords says why a connection ends at which the framing is lost. Nothing is
// said where nobody can listen any more.
func (c *conn) lastWords(err error) {
	why := wire.Err{Message: err.Error(), Code: wire.InvalidFrame}
	switch {
	case errors.Is(err, wire.FrameTooLarge):
		why.Code = wire.FrameTooLarge
	case timedOut(err):
		why.Code = wire.Timeout
		why.Message = fmt.Sprintf("a frame did not come to its end within %v of its beginning", c.s.limits.frame)
	case errors.Is(err, io.ErrUnexpectedEOF):
	default: // its end, or a connection that broke
		return
	}
	c.s.counters.garbage.Add(1)
	c.reply(0, why)
}

// receive acts on the body of a frame, and reports whether there may be more.
func (c *conn) receive(body []byte, large bool) bool {
	frame, err := wire.Decode(body)
	if err != nil {
		defer c.doneLarge(large)
		return c.refuse(err)
	}
	f, ok := frame.(wire.RequestFrame)
	if !ok {
		c.doneLarge(large)
		c.s.counters.ignored.Add(1)
		return true
	}
	c.s.counters.requests[f.Request.Op()].Add(1)
	if why := c.admit(); why != nil {
		defer c.doneLarge(large)
		if _, ok := f.Request.(wire.Shutdown); ok && why.Code == wire.ShuttingDown {
			c.reply(f.ID, wire.OK{}) // it is what happens
			return false
		}
		return c.reply(f.ID, *why)
	}
	return c.request(f, large)
}

// refuse answers a body that is no frame, or none of the contract's.
func (c *conn) refuse(err error) bool {
	bad, ok := errors.AsType[*wire.DecodeError](err)
	if !ok {
		return c.reply(0, wire.Err{Message: err.Error(), Code: wire.InvalidFrame})
	}
	switch {
	case bad.Frame == "response" || bad.Frame == "event":
		c.s.counters.ignored.Add(1)
		return true
	case bad.Code == wire.InvalidJSON || bad.Code == wire.InvalidFrame:
		c.s.counters.garbage.Add(1)
	}
	r := bad.Reply()
	return c.reply(r.ID, r.Response)
}

// admit takes a request in, or says why not.
func (c *conn) admit() *wire.Err {
	if c.s.requests.take(c.peer) {
		return nil
	}
	select {
	case <-c.s.draining:
		return &wire.Err{Message: "the daemon is about to end", Code: wire.ShuttingDown, Retryable: true}
	default:
		return &wire.Err{Message: "too many requests are under way: try again", Code: wire.Overloaded, Retryable: true}
	}
}

// request does what a request that was admitted asks, now or beside others.
func (c *conn) request(f wire.RequestFrame, large bool) bool {
	finish := func() {
		c.doneLarge(large)
		c.s.requests.give(c.peer)
	}
	switch r := f.Request.(type) {
	case wire.HelloRequest:
		defer finish()
		c.running.Wait() // what comes before it is not subject to it
		return c.reply(f.ID, c.hello(r))
	case wire.SubscribeEvents:
		defer finish()
		return c.subscribe(f.ID, r)
	case wire.Shutdown:
		c.running.Wait()
		ok := c.reply(f.ID, wire.OK{})
		finish()
		if ok {
			c.s.asked.Do(func() {
				c.s.log.Info("a client asks for the end", "uid", c.peer.uid, "pid", c.peer.pid)
				c.s.config.Shutdown()
			})
		}
		return false
	}
	if !c.pipelining {
		defer finish()
		return c.reply(f.ID, c.handle(f.Request))
	}
	c.slots <- struct{}{}
	c.running.Go(func() {
		defer func() { <-c.slots }()
		defer finish()
		c.reply(f.ID, c.handle(f.Request))
	})
	return true
}

// handle has the handler do what a request asks.
func (c *conn) handle(r wire.Request) (res wire.Response) {
	defer func() {
		if p := recover(); p != nil {
			c.s.counters.panics.Add(1)
			c.s.log.Error("a request made the daemon panic", "op", r.Op(), "panic", p, "stack", string(debug.Stack()))
			res = wire.Err{Message: "the daemon failed at this request: its log says where", Code: wire.Internal}
		}
	}()
	res, err := c.s.config.Handle(c.s.ctx, r)
	if err != nil {
		return c.s.config.Reply(err)
	}
	if res == nil {
		return wire.Err{Message: "the daemon has no answer to this request", Code: wire.Internal}
	}
	return res
}

// features are those of the contract that the server has.
var features = []string{wire.Pipelining}

// maxClient is how long a client's name may be, in bytes.
const maxClient = 256

// hello greets a client, and gives it of what it wants what there is.
func (c *conn) hello(r wire.HelloRequest) wire.Response {
	if !slices.Contains(r.Versions, wire.Version) {
		return wire.Err{
			Message: fmt.Sprintf("versions: this daemon speaks version %d of the contract, and the client does not", wire.Version),
			Code:    wire.InvalidRequest, Field: "versions",
		}
	}
	if len(r.Client) > maxClient {
		return wire.Err{
			Message: fmt.Sprintf("client: a name of %d bytes; the most is %d", len(r.Client), maxClient),
			Code:    wire.InvalidRequest, Field: "client",
		}
	}
	h := c.s.config.Hello()
	h.Version, h.Features = wire.Version, nil
	for _, f := range features {
		if slices.Contains(r.Features, f) {
			h.Features = append(h.Features, f)
		}
	}
	c.pipelining = slices.Contains(h.Features, wire.Pipelining)
	if c.pipelining && c.slots == nil {
		c.slots = make(chan struct{}, c.s.limits.pipelined)
	}
	c.s.log.Debug("a client says hello", "client", r.Client, "uid", c.peer.uid, "pid", c.peer.pid)
	return h
}

// reply sends a response, and reports whether the connection lives.
func (c *conn) reply(id uint64, r wire.Response) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.respond(id, r)
}

// respond is reply for who holds writing.
func (c *conn) respond(id uint64, r wire.Response) bool {
	frame, err := wire.AppendFrame(c.out[:0], wire.ResponseFrame{ID: id, Response: r})
	if err != nil {
		c.s.log.Error("an answer cannot be sent", "result", r.Result(), "err", err)
		r = wire.Err{Message: "the answer cannot be sent: " + err.Error(), Code: wire.Internal}
		if frame, err = wire.AppendFrame(c.out[:0], wire.ResponseFrame{ID: id, Response: r}); err != nil {
			c.hangUp()
			return false
		}
	}
	if e, ok := r.(wire.Err); ok {
		c.s.counters.failed(e.Code)
	}
	if c.out = frame; cap(c.out) > keepBuffer {
		c.out = nil
	}
	return c.write(frame)
}

// write sends frames whole, or ends the connection. It is called with writing held.
func (c *conn) write(frames []byte) bool {
	c.net.SetWriteDeadline(time.Now().Add(c.s.limits.write)) //nolint:errcheck // the write finds out
	_, err := c.net.Write(frames)
	if err == nil {
		return true
	}
	if timedOut(err) {
		c.cutOff("it does not read what it asked for")
	}
	c.hangUp() // a part of a frame may have been sent
	return false
}

// timedOut reports whether an error is that of a deadline, of a socket or a pipe.
func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// cutOff ends the connection of a client that does not read.
func (c *conn) cutOff(why string) {
	c.hangUp() // first: the log may be slow
	c.cut.Do(func() {
		c.s.counters.slow.Add(1)
		c.s.warn("cut a client off", "reason", why, "uid", c.peer.uid, "pid", c.peer.pid)
	})
}
