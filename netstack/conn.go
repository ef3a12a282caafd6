package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What package net sets on every TCP connection (net.KeepAliveConfig).
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// A side is one direction of a socket.
type side struct {
	mu       sync.Mutex // held by the one call that reads, or writes
	deadline deadline
	ready    chan struct{} // has a token when the endpoint may be ready again
	entry    waiter.Entry
}

func (d *side) init(queue *waiter.Queue, events waiter.EventMask) {
	d.entry, d.ready = waiter.NewChannelEntry(events | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&d.entry)
}

// await waits until the endpoint may be ready.
func (d *side) await() error {
	select {
	case <-d.ready:
	case <-d.deadline.wait():
	}
	return d.deadline.err()
}

func (d *side) close(queue *waiter.Queue) {
	d.deadline.close()
	queue.EventUnregister(&d.entry)
}

// A tcpConn is a TCP connection. Beyond net.Conn it has what a *net.TCPConn has for
// half close and options.
type tcpConn struct {
	s             *Stack
	ep            tcpip.Endpoint
	queue         *waiter.Queue
	local, remote *net.TCPAddr
	closing       sync.Once

	in     side
	dst    tcpip.SliceWriter // under in.mu
	buffer recvBuffer        // its gauge under in.mu

	out side
	src bytes.Reader // under out.mu
}

// newTCPConn makes a connection of a connected endpoint; the caller is between
// enter and leave.
func newTCPConn(s *Stack, ep tcpip.Endpoint, queue *waiter.Queue) (*tcpConn, tcpip.Error) {
	local, err := ep.GetLocalAddress()
	if err != nil {
		return nil, err
	}
	remote, err := ep.GetRemoteAddress()
	if err != nil {
		return nil, err
	}
	c := &tcpConn{s: s, ep: ep, queue: queue, local: tcpAddr(local), remote: tcpAddr(remote)}
	c.in.init(queue, waiter.ReadableEvents)
	c.out.init(queue, waiter.WritableEvents)
	c.keepAlive()
	c.buffer.gauge.rtt = s.reach.extend(ep)
	s.track(c)
	return c, nil
}

func (c *tcpConn) opError(op string, err error) error {
	return opError(op, "tcp", c.local, c.remote, err)
}

// failure is err as an error of op.
func (c *tcpConn) failure(op string, err tcpip.Error) error {
	if why := c.in.deadline.err(); why == net.ErrClosed {
		return c.opError(op, why)
	}
	return c.opError(op, sysError(op, err))
}

// Read implements net.Conn.
func (c *tcpConn) Read(b []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if err := c.in.deadline.err(); err != nil {
		return 0, c.opError("read", err)
	}
	if len(b) == 0 {
		return 0, nil
	}
	for {
		c.dst = b
		res, err := c.ep.Read(&c.dst, tcpip.ReadOptions{})
		c.dst = nil
		switch err.(type) {
		case nil:
			c.moderate(res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
		case *tcpip.ErrClosedForReceive:
			if err := c.in.deadline.err(); err == net.ErrClosed {
				return 0, c.opError("read", err)
			}
			return 0, io.EOF
		default:
			return 0, c.failure("read", err)
		}
		if err := c.in.await(); err != nil {
			return 0, c.opError("read", err)
		}
	}
}

// Write implements net.Conn. Concurrent calls do not mix their bytes.
func (c *tcpConn) Write(b []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	defer c.src.Reset(nil)
	written := 0
	for {
		if err := c.out.deadline.err(); err != nil {
			return written, c.opError("write", err)
		}
		if written == len(b) {
			return written, nil
		}
		c.src.Reset(b[written:])
		n, err := c.ep.Write(&c.src, tcpip.WriteOptions{})
		written += int(n)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.out.await(); err != nil {
				return written, c.opError("write", err)
			}
		default:
			return written, c.failure("write", err)
		}
	}
}

// Close implements net.Conn. Data that was written is still delivered.
func (c *tcpConn) Close() error {
	return c.end(func() {
		// The states it may linger in have timers of their own, and gVisor would probe
		// even in TIME-WAIT, where the peer knows of no connection any more.
		c.ep.SocketOptions().SetKeepAlive(false)
		c.ep.Close()
		c.s.orphans.add(c.ep, c.queue)
	})
}

func (c *tcpConn) wake() {
	c.in.deadline.close()
	c.out.deadline.close()
}

func (c *tcpConn) abort() { c.end(c.ep.Abort) }

