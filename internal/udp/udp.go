package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// An Endpoint is where a datagram came from and the local address it arrived at,
// or where one goes and the local address it leaves from. It is comparable, and
// an Endpoint received is right for sending back.
type Endpoint struct {
	// Addr is the far end. An IPv4 address is never mapped into IPv6; a
	// link-local one has its interface's index or name as its zone.
	Addr netip.AddrPort
	// Src is the local address. When zero, the system chooses.
	Src netip.Addr
	// Interface is the index of the local interface. When zero, the system chooses.
	Interface int32
}

// A Message is a run of datagrams to or from one endpoint.
type Message struct {
	// Data is the datagrams, end to end.
	Data []byte
	// Seg is the length of each datagram but the last, which may be shorter:
	// len(Data) for a single one, for which Send takes 0 as well.
	Seg int
	// Endpoint is where they came from or go.
	Endpoint Endpoint
	// ECN is the two bits of explicit congestion notification of the outer
	// headers (RFC 3168 section 5). Sent where Capabilities.ECN holds.
	ECN byte
	// Err is set by Send: nil, or why a datagram was not sent, and with it the
	// rest of the run.
	Err error
}

// Config is what Listen needs. The zero value listens on one lane, on a port the
// system chooses.
type Config struct {
	// Port is the same for both families; 0: one that is free in both.
	Port uint16
	// Lanes is how many sockets of each family share the port. The system
	// spreads flows over them, each flow to always the same. 0 means 1.
	Lanes int
	// FwMark is the SO_MARK of what is sent; 0: none. Linux only, and needs
	// CAP_NET_ADMIN.
	FwMark uint32
	// Hook is shown every datagram that is not WireGuard's, and says whether it
	// took it. It is called from Receive, for several sockets at once, must be
	// quick, and may neither keep nor change the bytes.
	Hook func(datagram []byte, from netip.AddrPort) bool
}

// Capabilities is what the sockets can do now. GSO is lost for good when a
// device refuses it.
type Capabilities struct {
	GSO bool // a run is sent as one (UDP_SEGMENT)
	GRO bool // a run is received as one (UDP_GRO)
	Src bool // Endpoint.Src and Endpoint.Interface are known and obeyed
	ECN bool // Message.ECN is known and obeyed
}

// Stats counts the datagrams that did not reach the receiver, since Listen.
type Stats struct {
	Foreign   uint64 // not WireGuard's, nor taken by Config.Hook
	Truncated uint64 // larger than a buffer, or without their control data
}

// A Conn is the sockets of one port. Its methods may be called at once.
type Conn struct {
	port    uint16
	lanes   []lane
	sockets []*Socket
	hook    func([]byte, netip.AddrPort) bool

	foreign   atomic.Uint64
	truncated atomic.Uint64

	closed   chan struct{}
	once     sync.Once
	closeErr error
}

// lane is the sockets one lane sends by; one is nil where the host lacks the family.
type lane struct{ v4, v6 transport }

// transport is one socket as an operating system offers it.
type transport interface {
	// receive waits for at least one run, and lends what is there until the next
	// call. Calls do not overlap. After close the error is net.ErrClosed.
	receive(ms []Message) (int, error)
	// send is Conn.Send for messages of its family only.
	send(ms []Message) (int, error)
	setMark(mark uint32) error
	capabilities() Capabilities
	port() uint16
	// close ends receive and send, and returns when no send is under way.
	close() error
}

// Port is the port all sockets are bound to.
func (c *Conn) Port() uint16 { return c.port }

// Sockets are what to receive from, each in a goroutine of its own: one for each
// family the host has and each lane. Where a system cannot spread flows there
// are those of lane 0 only; the other lanes send through them.
func (c *Conn) Sockets() []*Socket { return c.sockets }

// Send sends every message it can, in order, by the sockets of a lane, and
// returns how many were sent whole and the first error. Each message's Err tells
// its own fate; it is a plain syscall.Errno, or net.ErrClosed. Sent means taken by the
// system: UDP promises no more.
//
// A run longer than one system call takes is sent in several parts. A source
// address or interface the host no longer has is cleared in the message's
// Endpoint, and the datagrams leave from where the system chooses. When the
// socket is full Send waits a moment, then gives up with EAGAIN.
//
// Data is read only and not kept. Several goroutines may send at once. It panics
// when there is no such lane.
func (c *Conn) Send(lane int, ms []Message) (sent int, err error) {
	l := &c.lanes[lane]
	for len(ms) > 0 {
		family := ms[0].Endpoint.family()
		n := 1
		for n < len(ms) && ms[n].Endpoint.family() == family {
			n++
		}
		t := l.v4
		if family == 6 {
			t = l.v6
		}
		var k int
		var e error
		switch {
		case family == 0:
			e = fail(ms[:n], syscall.EDESTADDRREQ)
		case t == nil:
			e = fail(ms[:n], syscall.EAFNOSUPPORT)
		default:
			k, e = t.send(ms[:n])
		}
		sent += k
		if err == nil {
			err = e
		}
		ms = ms[n:]
	}
	return sent, err
}

// family is 4, 6, or 0 when there is no address.
func (e *Endpoint) family() int {
	switch a := e.Addr.Addr(); {
	case a.Is4(), a.Is4In6():
		return 4
	case a.IsValid():
		return 6
	}
	return 0
}

// fail gives all of ms the same fate.
func fail(ms []Message, err error) error {
	for i := range ms {
		ms[i].Err = err
	}
	return err
}

// SetFwMark changes the mark of what is sent from now on; see Config.FwMark.
// Where marks do not exist, any but 0 is errors.ErrUnsupported.
func (c *Conn) SetFwMark(mark uint32) error {
	if err := c.setMark(mark); err != nil {
		return fmt.Errorf("udp: %w", err)
	}
	return nil
}

func (c *Conn) setMark(mark uint32) error {
	for _, s := range c.sockets {
		if err := s.t.setMark(mark); err != nil {
			return fmt.Errorf("set firewall mark %#x: %w", mark, err)
		}
	}
	return nil
}

// Capabilities is what every socket can do now.
func (c *Conn) Capabilities() Capabilities {
	all := Capabilities{GSO: true, GRO: true, Src: true, ECN: true}
	for _, s := range c.sockets {
		one := s.t.capabilities()
		all.GSO = all.GSO && one.GSO
		all.GRO = all.GRO && one.GRO
		all.Src = all.Src && one.Src
		all.ECN = all.ECN && one.ECN
	}
	return all
}

// Stats is the counts so far.
func (c *Conn) Stats() Stats {
	return Stats{Foreign: c.foreign.Load(), Truncated: c.truncated.Load()}
}

// Close ends every Receive and Send with net.ErrClosed, and returns when no send
// is under way and the port is free. It is idempotent.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		var errs []error
		for _, s := range c.sockets {
			errs = append(errs, s.t.close())
		}
		c.closeErr = errors.Join(errs...)
	})
	return c.closeErr
}
