package dnsd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A stream is the connection to a resolver over TCP or TLS. It is made when it is
// needed, carries many queries at once, whose answers come in any order (RFC 7766
// section 6.2.1), and is closed when it has been idle for a while.
type stream struct {
	dial   dialFunc
	addr   string
	tls    *tls.Config
	server *lifetime

	mu      sync.Mutex // protects current, dialing and closed
	current *streamConn
	dialing chan struct{} // closed when the dial under way is over; nil: there is none
	closed  bool
}

type streamConn struct {
	conn net.Conn

	write sync.Mutex // one message at a time

	mu      sync.Mutex // protects waiting and err
	waiting map[uint16]*waiter
	err     error // why the connection is over
}

// A waiter is a query whose answer is awaited.
type waiter struct {
	query sent
	reply chan []byte // one reply, or closed when the connection ended without
}

// idleUpstream is how long a connection to a resolver is kept for the next query.
const idleUpstream = 20 * time.Second

var errStreamEnded = errors.New("dnsd: the resolver closed the connection")

// exchange asks over the stream. A connection that was there before and turns out
// to be dead is replaced once.
func (s *stream) exchange(ctx context.Context, query sent) ([]byte, error) {
	for again := true; ; again = false {
		c, fresh, err := s.get(ctx)
		if err != nil {
			return nil, err
		}
		reply, err := c.exchange(ctx, query)
		if err == nil || fresh || !again || ctx.Err() != nil {
			return reply, err
		}
		s.forget(c)
	}
}

// forget makes the next query open a new connection.
func (s *stream) forget(c *streamConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == c {
		s.current = nil
	}
}

// get returns the connection, and whether it was made for this call.
func (s *stream) get(ctx context.Context) (c *streamConn, fresh bool, err error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, false, net.ErrClosed
		}
		if s.current != nil {
			c = s.current
			s.mu.Unlock()
			return c, false, nil
		}
		wait := s.dialing
		if wait == nil {
			break
		}
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	done := make(chan struct{})
	s.dialing = done
	s.mu.Unlock()
	conn, err := s.connect(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing = nil
	close(done)
	if err != nil {
		return nil, false, err
	}
	if s.closed {
		conn.Close()
		return nil, false, net.ErrClosed
	}
	c = &streamConn{conn: conn, waiting: make(map[uint16]*waiter)}
	s.current = c
	s.server.wg.Go(func() {
		defer context.AfterFunc(s.server.ctx, func() { c.conn.Close() })()
		c.read()
		s.forget(c)
	})
	return c, true, nil
}

func (s *stream) connect(ctx context.Context) (net.Conn, error) {
	conn, err := s.dial(ctx, "tcp", s.addr)
	if err != nil || s.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, s.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("dnsd: TLS with %s: %w", s.addr, err)
	}
	return secure, nil
}

// close ends the stream for good: nobody asks this resolver any more.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.current != nil {
		s.current.conn.Close()
	}
}

func (c *streamConn) exchange(ctx context.Context, query sent) ([]byte, error) {
	w := &waiter{query: query, reply: make(chan []byte, 1)}
	id := query.id()
	c.mu.Lock()
	for c.waiting[id] != nil {
		id++ // no secret here: nobody but the resolver can write to the stream
	}
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	binary.BigEndian.PutUint16(query.message, id)
	c.waiting[id] = w
	c.conn.SetReadDeadline(time.Now().Add(idleUpstream))
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		if c.waiting[id] == w {
			delete(c.waiting, id)
		}
		c.mu.Unlock()
	}()
	if err := c.send(ctx, query.message); err != nil {
		c.conn.Close()
		return nil, err
	}
	select {
	case reply, ok := <-w.reply:
		if !ok {
			return nil, errStreamEnded
		}
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *streamConn) send(ctx context.Context, message []byte) error {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message)))
	framed = append(framed, message...)
	c.write.Lock()
	defer c.write.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		c.conn.SetWriteDeadline(deadline)
	}
	_, err := c.conn.Write(framed)
	return err
}

// read hands replies to those who wait for them until the connection ends.
func (c *streamConn) read() {
	defer c.conn.Close()
	r := bufio.NewReader(c.conn)
	for {
		var reply []byte // each waiter keeps its own
		n, err := readMessage(r, &reply)
		if err == nil {
			err = c.deliver(reply[:n])
		}
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.err = errStreamEnded
			for id, w := range c.waiting {
				delete(c.waiting, id)
				close(w.reply)
			}
			return
		}
	}
}

func (c *streamConn) deliver(reply []byte) error {
	if len(reply) < headerSize {
		return errReply
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetReadDeadline(time.Now().Add(idleUpstream))
	id := binary.BigEndian.Uint16(reply)
	w := c.waiting[id]
	if w == nil {
		return nil // given up
	}
	if ok, folded := w.query.match(reply); !ok && !folded {
		return errReply // whoever mixes answers up is not to be read on
	}
	delete(c.waiting, id)
	w.reply <- reply
	return nil
}
