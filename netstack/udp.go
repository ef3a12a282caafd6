package netstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// udpBuffer is a UDP socket's receive and send buffer until it is set otherwise:
// what Linux gives (net.core.rmem_default).
const udpBuffer = 212992

// ListenPacket is net.ListenPacket on the stack, for the networks "udp", "udp4"
// and "udp6". Ports, hosts and errors are as with Listen. The addresses of IPv4
// senders are always IPv4's own, never mapped into IPv6.
//
// The net.PacketConn also has a *net.UDPConn's ReadFromUDPAddrPort,
// WriteToUDPAddrPort, SetReadBuffer and SetWriteBuffer.
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	c, addr, err := s.listenUDP(network, address)
	if err != nil {
		return nil, opError("listen", network, nil, addr, err)
	}
	return c, nil
}

func (s *Stack) listenUDP(network, address string) (*udpConn, net.Addr, error) {
	if err := checkNetwork(network, "udp"); err != nil {
		return nil, nil, err
	}
	local, err := localAddr(network, address)
	if err != nil {
		return nil, nil, err
	}
	addr := net.UDPAddrFromAddrPort(local)
	if !s.enter() {
		return nil, addr, errStackClosed
	}
	defer s.leave()
	c := &udpConn{s: s, network: network}
	ep, terr := s.newEndpoint(udp.ProtocolNumber, network, local, &c.queue)
	if terr != nil {
		return nil, addr, sysError("socket", terr)
	}
	if err := ep.Bind(toFull(local)); err != nil {
		ep.Close()
		return nil, addr, sysError("bind", err)
	}
	if err := c.start(ep, local.Addr()); err != nil {
		return nil, addr, err
	}
	return c, addr, nil
}

func (s *Stack) dialUDP(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	c, err := s.connectUDP(ctx, network, to)
	if err != nil {
		return nil, opError("dial", network, nil, net.UDPAddrFromAddrPort(to), err)
	}
	return c, nil
}

func (s *Stack) connectUDP(ctx context.Context, network string, to netip.AddrPort) (*udpConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !s.enter() {
		return nil, errStackClosed
	}
	defer s.leave()
	c := &udpConn{s: s, network: network, remote: net.UDPAddrFromAddrPort(to)}
	ep, err := s.ip.NewEndpoint(udp.ProtocolNumber, protocolOf(to.Addr()), &c.queue)
	if err != nil {
		return nil, sysError("socket", err)
	}
	if err := ep.Connect(toFull(to)); err != nil {
		ep.Close()
		return nil, sysError("connect", err)
	}
	if err := c.start(ep, netip.Addr{}); err != nil {
		return nil, err
	}
	return c, nil
}

// A udpConn is a UDP socket, connected or not.
type udpConn struct {
	s       *Stack
	network string
	ep      tcpip.Endpoint
	queue   waiter.Queue
	local   *net.UDPAddr
	remote  *net.UDPAddr // nil: not connected
	closing sync.Once

	in  side
	dst tcpip.SliceWriter // under in.mu

	out side
	src bytes.Reader      // under out.mu
	to  tcpip.FullAddress // under out.mu
}

// start completes a socket whose endpoint is bound; on failure it closes that.
func (c *udpConn) start(ep tcpip.Endpoint, unspecified netip.Addr) error {
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return sysError("getsockname", err)
	}
	c.ep = ep
	c.local = net.UDPAddrFromAddrPort(fromFull(local, unspecified))
	ep.SocketOptions().SetReceiveBufferSize(udpBuffer, true)
	ep.SocketOptions().SetSendBufferSize(udpBuffer, true)
	c.in.init(&c.queue, waiter.ReadableEvents)
	c.out.init(&c.queue, waiter.WritableEvents)
	c.s.track(c)
	return nil
}

func (c *udpConn) opError(op string, addr net.Addr, err error) error {
	return opError(op, c.network, c.local, addr, err)
}

// remoteAddr is remote without the trap of a nil pointer in an interface.
func (c *udpConn) remoteAddr() net.Addr {
	if c.remote == nil {
		return nil
	}
	return c.remote
}

// read takes one datagram; what of it does not fit into b is lost.
func (c *udpConn) read(b []byte) (int, netip.AddrPort, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for {
		if err := c.in.deadline.err(); err != nil {
			return 0, netip.AddrPort{}, err
		}
		c.dst = b
		res, err := c.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		c.dst = nil
		switch err.(type) {
		case nil, *tcpip.ErrBadBuffer: // the latter when b is empty
			return res.Count, fromFull(res.RemoteAddr, netip.Addr{}), nil
		case *tcpip.ErrWouldBlock:
		case *tcpip.ErrClosedForReceive:
			return 0, netip.AddrPort{}, net.ErrClosed
		default:
			return 0, netip.AddrPort{}, sysError("read", err)
		}
		if err := c.in.await(); err != nil {
			return 0, netip.AddrPort{}, err
		}
	}
}

