package dnsd

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/miekg/dns"
)

// maxQuery is the longest datagram read: more than we say we take.
const maxQuery = 2048

// readPackets answers what arrives on a socket until it is closed.
func (s *Server) readPackets(conn net.PacketConn) {
	socket := packetSocket(plainSocket{conn})
	if c, ok := conn.(*net.UDPConn); ok {
		if s.readBatches(c) {
			return
		}
		socket = newUDPSocket(c)
	}
	w := worker{server: s}
	defer w.tally.flush(&s.counters)
	buf, failures := make([]byte, maxQuery), 0
	for {
		n, peer, err := socket.read(buf)
		if err != nil {
			if failures++; !s.retry(conn.LocalAddr(), err, failures) {
				return
			}
			continue
		}
		failures = 0
		from := client{addr: peer.addr()}
		w.now = s.clock()
		length, v := w.receive(buf, n, &from)
		if v == general {
			if length, v = w.admit(buf, n, &from), answered; length == 0 {
				message, asker := append([]byte(nil), buf[:n]...), from
				s.wg.Go(func() {
					if answer := s.admitted(message, asker); answer != nil {
						socket.write(answer, peer)
					}
				})
				v = ignored
			}
		}
		if v == answered {
			socket.write(buf[:length], peer)
		}
		w.tally.flush(&s.counters)
	}
}

// retry waits a while after an error of a socket or listener, longer the more
// there were in a row, and is false when there is no more to come from it. Most
// errors pass: one of a read may tell of a datagram sent before, which nobody
// listened for, and one of an accept that descriptors are short.
func (s *Server) retry(addr net.Addr, err error, failures int) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	s.logger.Debug("dns: receive", "addr", addr, "err", err)
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(min(time.Millisecond<<min(failures-1, 10), time.Second)):
		return true
	}
}

// A packetSocket reads datagrams and writes answers to where they came from.
type packetSocket interface {
	read(b []byte) (int, peer, error)
	write(b []byte, to peer)
}

// A peer is the other end of a datagram.
type peer struct {
	net     net.Addr
	session *dns.SessionUDP // holds also the address the datagram was sent to
}

func (p peer) addr() netip.AddrPort {
	if p.session != nil {
		return addrPort(p.session.RemoteAddr())
	}
	return addrPort(p.net)
}

// A plainSocket is any socket.
type plainSocket struct{ net.PacketConn }

func (s plainSocket) read(b []byte) (int, peer, error) {
	n, addr, err := s.ReadFrom(b)
	return n, peer{net: addr}, err
}

// write does not tell of errors: an answer that is lost is asked for again.
func (s plainSocket) write(b []byte, to peer) { s.WriteTo(b, to.net) }

// A udpSocket answers from the address that was asked, also when it is bound to
// all of them.
type udpSocket struct{ *net.UDPConn }

func newUDPSocket(c *net.UDPConn) packetSocket {
	if !addrPort(c.LocalAddr()).Addr().IsUnspecified() {
		return plainSocket{c}
	}
	// Where the system has no such thing, it picks the address itself.
	err6 := ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	err4 := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	if err4 != nil && err6 != nil {
		return plainSocket{c}
	}
	return udpSocket{c}
}

func (s udpSocket) read(b []byte) (int, peer, error) {
	n, session, err := dns.ReadFromSessionUDP(s.UDPConn, b)
	return n, peer{session: session}, err
}

func (s udpSocket) write(b []byte, to peer) { dns.WriteToSessionUDP(s.UDPConn, b, to.session) }

// admitted answers a query that admit made room for.
func (s *Server) admitted(message []byte, from client) []byte {
	defer s.inFlight.leave(from.addr.Addr())
	began := time.Now()
	answer := s.handle(s.ctx, message, from)
	s.logGeneral(message, answer, &from, time.Since(began))
	return answer
}

// addrPort is the address behind a net.Addr, or zero when there is none.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	case nil:
		return ap
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return plainAddr(ap)
}

// plainAddr is an address without zone, and IPv4 as such.
func plainAddr(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
