package overlay

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/overlayd/overlayd/packet"
	"golang.org/x/sys/unix"
)

// tunArena is the memory a lane reads into: room for a full batch of small
// packets at the usual MTUs, or for a few of the largest superpackets, and small
// enough to stay in a core's second level cache.
const tunArena = 256 << 10

// A tunLane is one queue of the interface.
type tunLane struct {
	file *os.File // nonblocking, in the runtime's poller
	conn syscall.RawConn
	fd   tunFD

	// gate is held for reading during a write and for writing to close: a
	// descriptor that is closed may be another file's at once.
	gate sync.RWMutex
	shut bool

	// The reader's.
	arena []byte
	batch *packet.Batch
	mtu   int
	err   error
	fill  func(uintptr) bool // l.readAvailable, made once because that allocates
}

// newTUNLane takes fd over, which is nonblocking.
func newTUNLane(fd int) *tunLane {
	l := &tunLane{
		file:  os.NewFile(uintptr(fd), "/dev/net/tun"),
		fd:    tunFD(fd),
		arena: make([]byte, tunArena),
	}
	l.conn, _ = l.file.SyscallConn() // fails only without a file
	l.fill = l.readAvailable
	return l
}

// close returns when the descriptor is closed, which readers and writers do not
// survive.
func (l *tunLane) close() {
	l.gate.Lock()
	l.shut = true
	l.gate.Unlock()
	l.file.Close()
}

// read waits for packets and fills b with those that are there.
func (l *tunLane) read(b *packet.Batch, mtu int) error {
	b.Reset()
	l.batch, l.mtu, l.err = b, mtu, nil
	for {
		if err := l.conn.Read(l.fill); err != nil {
			return err
		}
		b.Sweep() // what was malformed
		if len(b.Packets) > 0 {
			return nil
		}
		if l.err != nil {
			return l.err
		}
	}
}

// readAvailable reads until the queue is empty, or there is no room for another
// packet. It reports whether that was anything, or an error.
func (l *tunLane) readAvailable(uintptr) bool {
	b, free := l.batch, l.arena
	for !b.Full() && len(free) >= virtioHeaderSize+packet.MaxSize+packet.Slack {
		n, errno := l.fd.read(free[:virtioHeaderSize+packet.MaxSize])
		switch {
		case errno == unix.EAGAIN:
			return len(b.Packets) > 0
		case errno == unix.EINTR:
			continue
		case errno == unix.EINVAL: // a packet the header cannot describe; it is gone
			n = 0
		case errno != 0:
			l.err = errno
			return true
		case n == 0:
			l.err = io.ErrUnexpectedEOF
			return true
		}
		header, data := free[:min(n, virtioHeaderSize)], free[min(n, virtioHeaderSize):n]
		size := max(len(data), l.mtu) + packet.Slack
		p := b.Append(data[:len(data):size], 0)
		if len(header) < virtioHeaderSize || !unpackVirtio(header, p) {
			p.Drop(packet.Malformed)
			continue
		}
		free = free[virtioHeaderSize+size:]
	}
	return true
}

// write hands every live packet of b to the kernel, and drops those it does not
// take.
func (l *tunLane) write(b *packet.Batch, offloads tunOffloads) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.shut {
		return net.ErrClosed
	}
	var f tunFrame
	dropped := false
	for i := range b.Packets {
		p := &b.Packets[i]
		if !p.Live() {
			continue
		}
		errno := l.writePacket(&f, p, offloads)
		if errno == unix.EBADFD {
			return errno
		}
		if errno != 0 {
			p.Drop(refusal(errno))
			dropped = true
		}
	}
	if dropped {
		b.Sweep()
	}
	return nil
}

func refusal(errno unix.Errno) packet.Reason {
	switch errno {
	case unix.EINVAL:
		return packet.Malformed
	case unix.EIO: // tun_get_user of linux/drivers/net/tun.c
		return packet.DeviceDown
	}
	return packet.DeviceFull // EAGAIN, ENOBUFS, ENOMEM
}

// A tunFrame is an ordinary packet behind its header, which stays zero: there is no
// segmentation, and the checksums are complete. The kernel takes one piece of
// memory in less time than two (by 5% of a write of either 64 or 1,400 bytes,
// Linux 6.18), the copy included.
type tunFrame [virtioHeaderSize + 1500]byte

func (l *tunLane) writePacket(f *tunFrame, p *packet.Packet, offloads tunOffloads) unix.Errno {
	if p.Seg == 0 {
		return l.writeOrdinary(f, p.Data)
	}
	if header, ok := packVirtio(p, offloads); ok {
		errno := l.fd.writev(&header, p.Data)
		if errno != unix.EINVAL {
			return errno
		}
	}
	return l.writeCut(f, p)
}

// writeCut writes the segments of a superpacket one by one, for a kernel that
// does not take it whole. It goes on after one that is refused, as a link would.
func (l *tunLane) writeCut(f *tunFrame, p *packet.Packet) (refused unix.Errno) {
	var c packet.Cutter
	if c.Start(p) != nil {
		return unix.EINVAL
	}
	for s := c.Next(); s != nil; s = c.Next() {
		if errno := l.writeOrdinary(f, s); errno != 0 {
			refused = errno
		}
	}
	return refused
}

func (l *tunLane) writeOrdinary(f *tunFrame, data []byte) unix.Errno {
	if len(data) > len(f)-virtioHeaderSize {
		return l.fd.writev(new(virtioHeader), data)
	}
	copy(f[virtioHeaderSize:], data)
	return l.fd.write(f[:virtioHeaderSize+len(data)])
}

// A tunFD is a nonblocking descriptor. Its calls are the system's without the
// scheduler being told (RawSyscall), which has no reason to let another goroutine
// run meanwhile.
type tunFD int

func (fd tunFD) read(b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (fd tunFD) write(b []byte) unix.Errno {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

func (fd tunFD) writev(header *virtioHeader, data []byte) unix.Errno {
	parts := [2]unix.Iovec{{Base: &header[0]}, {Base: unsafe.SliceData(data)}}
	parts[0].SetLen(len(header))
	parts[1].SetLen(len(data))
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts)), uintptr(len(parts)))
		if errno != unix.EINTR {
			return errno
		}
	}
}
