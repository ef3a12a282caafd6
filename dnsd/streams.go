package dnsd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// idleStream is how long a connection may go without a whole query (RFC 7766
	// section 6.2.3: in the order of seconds).
	idleStream = 10 * time.Second
	// writeStream is how long a client may take to read an answer.
	writeStream = 5 * time.Second
	// maxPipelined is how many queries of one connection are worked on at once.
	maxPipelined = 64
)

// acceptStreams serves a listener's connections until it is closed.
func (s *Server) acceptStreams(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			s.logger.Warn("dns: accept", "addr", listener.Addr(), "err", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		s.adopt(conn, conn.RemoteAddr(), func() { s.serveStream(conn) })
	}
}

// serveStream answers the queries of one connection, each as soon as it can be
// answered (RFC 7766 section 6.2.1.1).
func (s *Server) serveStream(conn net.Conn) {
	from := client{addr: addrPort(conn.RemoteAddr()), stream: true}
	var (
		mu      sync.Mutex // protects writing
		pending sync.WaitGroup
	)
	defer pending.Wait()
	slots := make(chan struct{}, maxPipelined)
	r := bufio.NewReaderSize(conn, 4096)
	for {
		conn.SetReadDeadline(time.Now().Add(idleStream))
		message, err := readMessage(r)
		if err != nil {
			return
		}
		slots <- struct{}{}
		pending.Go(func() {
			defer func() { <-slots }()
			answer := s.handle(s.ctx, message, from)
			if answer == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			conn.SetWriteDeadline(time.Now().Add(writeStream))
			framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
			if _, err := conn.Write(append(framed, answer...)); err != nil {
				conn.Close()
			}
		})
	}
}

// readMessage reads one message and the length before it (RFC 1035 section
// 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}
