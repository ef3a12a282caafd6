package dnsd

import (
	"fmt"
	"io"
	"net"
	"net/netip"
)

// A Listener is one address a server answers on, over UDP and TCP.
type Listener struct {
	addr    netip.AddrPort
	sockets []io.Closer
	done    []<-chan struct{}
}

// Addr is the address, with the port the system chose if it was to.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Close ends the service on this address and returns when nothing reads its
// sockets any more. Connections clients have made stay. It is idempotent.
func (l *Listener) Close() error {
	for _, c := range l.sockets {
		c.Close()
	}
	for _, done := range l.done {
		<-done
	}
	return nil
}

// Listen binds addr, such as "10.200.0.1:53", over UDP and TCP and starts to
// answer there. Port 0 is one that is free for both. The error is the system's,
// wrapped, and leaves nothing bound.
func (s *Server) Listen(addr string) (*Listener, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dnsd: listen: %w", err)
	}
	attempts := 1
	if port == "0" {
		attempts = 16 // the port the system picks for TCP may be taken for UDP
	}
	for {
		attempts--
		stream, packets, err := bind(addr)
		if err == nil {
			return s.listen(stream, packets)
		}
		if attempts == 0 {
			return nil, fmt.Errorf("dnsd: listen on %s: %w", addr, err)
		}
	}
}

// bind opens the sockets of one address, or none.
func bind(addr string) (net.Listener, []net.PacketConn, error) {
	stream, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	packets, err := listenPackets(stream.Addr().String())
	if err != nil {
		stream.Close()
		return nil, nil, err
	}
	return stream, packets, nil
}

func (s *Server) listen(stream net.Listener, packets []net.PacketConn) (*Listener, error) {
	addr := stream.Addr().(*net.TCPAddr).AddrPort()
	l := &Listener{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())}
	var failed error
	serve := func(c io.Closer, loop func()) {
		done, err := s.adopt(c, stream.Addr(), loop)
		if err != nil { // the server is closed, and c with it
			failed = err
			return
		}
		l.sockets, l.done = append(l.sockets, c), append(l.done, done)
	}
	serve(stream, func() { s.acceptStreams(stream) })
	for _, p := range packets {
		serve(p, func() { s.readPackets(p) })
	}
	if failed != nil {
		l.Close()
		return nil, failed
	}
	return l, nil
}
