package server

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials tells who was at the other end of a Unix socket when it connected.
func credentials(nc net.Conn) (p peer, err error) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return p, fmt.Errorf("a connection of %s: %w", nc.LocalAddr().Network(), errors.ErrUnsupported)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return p, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.uid, p.pid = cred.Uid, int(cred.Pid)
		p.groups = append(supplementary(int(fd)), cred.Gid)
	})
	return p, errors.Join(controlErr, err)
}

// supplementary are the other groups of who connected (SO_PEERGROUPS, Linux 4.13);
// none if the kernel does not tell. A user has at most 65,536 (NGROUPS_MAX).
func supplementary(fd int) []uint32 {
	for n := 64; n <= 1<<16; n *= 32 {
		groups := make([]uint32, n)
		size := uint32(n * 4)
		_, _, no := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		if no == 0 {
			return groups[:size/4]
		}
		if no != unix.ERANGE {
			break
		}
	}
	return nil
}
