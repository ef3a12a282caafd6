package udp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendHeaders is how many messages one sendmmsg takes: more than a run of
	// full-size datagrams needs where each has its own.
	sendHeaders = 64

	// maxSegments is UDP_MAX_SEGMENTS of newer kernels, oldSegments that of those
	// before "net: change maximum number of UDP segments to 128". Which it is shows
	// at the first long run. Twice the segments take 40% off the cost of sending
	// and receiving datagrams of 128 bytes.
	maxSegments = 128
	oldSegments = 64

	// The largest UDP payload: the IP length, without jumbo payloads, less the
	// headers it counts (RFC 791 section 3.1, RFC 8200 section 3).
	maxPayload4 = 65535 - 20 - 8
	maxPayload6 = 65535 - 8

	// sendPatience is how long a send waits for a full socket.
	sendPatience = 100 * time.Millisecond
)

// sender is what sendmmsg reads. A message is sent in chunks, of one header each,
// that share their address and control data, which are in the slot of its first.
type sender struct {
	b  *batch
	v6 bool

	mu    sync.Mutex // one send at a time; protects all below
	hdrs  [sendHeaders]mmsghdr
	iovs  [sendHeaders]unix.Iovec
	names [sendHeaders]unix.RawSockaddrInet6
	ctls  [sendHeaders]controlBuffer

	ms      []Message
	i, off  int // the next byte to send is ms[i].Data[off]
	sent    int
	err     error // the first failure
	careful int   // the message that may have but allow segments a header, or -1
	allow   int
	waiting bool // a write deadline is set

	try  func(fd uintptr) bool // trySend, made once
	call func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno)
}

func (s *sender) init(b *batch, v6 bool) {
	s.b, s.v6 = b, v6
	s.try = s.trySend
	s.call = sendmmsg
	for i := range s.hdrs {
		s.hdrs[i].hdr.Iov = &s.iovs[i]
		s.hdrs[i].hdr.SetIovlen(1)
	}
}

func sendmmsg(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&hdrs[0])),
		uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func (s *sender) send(ms []Message) (sent int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ms, s.i, s.off, s.sent, s.err, s.careful = ms, 0, 0, 0, nil, -1
	if err := s.b.raw.Write(s.try); err != nil {
		s.abandon(err)
	}
	if s.waiting {
		s.waiting = false
		_ = s.b.conn.SetWriteDeadline(time.Time{}) // fails only when closed
	}
	s.ms = nil
	return s.sent, s.err
}

// abandon fails all that is left.
func (s *sender) abandon(err error) {
	err = closedOr(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = unix.EAGAIN
	}
	for s.i < len(s.ms) {
		s.fail(err)
	}
}

// trySend sends until all is sent or the socket is full: false parks the
// goroutine until there is room again.
func (s *sender) trySend(fd uintptr) bool {
	for s.i < len(s.ms) {
		n, errno := s.call(fd, s.hdrs[:s.fill()])
		if errno == 0 {
			s.advance(n)
			continue
		}
		m := &s.ms[s.i]
		size, segmented := s.chunk(s.i, s.off)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			s.waiting = true
			_ = s.b.conn.SetWriteDeadline(time.Now().Add(sendPatience))
			return false
		case segmented && errno == unix.EIO:
			// The device has no transmit checksum offload, without which older
			// kernels do no UDP_SEGMENT, or the route is transformed by IPsec
			// (udp_send_skb in net/ipv4/udp.c).
			s.b.segments.Store(1)
		case segmented && errno == unix.EINVAL && size > oldSegments*m.Seg:
			s.careful, s.allow = s.i, oldSegments
		case segmented && (errno == unix.EMSGSIZE || errno == unix.EINVAL):
			// A segment is larger than the path MTU, for which older kernels
			// say EINVAL: offload does not fragment, a plain send does.
			s.careful, s.allow = s.i, 1
		case isStale(errno) && hasSource(&m.Endpoint):
			m.Endpoint.Src, m.Endpoint.Interface = netip.Addr{}, 0
			s.careful = -1 // EINVAL may have come from the source
		default:
			s.fail(errno)
		}
	}
	return true
}

