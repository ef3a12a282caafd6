package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// socketBuffer is what each socket asks the kernel for in each direction. The
// kernel may give less. 7 MiB is what macOS grants at most by default, and what
// wireguard-go asks for everywhere.
const socketBuffer = 7 << 20

// plain is a socket of the net package, a datagram at a time.
type plain struct {
	conn *net.UDPConn
	buf  []byte
}

func openPlain(p place) (transport, error) {
	if p.lane > 0 {
		return nil, errors.ErrUnsupported
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), p.network(), ":"+strconv.Itoa(int(p.port)))
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	// Refused where the system's limit is lower, which costs no more than speed.
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	return &plain{conn: conn, buf: make([]byte, bufferSize)}, nil
}

func (p *plain) receive(ms []Message) (int, error) {
	n, _, _, from, err := p.conn.ReadMsgUDPAddrPort(p.buf, nil)
	if err != nil {
		return 0, closedOr(err)
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	ms[0] = Message{Data: p.buf[:n], Seg: n, Endpoint: Endpoint{Addr: from}}
	return 1, nil
}

func (p *plain) send(ms []Message) (int, error) { return sendEach(ms, p.write) }

func (p *plain) write(datagram []byte, to netip.AddrPort) error {
	_, _, err := p.conn.WriteMsgUDPAddrPort(datagram, nil, to)
	return err
}

// sendEach is transport.send for a system that takes a datagram at a time.
func sendEach(ms []Message, write func(datagram []byte, to netip.AddrPort) error) (sent int, first error) {
	for i := range ms {
		m := &ms[i]
		m.Err = nil
		to := netip.AddrPortFrom(m.Endpoint.Addr.Addr().Unmap(), m.Endpoint.Addr.Port())
		data, seg := m.Data, m.Seg
		if seg <= 0 {
			seg = len(data)
		}
		for more := true; more && m.Err == nil; more = len(data) > 0 {
			n := min(seg, len(data))
			m.Err = sendError(write(data[:n], to))
			data = data[n:]
		}
		switch {
		case m.Err == nil:
			sent++
		case first == nil:
			first = m.Err
		}
	}
	return sent, first
}

// sendError is the errno within err, or net.ErrClosed; nil for nil.
func sendError(err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return closedOr(err)
}

func (p *plain) setMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	return errors.ErrUnsupported
}

func (p *plain) capabilities() Capabilities { return Capabilities{} }

func (p *plain) port() uint16 { return uint16(p.conn.LocalAddr().(*net.UDPAddr).Port) }

func (p *plain) close() error { return p.conn.Close() }
