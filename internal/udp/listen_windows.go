package udp

import (
	"errors"
	"io"
	"net/netip"
	"sync"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/conn"
)

// systemOpener prefers registered I/O, which WireGuard's bind drives. The bind
// opens both families at once or none, so where it cannot (no registered I/O
// before Windows 8, or a family is missing) both are plain.
func systemOpener() opener {
	var v6 *ring // what goes with the IPv4 socket opened last
	return func(p place) (transport, error) {
		switch {
		case p.lane > 0:
			return nil, errors.ErrUnsupported
		case p.v6 && v6 != nil:
			return v6, nil
		case p.v6:
			return openPlain(p)
		}
		var v4 *ring
		var err error
		v4, v6, err = openRings(p.port)
		switch {
		case err == nil:
			return v4, nil
		case errors.Is(err, errPortInUse):
			return nil, err
		default:
			return openPlain(p)
		}
	}
}

const (
	// ringBuffer is what the bind's rings hold of a datagram, rounded up; larger
	// ones are neither sent nor received.
	ringBuffer = 2048

	// ringEndpoints bounds the endpoints kept in the bind's own form, which is
	// slow to make.
	ringEndpoints = 4096
)

// ring is one family of a bind for registered I/O.
type ring struct {
	bind  *conn.WinRingBind
	bound uint16
	fn    conn.ReceiveFunc

	// Only the receiving goroutine's.
	bufs  [1][]byte
	sizes [1]int
	eps   [1]conn.Endpoint

	mu        sync.Mutex // protects the rest
	endpoints map[netip.AddrPort]conn.Endpoint
	out       [1][]byte
}

func openRings(port uint16) (v4, v6 *ring, err error) {
	bind, ok := conn.NewDefaultBind().(*conn.WinRingBind)
	if !ok {
		return nil, nil, errors.ErrUnsupported
	}
	fns, bound, err := bind.Open(port)
	if err != nil {
		return nil, nil, err
	}
	if len(fns) != 2 { // IPv4's, then IPv6's
		bind.Close()
		return nil, nil, errors.ErrUnsupported
	}
	for i, r := range [2]**ring{&v4, &v6} {
		*r = &ring{
			bind:      bind,
			bound:     bound,
			fn:        fns[i],
			bufs:      [1][]byte{make([]byte, ringBuffer)},
			endpoints: make(map[netip.AddrPort]conn.Endpoint),
		}
	}
	return v4, v6, nil
}

func (r *ring) receive(ms []Message) (int, error) {
	for {
		n, err := r.fn(r.bufs[:], r.sizes[:], r.eps[:])
		switch {
		case errors.Is(err, windows.WSAECONNRESET), errors.Is(err, windows.WSAENETRESET):
			// What ICMP says of a datagram sent earlier is no fault of the socket.
		case err != nil:
			return 0, closedOr(err)
		case n == 1:
			from, err := addrPort(r.eps[0])
			if err != nil {
				return 0, err
			}
			size := r.sizes[0]
			ms[0] = Message{Data: r.bufs[0][:size:size], Seg: size, Endpoint: Endpoint{Addr: from}}
			return 1, nil
		}
	}
}

// addrPort is the far end of an endpoint of the bind.
func addrPort(e conn.Endpoint) (netip.AddrPort, error) {
	addr := e.DstIP()
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		return netip.ParseAddrPort(e.DstToString()) // which has the zone
	}
	b := e.DstToBytes() // address, then port, the lower byte first
	if len(b) < 2 {
		return netip.AddrPort{}, windows.WSAEAFNOSUPPORT
	}
	port := uint16(b[len(b)-2]) | uint16(b[len(b)-1])<<8
	return netip.AddrPortFrom(addr.Unmap(), port), nil
}

func (r *ring) send(ms []Message) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return sendEach(ms, r.write)
}

// write sends one datagram; r.mu is held.
func (r *ring) write(datagram []byte, to netip.AddrPort) error {
	e := r.endpoints[to]
	if e == nil {
		var err error
		if e, err = r.bind.ParseEndpoint(to.String()); err != nil {
			return err
		}
		if len(r.endpoints) == ringEndpoints {
			clear(r.endpoints)
		}
		r.endpoints[to] = e
	}
	r.out[0] = datagram
	err := r.bind.Send(r.out[:], e)
	r.out[0] = nil
	if errors.Is(err, io.ErrShortBuffer) {
		return windows.WSAEMSGSIZE
	}
	return err
}

func (r *ring) setMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	return errors.ErrUnsupported
}

func (r *ring) capabilities() Capabilities { return Capabilities{} }

func (r *ring) port() uint16 { return r.bound }

// close ends both families. The second time it does nothing.
func (r *ring) close() error { return r.bind.Close() }
