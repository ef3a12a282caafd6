package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// A Relay is a simulated link between two UDP sockets, on the loopback
// interface. Either side sees the other at an address of the relay, and the
// relay sends to where it last heard the side from.
//
// Each datagram passes by itself, however many of them a side sent or receives
// in one system call. Its ceiling is therefore some 100,000 datagrams a second on
// one core that sends and receives them too, or 1.1 Gbit/s at WireGuard's usual
// size (BenchmarkRelay).
type Relay struct {
	a, b    end
	ab, ba  *line
	closing sync.Once
	running sync.WaitGroup
	err     error
}

// An end is the relay's socket towards one side.
type end struct {
	conn *net.UDPConn
	side atomic.Pointer[netip.AddrPort]
}

// OpenRelay begins to relay between the sockets at a and b, each an address of
// the loopback interface, of either family. The links are from a to b and from b
// to a.
func OpenRelay(a, b netip.AddrPort, ab, ba Link) (*Relay, error) {
	r := new(Relay)
	for _, e := range []struct {
		end  *end
		side netip.AddrPort
	}{{&r.a, a}, {&r.b, b}} {
		if err := e.end.open(e.side); err != nil {
			return nil, fmt.Errorf("testnet: relay for %v: %w", e.side, errors.Join(err, r.a.close()))
		}
	}
	r.ab, r.ba = newLine(ab), newLine(ba)
	r.carry(&r.a, &r.b, r.ab)
	r.carry(&r.b, &r.a, r.ba)
	return r, nil
}

// A is where a finds b.
func (r *Relay) A() netip.AddrPort { return r.a.addr() }

// B is where b finds a.
func (r *Relay) B() netip.AddrPort { return r.b.addr() }

// SetLinks changes the links for the datagrams to come.
func (r *Relay) SetLinks(ab, ba Link) {
	r.ab.setLink(ab)
	r.ba.setLink(ba)
}

// Stats is what happened in each direction so far.
func (r *Relay) Stats() (ab, ba LinkStats) { return r.ab.stats(), r.ba.stats() }

// Close ends the relay and returns when nothing of it runs any more. It is
// idempotent.
func (r *Relay) Close() error {
	r.closing.Do(func() {
		r.err = errors.Join(r.a.close(), r.b.close())
		r.ab.end()
		r.ba.end()
		r.running.Wait()
	})
	return r.err
}

// carry starts one direction, which runs until its line ends.
func (r *Relay) carry(from, to *end, l *line) {
	r.running.Go(func() { from.receive(l) })
	r.running.Go(func() {
		into := make([][]byte, relayBatch)
		for n := l.take(into); n > 0; n = l.take(into) {
			for _, datagram := range into[:n] {
				// What the system refuses is lost, as on any link.
				to.conn.WriteToUDPAddrPort(datagram, *to.side.Load())
			}
		}
	})
}

const (
	relayBatch  = 64
	relayBuffer = 4 << 20 // bytes that wait in a socket, as far as the system allows it
	maxDatagram = 65535
)

func (e *end) open(side netip.AddrPort) error {
	side = netip.AddrPortFrom(side.Addr().Unmap(), side.Port())
	if !side.Addr().IsLoopback() || side.Port() == 0 {
		return errors.New("not an address of a socket on the loopback interface")
	}
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if side.Addr().Is6() {
		local = netip.IPv6Loopback()
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
	if err != nil {
		return err
	}
	conn.SetReadBuffer(relayBuffer)
	conn.SetWriteBuffer(relayBuffer)
	e.conn = conn
	e.side.Store(&side)
	return nil
}

func (e *end) addr() netip.AddrPort { return e.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (e *end) close() error {
	if e.conn == nil {
		return nil
	}
	return e.conn.Close()
}

// receive puts on the line what the side sends, and learns where it is.
func (e *end) receive(l *line) {
	datagram := make([]byte, maxDatagram)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(datagram)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // nobody listens where one was sent to
		}
		if from != *e.side.Load() {
			moved := from // else every from would be allocated
			e.side.Store(&moved)
		}
		l.put(datagram[:n])
	}
}