// isStale reports whether errno may come from a source address or an interface
// that is no more, or cannot reach the destination any longer.
func isStale(errno syscall.Errno) bool {
	switch errno {
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN:
		return true
	}
	return false
}

// hasSource reports whether e asks for other than the system's own choice.
func hasSource(e *Endpoint) bool { return e.Src.IsValid() || e.Interface != 0 }

// fill makes headers for what comes next, as many as there is room for.
func (s *sender) fill() (n int) {
	for i, off := s.i, s.off; i < len(s.ms) && n < len(s.hdrs); i, off = i+1, 0 {
		m := &s.ms[i]
		slot := n
		namelen := s.putName(slot, &m.Endpoint)
		ctl := s.ctls[slot].bytes()
		plain := putEndpoint(ctl, &m.Endpoint, s.v6, m.ECN)
		whole := 0
		for {
			size, segmented := s.chunk(i, off)
			h := &s.hdrs[n].hdr
			h.Name = (*byte)(unsafe.Pointer(&s.names[slot]))
			h.Namelen = namelen
			h.Control = &ctl[0]
			h.SetControllen(plain)
			if segmented {
				if whole == 0 {
					whole = putSegment(ctl, plain, m.Seg)
				}
				h.SetControllen(whole)
			}
			s.iovs[n].Base = unsafe.SliceData(m.Data[off:])
			s.iovs[n].SetLen(size)
			off += size
			n++
			if off >= len(m.Data) || n == len(s.hdrs) {
				break
			}
		}
	}
	return n
}

// chunk is how many bytes of ms[i], from off on, one header takes, and whether
// they are several datagrams.
func (s *sender) chunk(i, off int) (size int, segmented bool) {
	m := &s.ms[i]
	rest := len(m.Data) - off
	if m.Seg <= 0 || m.Seg >= rest {
		return rest, false
	}
	limit := maxPayload4
	if s.v6 {
		limit = maxPayload6
	}
	segments := int(s.b.segments.Load())
	if i == s.careful {
		segments = min(segments, s.allow)
	}
	segments = min(segments, limit/m.Seg)
	if segments < 2 {
		return m.Seg, false
	}
	return min(rest, segments*m.Seg), true
}

// advance goes past the first n headers, which were sent.
func (s *sender) advance(n int) {
	if s.i == s.careful && s.allow == oldSegments {
		s.b.segments.CompareAndSwap(maxSegments, oldSegments) // that was what it took
	}
	for i := range n {
		m := &s.ms[s.i]
		s.off += int(s.iovs[i].Len)
		if s.off >= len(m.Data) {
			m.Err = nil
			s.sent++
			s.i, s.off = s.i+1, 0
		}
	}
}

// fail gives up the rest of the message under way.
func (s *sender) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.ms[s.i].Err = err
	s.i, s.off = s.i+1, 0
}

// putName writes the destination into a slot and returns its length.
func (s *sender) putName(slot int, e *Endpoint) uint32 {
	a := e.Addr.Addr()
	if !s.v6 {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.names[slot]))
		name.Family = unix.AF_INET
		putPort(&name.Port, e.Addr.Port())
		name.Addr = a.Unmap().As4()
		return unix.SizeofSockaddrInet4
	}
	name := &s.names[slot]
	name.Family = unix.AF_INET6
	name.Flowinfo = 0
	putPort(&name.Port, e.Addr.Port())
	name.Addr = a.As16()
	name.Scope_id = scope(a.Zone())
	return unix.SizeofSockaddrInet6
}

// noInterface is an index no interface has, so that the kernel refuses it.
const noInterface = 1<<31 - 1

// scope is the index of a zone's interface, and 0 without a zone.
func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(n)
	}
	// Asked for each time, as interfaces come and go. The zones that receive
	// gives are numbers.
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return noInterface
	}
	return uint32(i.Index)
}

// putPort writes a port in network order, whatever the machine's.
func putPort(at *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(at))[:], port)
}
