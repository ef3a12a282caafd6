package load

import (
	"context"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// burst is how many datagrams, or runs of them, one system call moves.
	burst = 64

	// runSize holds any run of datagrams that the kernel makes.
	runSize = 1 << 16

	// waitingBytes is what the server's socket holds of what it has not read yet:
	// as much as a node's.
	waitingBytes = 7 << 20
)

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// floodSocket floods by a socket of the system, a burst with each call: what the
// load spends, the nodes lack. The socket is u's, and u is closed.
func floodSocket(ctx context.Context, u *net.UDPConn, datagram []byte, d time.Duration) error {
	fd, err := take(u)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	iov := unix.Iovec{Base: &datagram[0]}
	iov.SetLen(len(datagram))
	var headers [burst]mmsghdr
	for i := range headers {
		headers[i].hdr.Iov = &iov
		headers[i].hdr.SetIovlen(1)
	}
	for start := time.Now(); time.Since(start) < d && ctx.Err() == nil; {
		_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers)), burst, 0, 0, 0)
		if errno != 0 && errno != unix.EINTR && !full(errno) {
			return os.NewSyscallError("sendmmsg", errno)
		}
	}
	return ctx.Err()
}

// take returns a descriptor of u's socket that blocks, and closes u. The socket
// is not in the runtime's poller any more, which would be woken each time that a
// datagram has left.
func take(u *net.UDPConn) (fd int, err error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errDup error
	err = raw.Control(func(of uintptr) { fd, errDup = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return 0, err
	}
	if errDup != nil {
		return 0, os.NewSyscallError("fcntl", errDup)
	}
	if err = u.Close(); err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// receiveSocket tells got of the bytes that a socket of the system received, as
// many as there are with each call, until the socket is closed.
func receiveSocket(u *net.UDPConn, got func(bytes int)) {
	raw, err := u.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		// What the system does not allow is done without.
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, waitingBytes)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, waitingBytes)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
	var (
		arena   = make([]byte, burst*runSize)
		headers [burst]mmsghdr
		iovs    [burst]unix.Iovec
	)
	for i := range headers {
		iovs[i].Base = &arena[i*runSize]
		iovs[i].SetLen(runSize)
		headers[i].hdr.Iov = &iovs[i]
		headers[i].hdr.SetIovlen(1)
	}
	for {
		var n uintptr
		var errno unix.Errno
		err := raw.Read(func(fd uintptr) bool {
			n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&headers)), burst, unix.MSG_DONTWAIT, 0, 0)
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil, errno != 0 && errno != unix.EINTR:
			return
		case errno == 0:
			bytes := 0
			for i := range headers[:n] {
				bytes += int(headers[i].n)
			}
			got(bytes)
		}
	}
}