func (c *tcpConn) end(endpoint func()) error {
	ended := false
	c.closing.Do(func() {
		c.in.close(c.queue)
		c.out.close(c.queue)
		endpoint()
		c.s.forget(c)
		ended = true
	})
	if !ended {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// CloseRead shuts down the reading side.
func (c *tcpConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite shuts down the writing side: the peer reads to the end of what was
// written, and then io.EOF.
func (c *tcpConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *tcpConn) shutdown(flags tcpip.ShutdownFlags) error {
	if err := c.ep.Shutdown(flags); err != nil {
		return c.failure("close", err)
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *tcpConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *tcpConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *tcpConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *tcpConn) SetReadDeadline(t time.Time) error { return c.set(c.in.deadline.set(t)) }

// SetWriteDeadline implements net.Conn.
func (c *tcpConn) SetWriteDeadline(t time.Time) error { return c.set(c.out.deadline.set(t)) }

func (c *tcpConn) set(err error) error {
	if err != nil {
		return c.opError("set", err)
	}
	return nil
}

// SetReadBuffer fixes how many bytes that were not read are kept; half of it is
// the largest window.
func (c *tcpConn) SetReadBuffer(bytes int) error {
	if err := c.in.deadline.err(); err == net.ErrClosed {
		return c.opError("set", err)
	}
	c.fixRecvBuffer(bytes, true)
	return nil
}

// SetWriteBuffer fixes how many bytes that were not acknowledged are kept.
func (c *tcpConn) SetWriteBuffer(bytes int) error {
	if err := c.out.deadline.err(); err == net.ErrClosed {
		return c.opError("set", err)
	}
	c.ep.SocketOptions().SetSendBufferSize(int64(bytes), true)
	return nil
}

// SetNoDelay says whether small writes go out at once, which is the default, or
// wait for the acknowledgement of what is under way (Nagle's algorithm).
func (c *tcpConn) SetNoDelay(noDelay bool) error {
	if err := c.in.deadline.err(); err == net.ErrClosed {
		return c.opError("set", err)
	}
	c.ep.SocketOptions().SetDelayOption(!noDelay)
	return nil
}

// SetLinger says what Close does with data not yet acknowledged: seconds of 0
// discard it and reset the connection; others deliver it, as is the default.
func (c *tcpConn) SetLinger(seconds int) error {
	if err := c.in.deadline.err(); err == net.ErrClosed {
		return c.opError("set", err)
	}
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{
		Enabled: seconds >= 0,
		Timeout: time.Duration(max(seconds, 0)) * time.Second,
	})
	return nil
}

// SetKeepAlive says whether an idle connection is probed, which is the default.
func (c *tcpConn) SetKeepAlive(enable bool) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: enable, Idle: -1, Interval: -1, Count: -1})
}

// SetKeepAlivePeriod sets after how long an idle connection is probed, and how
// often.
func (c *tcpConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: c.ep.SocketOptions().GetKeepAlive(), Idle: d, Interval: d, Count: -1})
}

// What every connection begins with, of which gVisor has the count already. They are
// read only, and variables so that no connection needs its own.
var (
	startIdle     = tcpip.KeepaliveIdleOption(keepAliveIdle)
	startInterval = tcpip.KeepaliveIntervalOption(keepAliveInterval)
)

// keepAlive turns keepalives on as package net does. It fails only for an endpoint
// that has ended.
func (c *tcpConn) keepAlive() {
	c.ep.SetSockOpt(&startIdle)
	c.ep.SetSockOpt(&startInterval)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// SetKeepAliveConfig is that of a *net.TCPConn: fields of 0 mean 15 s, 15 s and
// 9, negative ones leave the setting as it is.
func (c *tcpConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	if err := c.in.deadline.err(); err == net.ErrClosed {
		return c.opError("set", err)
	}
	if config.Idle == 0 {
		config.Idle = keepAliveIdle
	}
	if config.Interval == 0 {
		config.Interval = keepAliveInterval
	}
	if config.Count == 0 {
		config.Count = keepAliveCount
	}
	if config.Idle > 0 {
		idle := tcpip.KeepaliveIdleOption(config.Idle)
		if err := c.ep.SetSockOpt(&idle); err != nil {
			return c.failure("set", err)
		}
	}
	if config.Interval > 0 {
		interval := tcpip.KeepaliveIntervalOption(config.Interval)
		if err := c.ep.SetSockOpt(&interval); err != nil {
			return c.failure("set", err)
		}
	}
	if config.Count > 0 {
		if err := c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, config.Count); err != nil {
			return c.failure("set", err)
		}
	}
	c.ep.SocketOptions().SetKeepAlive(config.Enable)
	return nil
}

func tcpAddr(a tcpip.FullAddress) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(fromFull(a, netip.Addr{}))
}
