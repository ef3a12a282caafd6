package dnsd

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// maxQuery is the longest datagram read. It is more than we say we take.
const maxQuery = 2048

// readPackets answers what arrives on a socket until it is closed.
func (s *Server) readPackets(conn net.PacketConn) {
	buf := make([]byte, maxQuery)
	for {
		n, addr, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A datagram we sent may come back as an error of the next read, as
			// when nobody listens where the query came from.
			s.logger.Debug("dns: read", "addr", conn.LocalAddr(), "err", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		message := append([]byte(nil), buf[:n]...)
		s.wg.Go(func() {
			if answer := s.handle(s.ctx, message, client{addr: addrPort(addr)}); answer != nil {
				conn.WriteTo(answer, addr)
			}
		})
	}
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
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
