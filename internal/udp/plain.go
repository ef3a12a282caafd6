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

func (p *plain) send(ms []Message) (sent int, err error) {
	for i := range ms {
		m := &ms[i]
		if m.Err = p.sendRun(m); m.Err == nil {
			sent++
			continue
		}
		if err == nil {
			err = m.Err
		}
		if m.Err == net.ErrClosed {
			fail(ms[i:], m.Err)
			break
		}
	}
	return sent, err
}

// sendRun tries every datagram of a run, and returns the first error.
func (p *plain) sendRun(m *Message) (err error) {
	to := m.Endpoint.AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	data, seg := m.Data, m.Seg
	if seg <= 0 {
		seg = len(data)
	}
	for first := true; first || len(data) > 0; first = false {
		n := min(seg, len(data))
		if _, _, e := p.conn.WriteMsgUDPAddrPort(data[:n], nil, to); e != nil && err == nil {
			err = sendError(e)
		}
		data = data[n:]
	}
	return err
}

// sendError is the errno within err, or net.ErrClosed.
func sendError(err error) error {
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
