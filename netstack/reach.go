package netstack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A reach is what TCP's settings leave to a connection to decide of its buffers.
type reach struct {
	recv, send bool // depend on how long the path is
}

// reach is what t, before it is completed, leaves.
func (t TCP) reach() reach { return reach{recv: t.RecvBuffer == 0, send: t.SendBuffer == 0} }

// extend gives a connection that was just made over a long path its larger send
// buffer, which takes only what the program writes. It returns how long the path
// is if the receive buffer may become larger too, and otherwise 0.
func (r reach) extend(ep tcpip.Endpoint) (rtt time.Duration) {
	if !r.recv && !r.send {
		return 0
	}
	var info tcpip.TCPInfoOption
	if ep.GetSockOpt(&info) != nil || info.RTT < farRTT {
		return 0
	}
	if r.send {
		ep.SocketOptions().SetSendBufferSize(farBuffer, true)
	}
	if !r.recv {
		return 0
	}
	return info.RTT
}

// A gauge sees whether a connection over a long path is held up by its window: in
// every round trip one is read. A slower link keeps what exceeds it in its queue,
// where the round trips become longer, and less is read in the time of one. What
// a program does not read does not make a receive buffer larger either.
type gauge struct {
	rtt   time.Duration // of the handshake; 0: nobody wants to know
	since time.Time
	read  int64
}

const (
	gaugedTrips  = 4 // how long to look
	gaugedWindow = defaultRecvBuffer / 2 * 92 / 100
)

// full counts what was read up to now, and reports whether the window was full
// again and again.
func (g *gauge) full(now time.Time, read int) bool {
	g.read += int64(read)
	elapsed := now.Sub(g.since)
	if elapsed < gaugedTrips*g.rtt {
		return false
	}
	trips := float64(elapsed) / float64(g.rtt)
	full := float64(g.read) >= gaugedWindow*trips
	g.since, g.read = now, 0
	return full
}

// recvBuffer is who decides about a receive buffer.
type recvBuffer struct {
	gauge gauge // the reader's

	mu    sync.Mutex
	fixed bool // by the program, or at its largest
}

// moderate adjusts the receive buffer to how fast it is read.
func (c *tcpConn) moderate(read int) {
	if c.buffer.gauge.rtt != 0 && c.buffer.gauge.full(time.Now(), read) {
		c.buffer.gauge.rtt = 0
		c.fixRecvBuffer(farBuffer, false)
	}
	c.ep.ModerateRecvBuf(read)
}

// fixRecvBuffer ends gVisor's growing of the buffer. What the program asks for
// counts more.
func (c *tcpConn) fixRecvBuffer(bytes int, asked bool) {
	c.buffer.mu.Lock()
	defer c.buffer.mu.Unlock()
	if c.buffer.fixed && !asked {
		return
	}
	c.buffer.fixed = true
	c.ep.SocketOptions().SetReceiveBufferSize(int64(bytes), true)
}
