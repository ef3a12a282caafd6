package netstack

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections may wait to be accepted: Linux's somaxconn.
const backlog = 4096

// Listen is net.Listen on the stack, for the networks "tcp", "tcp4" and "tcp6".
// Port 0 means a free one. Without a host it listens on all of the stack's
// addresses, present and future: of both families with "tcp".
//
// An address that is not the stack's fails with syscall.EADDRNOTAVAIL, a port in
// use with syscall.EADDRINUSE.
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	l, addr, err := s.listen(network, address)
	if err != nil {
		return nil, opError("listen", network, nil, addr, err)
	}
	return l, nil
}

func (s *Stack) listen(network, address string) (*tcpListener, net.Addr, error) {
	if err := checkNetwork(network, "tcp"); err != nil {
		return nil, nil, err
	}
	local, err := localAddr(network, address)
	if err != nil {
		return nil, nil, err
	}
	addr := net.TCPAddrFromAddrPort(local)
	if !s.enter() {
		return nil, addr, errStackClosed
	}
	defer s.leave()
	l := &tcpListener{s: s, network: network}
	ep, terr := s.bind(tcp.ProtocolNumber, network, local, &l.queue)
	if terr != nil {
		return nil, addr, sysError("bind", terr)
	}
	l.ep = ep
	if terr := ep.Listen(backlog); terr != nil {
		ep.Close()
		return nil, addr, sysError("listen", terr)
	}
	bound, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return nil, addr, sysError("getsockname", terr)
	}
	l.addr = net.TCPAddrFromAddrPort(fromFull(bound, local.Addr()))
	l.in.init(&l.queue, waiter.ReadableEvents)
	s.track(l)
	return l, addr, nil
}

// bind makes an endpoint that is bound to local; the caller is between enter and
// leave.
func (s *Stack) bind(transport tcpip.TransportProtocolNumber, network string, local netip.AddrPort, queue *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	protocol := header.IPv6ProtocolNumber
	if local.Addr().Is4() {
		protocol = header.IPv4ProtocolNumber
	}
	ep, err := s.ip.NewEndpoint(transport, protocol, queue)
	if err != nil {
		return nil, err
	}
	if protocol == header.IPv6ProtocolNumber {
		ep.SocketOptions().SetV6Only(!dualStack(network, local))
	}
	if err := ep.Bind(toFull(local)); err != nil {
		ep.Close()
		return nil, err
	}
	return ep, nil
}

// A tcpListener is a net.Listener with the methods of a *net.TCPListener.
type tcpListener struct {
	s       *Stack
	network string
	ep      tcpip.Endpoint
	queue   waiter.Queue
	addr    *net.TCPAddr
	closing sync.Once
	in      side
}

// Accept implements net.Listener.
func (l *tcpListener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, opError("accept", l.network, nil, l.addr, err)
	}
	return c, nil
}

func (l *tcpListener) accept() (*tcpConn, error) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	for {
		if err := l.in.deadline.err(); err != nil {
			return nil, err
		}
		c, err := l.take()
		if err == nil {
			return c, nil
		}
		if _, wait := err.(*tcpip.ErrWouldBlock); !wait {
			if err := l.in.deadline.err(); err != nil {
				return nil, err
			}
			return nil, sysError("accept", err)
		}
		if err := l.in.await(); err != nil {
			return nil, err
		}
	}
}

// take accepts a connection that waits.
func (l *tcpListener) take() (*tcpConn, tcpip.Error) {
	if !l.s.enter() {
		return nil, &tcpip.ErrWouldBlock{} // the deadline is about to be closed
	}
	defer l.s.leave()
	for {
		ep, queue, err := l.ep.Accept(nil)
		if err != nil {
			return nil, err
		}
		c, err := newTCPConn(l.s, ep, queue)
		if err == nil {
			return c, nil
		}
		ep.Close() // reset before it was accepted
	}
}

// Close implements net.Listener. Connections that nobody accepted are reset.
func (l *tcpListener) Close() error {
	err := opError("close", l.network, nil, l.addr, net.ErrClosed)
	l.closing.Do(func() {
		l.in.close(&l.queue)
		l.ep.Close()
		l.s.forget(l)
		err = nil
	})
	return err
}

// abort implements socket.
func (l *tcpListener) abort() { l.Close() }

// Addr implements net.Listener.
func (l *tcpListener) Addr() net.Addr { return l.addr }

// SetDeadline bounds the Accept calls that wait and those to come; the zero time
// is no bound.
func (l *tcpListener) SetDeadline(t time.Time) error {
	if err := l.in.deadline.set(t); err != nil {
		return opError("set", l.network, nil, l.addr, err)
	}
	return nil
}
