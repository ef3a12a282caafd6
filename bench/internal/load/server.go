package load

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Server answers the load of one host.
type Server struct {
	listener net.Listener
	packets  net.PacketConn
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool

	counting atomic.Pointer[count]
}

// Serve answers on l and, unless it is nil, on p; both are the Server's from then
// on.
func Serve(l net.Listener, p net.PacketConn) *Server {
	s := &Server{listener: l, packets: p, conns: make(map[net.Conn]struct{})}
	s.running.Go(s.accept)
	if p != nil {
		s.running.Go(s.receive)
	}
	return s
}

// Close ends every connection and returns when nothing of the Server runs any
// more.
func (s *Server) Close() error {
	err := s.listener.Close()
	if s.packets != nil {
		err = errors.Join(err, s.packets.Close())
	}
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.running.Go(func() {
			s.answer(c) // an error is the caller's, who sees the connection end
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *Server) answer(c net.Conn) error {
	var cmd [1]byte
	if _, err := io.ReadFull(c, cmd[:]); err != nil {
		return err
	}
	switch cmd[0] {
	case cmdUpload:
		return sink(c)
	case cmdDownload:
		for buf := make([]byte, chunk); ; {
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
	case cmdEcho:
		for {
			if _, err := io.ReadFull(c, cmd[:]); err != nil {
				return err
			}
			if _, err := c.Write(cmd[:]); err != nil {
				return err
			}
		}
	case cmdRequest:
		_, err := c.Write(cmd[:])
		return err
	case cmdCount:
		return s.count(c)
	}
	return errors.New("no such command")
}

func sink(c net.Conn) error {
	var total int64
	for buf := make([]byte, chunk); ; {
		n, err := c.Read(buf)
		total += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err := c.Write(bigEndian(total))
	return err
}

// A count is of the datagrams, all of one size, that arrive within a time of the
// first.
type count struct {
	limit time.Duration
	size  int64

	mu    sync.Mutex
	start time.Time     // when the first were read
	first int64         // their bytes
	bytes int64         // of those after them
	last  time.Duration // after start
}

// add counts what was read at once.
func (k *count) add(bytes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.first == 0 {
		k.start, k.first = time.Now(), int64(bytes)
		return
	}
	if now := time.Since(k.start); now <= k.limit {
		k.last = now
		k.bytes += int64(bytes)
	}
}

func (k *count) received() Received {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Received{Datagrams: k.bytes / k.size, Time: k.last}
}

// count counts the datagrams from its first answer to the end of what the
// connection says, and then answers with what it counted.
func (s *Server) count(c net.Conn) error {
	var b [16]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	k := &count{limit: time.Duration(number(b[:])), size: max(number(b[8:]), 1)}
	s.counting.Store(k)
	defer s.counting.CompareAndSwap(k, nil)
	if _, err := c.Write(b[:1]); err != nil {
		return err
	}
	if _, err := c.Read(b[:]); err != io.EOF {
		return err
	}
	r := k.received()
	_, err := c.Write(bigEndian(r.Datagrams, int64(r.Time)))
	return err
}

func (s *Server) receive() {
	got := func(bytes int) {
		if k := s.counting.Load(); k != nil {
			k.add(bytes)
		}
	}
	if u, ok := s.packets.(*net.UDPConn); ok {
		receiveSocket(u, got)
		return
	}
	receiveConn(s.packets.(io.Reader), got) // who sends does not matter
}

func receiveConn(in io.Reader, got func(bytes int)) {
	for buf := make([]byte, 64<<10); ; {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		got(n)
	}
}
