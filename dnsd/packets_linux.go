package dnsd

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call takes or gives.
	batchSize = 64
	// controlSize is room for an IP_PKTINFO or IPV6_PKTINFO message.
	controlSize = 48
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// A batchReader answers what arrives on a UDP socket, a batch at a time.
type batchReader struct {
	server *Server
	conn   *net.UDPConn
	raw    syscall.RawConn
	// wildcard: the socket is bound to every address, so that each datagram comes
	// with the one it was sent to, and the answer leaves from there.
	wildcard bool
	idle     *sync.Pool

	*packetBatch // nil while nothing arrives

	// Made once, since a closure for each call would be an allocation each.
	recvmmsg, sendmmsg func(fd uintptr) bool
	errno              syscall.Errno
}

// A packetBatch is the memory recvmmsg fills and, once answers stand in the
// queries' place, sendmmsg empties. It is some 150 KB, so a socket has one only
// from the arrival of a datagram until its answer has left: a server on a hundred
// addresses is mostly waiting.
type packetBatch struct {
	in         [batchSize]mmsghdr
	inVectors  [batchSize]unix.Iovec
	out        [batchSize]mmsghdr
	outVectors [batchSize]unix.Iovec
	names      [batchSize]unix.RawSockaddrInet6 // of either family
	control    [batchSize][controlSize]byte
	buffers    [batchSize][maxQuery]byte

	received, queued, sent int
}

// Batches that no socket has, ready to be received into, of sockets that are bound
// to one address and of those that are bound to every one.
var idleSpecific, idleWildcard = batches(false), batches(true)

func batches(wildcard bool) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := new(packetBatch)
		for i := range batchSize {
			b.inVectors[i].Base = &b.buffers[i][0]
			b.inVectors[i].SetLen(maxQuery)
			h := &b.in[i].header
			h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
			h.Iov = &b.inVectors[i]
			h.SetIovlen(1)
			b.ready(i, wildcard)
		}
		return b
	}}
}

// readBatches answers what arrives on a UDP socket until it is closed, many
// datagrams with each system call (recvmmsg and sendmmsg, Linux 3.0). It is
// false, and has done nothing, where that cannot be had.
func (s *Server) readBatches(conn *net.UDPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	b := &batchReader{server: s, conn: conn, raw: raw, idle: idleSpecific}
	b.wildcard = addrPort(conn.LocalAddr()).Addr().IsUnspecified()
	if b.wildcard {
		if !b.askDestinations() {
			return false
		}
		b.idle = idleWildcard
	}
	b.recvmmsg = func(fd uintptr) bool {
		m := b.idle.Get().(*packetBatch)
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		b.errno = errno
		if errno != 0 {
			b.idle.Put(m)
			return errno != unix.EAGAIN && errno != unix.EINTR
		}
		m.received = int(n)
		b.packetBatch = m
		return true
	}
	b.sendmmsg = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.queued-b.sent), unix.MSG_DONTWAIT, 0, 0)
		if b.errno = errno; errno == 0 {
			b.sent += int(n)
		}
		return errno != unix.EAGAIN
	}
	b.run()
	return true
}

// askDestinations makes datagrams come with the address they were sent to.
func (b *batchReader) askDestinations() bool {
	var err error
	ctl := b.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		if err != nil { // an IPv4 socket
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	return ctl == nil && err == nil
}

// ready makes message i fit to be received into.
func (b *packetBatch) ready(i int, wildcard bool) {
	h := &b.in[i].header
	h.Namelen = unix.SizeofSockaddrInet6
	h.Flags = 0
	if wildcard {
		h.Control = &b.control[i][0]
		h.SetControllen(controlSize)
	}
}

func (b *batchReader) run() {
	s := b.server
	w := worker{server: s}
	defer w.tally.flush(&s.counters)
	failures := 0
	for {
		err := b.raw.Read(b.recvmmsg)
		if err == nil && b.errno != 0 {
			err = b.errno
		}
		if err != nil {
			if failures++; !s.retry(b.conn.LocalAddr(), err, failures) {
				return
			}
			continue
		}
		failures = 0
		w.now = s.clock()
		b.queued, b.sent = 0, 0
		for i := range b.received {
			b.answer(&w, i)
		}
		w.tally.flush(&s.counters)
		b.flush()
		for i := range b.received {
			b.ready(i, b.wildcard)
		}
		b.idle.Put(b.packetBatch)
		b.packetBatch = nil
	}
}

// answer answers datagram i in place, or hands it to the general path.
func (b *batchReader) answer(w *worker, i int) {
	h := &b.in[i]
	if h.header.Flags&unix.MSG_TRUNC != 0 { // longer than a query can be
		w.tally.add(queriesUDP, 1)
		w.tally.add(droppedMalformed, 1)
		return
	}
	buf, n := b.buffers[i][:], int(h.length)
	from := client{addr: b.source(i)}
	if b.wildcard {
		fromThere(b.control[i][:h.header.Controllen])
	}
	length, v := w.receive(buf, n, &from)
	if v == general {
		if length, v = w.admit(buf, n, &from), answered; length == 0 {
			b.general(buf[:n], b.control[i][:h.header.Controllen], b.names[i].Scope_id, from)
			return
		}
	}
	if v == answered {
		b.queue(i, length)
	}
}

// general answers a query on the general path.
func (b *batchReader) general(message, control []byte, scope uint32, from client) {
	message, control = append([]byte(nil), message...), append([]byte(nil), control...)
	addr := from.addr
	if addr.Addr().IsLinkLocalUnicast() && addr.Addr().Is6() {
		zone := strconv.FormatUint(uint64(scope), 10)
		addr = netip.AddrPortFrom(addr.Addr().WithZone(zone), addr.Port())
	}
	b.server.wg.Go(func() {
		if answer := b.server.admitted(message, from); answer != nil {
			b.conn.WriteMsgUDPAddrPort(answer, control, addr)
		}
	})
}

// source is where datagram i came from, without the zone of a link-local address.
func (b *packetBatch) source(i int) netip.AddrPort {
	name := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), port)
}

// fromThere turns the control message that says where a datagram was sent to
// into one that says where its answer is sent from: the same, without the
// interface it came in by, which need not be the way out.
func fromThere(control []byte) {
	if len(control) < unix.CmsgLen(0) {
		return
	}
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := control[unix.CmsgLen(0):]
	switch {
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		clear(data[:4])
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if !netip.AddrFrom16([16]byte(data)).IsLinkLocalUnicast() {
			clear(data[16:20])
		}
	}
}

// queue makes the answer in buffer i one to be sent.
func (b *packetBatch) queue(i, length int) {
	k := b.queued
	b.queued++
	b.outVectors[k].Base = &b.buffers[i][0]
	b.outVectors[k].SetLen(length)
	h := &b.out[k].header
	h.Name, h.Namelen = b.in[i].header.Name, b.in[i].header.Namelen
	h.Iov = &b.outVectors[k]
	h.SetIovlen(1)
	h.Control, h.Controllen = b.in[i].header.Control, b.in[i].header.Controllen
}

// flush sends what is queued. An answer the system refuses is left out: whoever
// misses it asks again.
func (b *batchReader) flush() {
	for b.sent < b.queued {
		if b.raw.Write(b.sendmmsg) != nil {
			return // closed
		}
		if b.errno != 0 && b.errno != unix.EINTR {
			b.sent++
		}
	}
}
