package server

import (
	"net"
	"syscall"
)

// bindPrivate makes a socket of mode 0600 and listens. The umask is the only means
// there is to have the mode from the file's first moment on.
func bindPrivate(path string) (*net.UnixListener, error) {
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// program is the name of what a process runs, which is not told here.
func program(int) string { return "a daemon" }
