package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindPrivate makes a socket of mode 0600, less what the umask takes, and listens.
// The file gets the mode of the socket it is bound to, and so has it from its first
// moment on; to set the umask instead would be felt by all threads.
func bindPrivate(path string) (*net.UnixListener, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	l, err := c.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// A socketFile is the file of a socket, whatever is at its path by now.
type socketFile struct{ *os.File }

// openSocketFile opens a file of any kind, a link too, without what is behind it: a
// socket cannot be opened otherwise (O_PATH, Linux 2.6.39).
func openSocketFile(path string) (socketFile, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return socketFile{}, fmt.Errorf("open its file: %w", err)
	}
	return socketFile{os.NewFile(uintptr(fd), path)}, nil
}

// setMode goes through /proc, where a descriptor's entry leads to its file and no other:
// fchmod does not take such a descriptor, and fchmodat2 only came with Linux 6.6.
func (f socketFile) setMode(mode uint32) error {
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mode); err != nil {
		return fmt.Errorf("set its mode to %#o: %w", mode, err)
	}
	return nil
}

func (f socketFile) setGroup(gid uint32) error {
	if err := unix.Fchownat(int(f.Fd()), "", -1, int(gid), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give it to group %d: %w", gid, err)
	}
	return nil
}

// program is the name of what a process runs.
func program(pid int) string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return "a daemon"
	}
	return strings.TrimSpace(string(name))
}
