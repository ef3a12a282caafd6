package netstack

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// attemptDelay is how long a connection attempt may take before the next address
// is tried beside it (RFC 8305 section 5).
const attemptDelay = 250 * time.Millisecond

// DialContext is the method of a net.Dialer on the stack, for the networks "tcp",
// "tcp4", "tcp6", "udp", "udp4" and "udp6".
//
// A host name is taken as fully qualified and looked up by Resolver. When it has
// several addresses of families the stack has, they are tried in turn, each after
// the one before failed or was slow. Without a host, or with an unspecified
// one, the stack's own address is meant.
//
// When ctx ends first, the error is ctx's. Errors are a *net.OpError with what a
// kernel would say underneath, syscall.ECONNREFUSED for instance.
//
// A TCP connection also has a *net.TCPConn's CloseRead, CloseWrite, SetKeepAlive,
// SetKeepAlivePeriod, SetKeepAliveConfig, SetLinger, SetNoDelay, SetReadBuffer and
// SetWriteBuffer, and a UDP one what ListenPacket's have. Keepalives are on, every
// 15 s, as with package net.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch {
	case checkNetwork(network, "tcp") == nil:
		return s.dial(ctx, network, address, s.dialTCP)
	case checkNetwork(network, "udp") == nil:
		return s.dial(ctx, network, address, s.dialUDP)
	}
	return nil, opError("dial", network, nil, nil, net.UnknownNetworkError(network))
}

type dialFunc func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

func (s *Stack) dial(ctx context.Context, network, address string, one dialFunc) (net.Conn, error) {
	to, err := s.remoteAddrs(ctx, network, address)
	if err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	if len(to) == 1 {
		return one(ctx, network, to[0])
	}
	return race(ctx, network, to, one)
}

// remoteAddrs are the addresses to try, in order.
func (s *Stack) remoteAddrs(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	host, port, err := splitAddr(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if a, literal := parseHost(host); literal || host == "" {
		if !a.IsValid() || a.IsUnspecified() {
			if a, err = s.ownAddr(network, a); err != nil {
				return nil, err
			}
		}
		if !inFamily(network, a) {
			return nil, &net.AddrError{Err: "not of the family of " + network, Addr: host}
		}
		if a.Zone() != "" {
			return nil, &net.AddrError{Err: "the stack has no zones", Addr: host}
		}
		return []netip.AddrPort{netip.AddrPortFrom(a, port)}, nil
	}
	found, err := s.lookup(ctx, network, host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(found))
	for i, a := range found {
		addrs[i] = netip.AddrPortFrom(a, port)
	}
	return addrs, nil
}

// ownAddr is the stack's first address in network, and in the family of like if
// that is valid.
func (s *Stack) ownAddr(network string, like netip.Addr) (netip.Addr, error) {
	for _, p := range s.Addrs() {
		a := p.Addr()
		if inFamily(network, a) && (!like.IsValid() || like.Is6() || a.Is4()) {
			return a, nil
		}
	}
	return netip.Addr{}, &net.AddrError{Err: "the stack has no address of its own for " + network}
}

// race tries addresses in turn, each when the one before failed or attemptDelay
// after it was begun, and returns the first connection, or the first error.
func race(ctx context.Context, network string, to []netip.AddrPort, one dialFunc) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	var (
		first   error
		begun   int
		pending int
	)
	begin := func() {
		addr := to[begun]
		begun++
		pending++
		go func() {
			conn, err := one(ctx, network, addr)
			results <- result{conn, err}
		}()
	}
	begin()
	next := time.NewTimer(attemptDelay)
	defer next.Stop()
	for pending > 0 {
		var r result
		select {
		case <-next.C:
			if begun < len(to) {
				begin()
				next.Reset(attemptDelay)
			}
			continue
		case r = <-results:
			pending--
		}
		if r.err == nil {
			cancel()
			for ; pending > 0; pending-- {
				if late := <-results; late.conn != nil {
					late.conn.Close()
				}
			}
			return r.conn, nil
		}
		if first == nil {
			first = r.err
		}
		if begun < len(to) && ctx.Err() == nil {
			begin()
			next.Reset(attemptDelay)
		}
	}
	return nil, first
}

func (s *Stack) dialTCP(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	c, err := s.connectTCP(ctx, to)
	if err != nil {
		return nil, opError("dial", network, nil, net.TCPAddrFromAddrPort(to), err)
	}
	return c, nil
}

func (s *Stack) connectTCP(ctx context.Context, to netip.AddrPort) (*tcpConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := s.startTCP(to)
	if err != nil {
		return nil, err
	}
	defer d.queue.EventUnregister(&d.entry)
	defer s.forget(d)
	select {
	case <-d.ready:
	case <-ctx.Done():
		d.ep.Abort()
		return nil, ctx.Err()
	}
	if !s.enter() {
		d.ep.Abort()
		return nil, errStackClosed
	}
	defer s.leave()
	var c *tcpConn
	terr := d.ep.LastError()
	if terr == nil {
		c, terr = newTCPConn(s, d.ep, d.queue)
	}
	if terr != nil {
		d.ep.Close()
		return nil, sysError("connect", terr)
	}
	return c, nil
}

// A dialing is a connection that is being made.
type dialing struct {
	ep    tcpip.Endpoint
	queue *waiter.Queue
	entry waiter.Entry
	ready chan struct{}
}

func (d *dialing) wake() {} // it asks whether the stack is closed

func (d *dialing) abort() { d.ep.Abort() }

// startTCP sends the first segment.
func (s *Stack) startTCP(to netip.AddrPort) (*dialing, error) {
	if !s.enter() {
		return nil, errStackClosed
	}
	defer s.leave()
	d := &dialing{queue: new(waiter.Queue)}
	var err tcpip.Error
	if d.ep, err = s.ip.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), d.queue); err != nil {
		return nil, sysError("socket", err)
	}
	d.entry, d.ready = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	d.queue.EventRegister(&d.entry)
	err = d.ep.Connect(toFull(to))
	if _, started := err.(*tcpip.ErrConnectStarted); !started && err != nil {
		d.ep.Close()
		return nil, sysError("connect", err)
	}
	s.track(d)
	return d, nil
}
