package udp

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// receiver is what recvmmsg fills: an arena of one buffer for each run, which
// holds what receive lends, and the headers, of which each call renews those it
// used and no others.
type receiver struct {
	arena []byte
	hdrs  [runs]mmsghdr
	iovs  [runs]unix.Iovec
	names [runs]unix.RawSockaddrInet6 // larger than its IPv4 sister
	ctls  [runs]controlBuffer

	try   func(fd uintptr) bool // tryReceive, made once
	want  int
	got   int
	errno syscall.Errno
}

func (r *receiver) init() {
	r.arena = make([]byte, runs*bufferSize)
	r.try = r.tryReceive
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		r.iovs[i].Base = &r.arena[i*bufferSize]
		r.iovs[i].SetLen(bufferSize)
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&r.ctls[i]))
		r.renew(i)
	}
}

// renew gives back to header i the room the kernel said it used.
func (r *receiver) renew(i int) {
	h := &r.hdrs[i].hdr
	h.Namelen = unix.SizeofSockaddrInet6
	h.SetControllen(int(unsafe.Sizeof(r.ctls[i])))
}

func (r *receiver) receive(raw syscall.RawConn, ms []Message) (int, error) {
	r.want, r.got, r.errno = min(len(ms), runs), 0, 0
	if err := raw.Read(r.try); err != nil {
		return 0, closedOr(err)
	}
	if r.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", r.errno)
	}
	for i := range r.got {
		r.message(i, &ms[i])
		r.renew(i)
	}
	return r.got, nil
}

// tryReceive takes what is there now; false parks the goroutine until there is
// something.
func (r *receiver) tryReceive(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])),
			uintptr(r.want), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			r.errno = errno
			if errno == 0 {
				r.got = int(n)
			}
			return true
		}
	}
}

// message describes what header i received.
func (r *receiver) message(i int, m *Message) {
	h := &r.hdrs[i]
	at := i * bufferSize
	c := parseControl(r.ctls[i].bytes()[:h.hdr.Controllen])
	*m = Message{
		Data:     r.arena[at : at+int(h.n) : at+int(h.n)],
		Seg:      c.seg,
		Endpoint: Endpoint{Src: c.src, Interface: c.index},
		ECN:      c.ecn,
	}
	if m.Seg <= 0 || m.Seg > len(m.Data) {
		m.Seg = len(m.Data)
	}
	if c.src.IsMulticast() {
		m.Endpoint.Src = netip.Addr{} // no address to answer from
	}
	switch name := &r.names[i]; name.Family {
	case unix.AF_INET:
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		m.Endpoint.Addr = netip.AddrPortFrom(netip.AddrFrom4(name.Addr), bigEndian(&name.Port))
	case unix.AF_INET6:
		addr := netip.AddrFrom16(name.Addr)
		if name.Scope_id != 0 { // of link-local addresses
			addr = addr.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
		}
		m.Endpoint.Addr = netip.AddrPortFrom(addr, bigEndian(&name.Port))
	}
	// Without its control data a run cannot be told from one datagram.
	if h.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		m.Err = errTruncated
	}
}

// bigEndian reads a port, which is in network order whatever the machine's.
func bigEndian(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}
