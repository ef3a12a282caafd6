package dnsd

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// idleStream is how long a connection may go without a whole query (RFC 7766
	// section 6.2.3: in the order of seconds).
	idleStream = 10 * time.Second
	// writeStream is how long a client may take to read an answer.
	writeStream = 5 * time.Second
	// maxPipelined is how many queries of one connection are worked on at once;
	// no more are read until there is room.
	maxPipelined = 64
	// streamBuffer is how much of a connection's queries, and of its answers, is
	// gathered in one go.
	streamBuffer = 4096
)

// acceptStreams serves a listener's connections until it is closed.
func (s *Server) acceptStreams(listener net.Listener) {
	failures := 0
	for {
		conn, err := listener.Accept()
		if err != nil {
			if failures++; !s.retry(listener.Addr(), err, failures) {
				return
			}
			continue
		}
		failures = 0
		c := &streamClient{
			conn: conn, from: client{addr: addrPort(conn.RemoteAddr()), transport: overTCP},
			slots: make(chan struct{}, maxPipelined),
		}
		if !s.streams.enter(c, s.clock()) {
			s.counters.add(droppedStream, 1)
			conn.Close()
			continue
		}
		s.run(conn, func() {
			defer s.streams.leave(c)
			c.serve(s)
		})
	}
}

// A streamClient is one connection.
type streamClient struct {
	conn  net.Conn
	from  client
	last  atomic.Int64  // when it last asked, on the server's clock
	slots chan struct{} // a place for each query the general path has

	mu  sync.Mutex // protects out and writing
	out []byte     // answers to be written
}

// serve answers queries until the client is done, each as soon as it can be
// answered (RFC 7766 section 6.2.1.1).
func (c *streamClient) serve(s *Server) {
	w := worker{server: s}
	defer w.tally.flush(&s.counters)
	var pending sync.WaitGroup
	defer pending.Wait() // a client that has closed its half still gets answers
	r := bufio.NewReaderSize(c.conn, streamBuffer)
	buf := make([]byte, streamBuffer)
	for {
		c.conn.SetReadDeadline(time.Now().Add(idleStream))
		n, err := readMessage(r, &buf)
		if err != nil {
			return
		}
		w.now = s.clock()
		c.last.Store(w.now)
		length, v := w.receive(buf, n, &c.from)
		if v == general {
			if length, v = w.admit(buf, n, &c.from), answered; length == 0 {
				c.general(s, &pending, append([]byte(nil), buf[:n]...))
				v = ignored
			}
		}
		more := r.Buffered() > 0
		if v == answered || !more {
			var answer []byte
			if v == answered {
				answer = buf[:length]
			}
			if c.write(answer, !more) != nil {
				return
			}
		}
		if !more {
			w.tally.flush(&s.counters)
		}
	}
}

// general answers a query on the general path.
func (c *streamClient) general(s *Server, pending *sync.WaitGroup, message []byte) {
	c.slots <- struct{}{}
	from := c.from
	pending.Go(func() {
		defer func() { <-c.slots }()
		if answer := s.admitted(message, from); answer != nil {
			c.write(answer, true)
		}
	})
}

// write adds an answer, if there is one, to what the client is to get, and sends
// all of it if flush is set or much has gathered.
func (c *streamClient) write(answer []byte, flush bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(answer) > 0 {
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(answer)))
		c.out = append(c.out, answer...)
	}
	if len(c.out) == 0 || !flush && len(c.out) < streamBuffer {
		return nil
	}
	c.conn.SetWriteDeadline(time.Now().Add(writeStream))
	_, err := c.conn.Write(c.out)
	if err != nil {
		c.conn.Close()
	}
	if c.out = c.out[:0]; cap(c.out) > dns.MaxMsgSize {
		c.out = nil
	}
	return err
}

// readMessage reads a message and the length before it (RFC 1035 section 4.2.2)
// into buf, which grows if it must, and returns the length.
func readMessage(r *bufio.Reader, buf *[]byte) (int, error) {
	size, err := r.Peek(2)
	if err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(size))
	r.Discard(2)
	if n > len(*buf) {
		*buf = make([]byte, n)
	}
	return io.ReadFull(r, (*buf)[:n])
}

// streams bounds the connections, all in all and of each source.
type streams struct {
	mu        sync.Mutex // protects the rest
	max       int
	maxSource int
	clients   map[*streamClient]struct{}
	sources   map[netip.Addr]int
}

func newStreams(limit int) *streams {
	return &streams{
		max: limit, maxSource: max(limit/4, 1),
		clients: make(map[*streamClient]struct{}), sources: make(map[netip.Addr]int),
	}
}

// enter makes room for a connection, if need be by closing the one idle for
// longest. It is false when the source has its share already.
func (s *streams) enter(c *streamClient, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	source := c.from.addr.Addr()
	if s.sources[source] >= s.maxSource {
		return false
	}
	if len(s.clients) >= s.max {
		var idle *streamClient
		for other := range s.clients {
			if idle == nil || other.last.Load() < idle.last.Load() {
				idle = other
			}
		}
		idle.conn.Close()
		s.remove(idle)
	}
	c.last.Store(now)
	s.clients[c] = struct{}{}
	s.sources[source]++
	return true
}

func (s *streams) leave(c *streamClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c)
}

func (s *streams) remove(c *streamClient) {
	if _, ok := s.clients[c]; !ok {
		return
	}
	delete(s.clients, c)
	source := c.from.addr.Addr()
	if s.sources[source]--; s.sources[source] == 0 {
		delete(s.sources, source)
	}
}

func (s *streams) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}
