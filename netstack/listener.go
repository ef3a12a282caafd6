package netstack

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
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
	if err := l.bind(local); err != nil {
		return nil, addr, sysError("bind", err)
	}
	if err := l.ep.Listen(backlog); err != nil {
		l.Close()
		return nil, addr, sysError("listen", err)
	}
	return l, addr, nil
}

// bind takes local, or a free port of local's address if local's is 0.
func (l *tcpListener) bind(local netip.AddrPort) tcpip.Error {
	if local.Port() != 0 {
		return l.bindPort(local)
	}
	_, err := l.s.ip.PickEphemeralPort(l.s.ip.SecureRNG(), func(port uint16) (bool, tcpip.Error) {
		err := l.bindPort(netip.AddrPortFrom(local.Addr(), port))
		if _, used := err.(*tcpip.ErrPortInUse); used {
			return false, nil
		}
		return err == nil, err
	})
	return err
}

func (l *tcpListener) bindPort(local netip.AddrPort) tcpip.Error {
	l.addr = net.TCPAddrFromAddrPort(local)
	l.local = local
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for other := range l.s.listeners {
		if l.overlaps(other) {
			return &tcpip.ErrPortInUse{}
		}
	}
	ep, err := l.s.newEndpoint(tcp.ProtocolNumber, l.network, local, &l.queue)
	if err != nil {
		return err
	}
	// A port is free again although connections of the last listener linger, as
	// with package net. That two listeners do not share it is checked above, for
	// gVisor then allows one on the unspecified address beside one on another.
	ep.SocketOptions().SetReuseAddress(true)
	if err := ep.Bind(toFull(local)); err != nil {
		ep.Close()
		return err
	}
	l.ep = ep
	l.in.init(&l.queue, waiter.ReadableEvents)
	l.s.listeners[l] = struct{}{}
	return nil
}

// overlaps reports whether a connection could be meant for both.
func (l *tcpListener) overlaps(m *tcpListener) bool {
	a, b := l.local.Addr(), m.local.Addr()
	switch {
	case l.local.Port() != m.local.Port():
		return false
	case a.Is4() == b.Is4():
		return a == b || a.IsUnspecified() || b.IsUnspecified()
	}
	return dualStack(l.network, l.local) || dualStack(m.network, m.local)
}

// newEndpoint makes an endpoint that may be bound to local; the caller is between
// enter and leave.
func (s *Stack) newEndpoint(transport tcpip.TransportProtocolNumber, network string, local netip.AddrPort, queue *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	ep, err := s.ip.NewEndpoint(transport, protocolOf(local.Addr()), queue)
	if err == nil && local.Addr().Is6() {
		ep.SocketOptions().SetV6Only(!dualStack(network, local))
	}
	return ep, err
}

// A tcpListener is a net.Listener that has a deadline, as a *net.TCPListener.
type tcpListener struct {
	s       *Stack
	network string
	ep      tcpip.Endpoint
	queue   waiter.Queue
	local   netip.AddrPort
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
		l.s.mu.Lock()
		delete(l.s.listeners, l)
		l.s.mu.Unlock()
		err = nil
	})
	return err
}

func (l *tcpListener) wake() { l.in.deadline.close() }

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
