package server

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// credentials tells who was at the other end of a Unix socket when it connected.
// Groups are the first sixteen.
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
		var cred *unix.Xucred
		if cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); err != nil {
			return
		}
		p.uid = cred.Uid
		p.groups = append(p.groups, cred.Groups[:min(max(cred.Ngroups, 0), 16)]...)
		if pid, err := unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID); err == nil {
			p.pid = pid
		}
	})
	return p, errors.Join(controlErr, err)
}