// Read implements net.Conn.
func (c *udpConn) Read(b []byte) (int, error) {
	n, _, err := c.read(b)
	if err != nil {
		return 0, c.opError("read", c.remoteAddr(), err)
	}
	return n, nil
}

// ReadFrom implements net.PacketConn.
func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation for the address.
func (c *udpConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, netip.AddrPort{}, c.opError("read", c.remoteAddr(), err)
	}
	return n, from, nil
}

// write sends one datagram, to the peer when to is not valid.
func (c *udpConn) write(b []byte, to netip.AddrPort) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	defer c.src.Reset(nil)
	var options tcpip.WriteOptions
	if to.IsValid() {
		c.to = toFull(to)
		options.To = &c.to
	}
	for {
		if err := c.out.deadline.err(); err != nil {
			return err
		}
		c.src.Reset(b)
		_, err := c.ep.Write(&c.src, options)
		switch err.(type) {
		case nil:
			return nil
		case *tcpip.ErrWouldBlock:
		default:
			if why := c.out.deadline.err(); why == net.ErrClosed {
				return why
			}
			return sysError("write", err)
		}
		if err := c.out.await(); err != nil {
			return err
		}
	}
}

// Write implements net.Conn.
func (c *udpConn) Write(b []byte) (int, error) {
	if err := c.write(b, netip.AddrPort{}); err != nil {
		return 0, c.opError("write", c.remoteAddr(), err)
	}
	return len(b), nil
}

// WriteTo implements net.PacketConn.
func (c *udpConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	a, ok := addr.(*net.UDPAddr)
	if !ok || a == nil {
		return 0, c.opError("write", addr, net.InvalidAddrError("not a UDP address"))
	}
	return c.writeTo(b, a.AddrPort(), a)
}

// WriteToUDPAddrPort is WriteTo without an allocated address.
func (c *udpConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.writeTo(b, to, nil)
}

func (c *udpConn) writeTo(b []byte, to netip.AddrPort, addr net.Addr) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	err := c.checkTo(to)
	if err == nil {
		err = c.write(b, to)
	}
	if err != nil {
		if addr == nil {
			addr = net.UDPAddrFromAddrPort(to)
		}
		return 0, c.opError("write", addr, err)
	}
	return len(b), nil
}

// checkTo refuses what a kernel's socket would.
func (c *udpConn) checkTo(to netip.AddrPort) error {
	switch {
	case c.remote != nil:
		return net.ErrWriteToConnected
	case !to.IsValid() || to.Addr().Zone() != "":
		return net.InvalidAddrError("not an address of the stack's networks")
	case !inFamily(c.network, to.Addr()):
		return &net.AddrError{Err: "not of the family of " + c.network, Addr: to.Addr().String()}
	}
	return nil
}

// Close implements net.Conn and net.PacketConn.
func (c *udpConn) Close() error {
	err := c.opError("close", c.remoteAddr(), net.ErrClosed)
	c.closing.Do(func() {
		c.in.close(&c.queue)
		c.out.close(&c.queue)
		c.ep.Close()
		c.s.forget(c)
		err = nil
	})
	return err
}

func (c *udpConn) wake() {
	c.in.deadline.close()
	c.out.deadline.close()
}

func (c *udpConn) abort() { c.Close() }

// LocalAddr implements net.Conn and net.PacketConn.
func (c *udpConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn; it is nil unless the socket was dialled.
func (c *udpConn) RemoteAddr() net.Addr { return c.remoteAddr() }

// SetDeadline implements net.Conn and net.PacketConn.
func (c *udpConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn and net.PacketConn.
func (c *udpConn) SetReadDeadline(t time.Time) error { return c.set(c.in.deadline.set(t)) }

// SetWriteDeadline implements net.Conn and net.PacketConn.
func (c *udpConn) SetWriteDeadline(t time.Time) error { return c.set(c.out.deadline.set(t)) }

func (c *udpConn) set(err error) error {
	if err != nil {
		return c.opError("set", c.remoteAddr(), err)
	}
	return nil
}

// SetReadBuffer sets how many bytes of datagrams wait to be read at most.
func (c *udpConn) SetReadBuffer(bytes int) error {
	if err := c.in.deadline.err(); err == net.ErrClosed {
		return c.set(err)
	}
	c.ep.SocketOptions().SetReceiveBufferSize(int64(bytes), true)
	return nil
}

// SetWriteBuffer sets how many bytes of datagrams wait to be sent at most.
func (c *udpConn) SetWriteBuffer(bytes int) error {
	if err := c.out.deadline.err(); err == net.ErrClosed {
		return c.set(err)
	}
	c.ep.SocketOptions().SetSendBufferSize(int64(bytes), true)
	return nil
}
