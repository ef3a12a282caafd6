package server

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindPrivate makes a socket of mode 0600 and listens. The umask is the only means
// there is to have the mode from the file's first moment on.
func bindPrivate(path string) (*net.UnixListener, error) {
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// A socketFile is the file at the path of a socket. What is there by then is itself
// changed, if it is a link, and not what is behind it.
type socketFile string

func openSocketFile(path string) (socketFile, error) { return socketFile(path), nil }

func (f socketFile) Close() error               { return nil }
func (f socketFile) Stat() (fs.FileInfo, error) { return os.Lstat(string(f)) }

func (f socketFile) setMode(mode uint32) error {
	if err := unix.Fchmodat(unix.AT_FDCWD, string(f), mode, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its mode to %#o: %w", mode, err)
	}
	return nil
}

func (f socketFile) setGroup(gid uint32) error {
	if err := os.Lchown(string(f), -1, int(gid)); err != nil {
		return fmt.Errorf("give it to group %d: %w", gid, err)
	}
	return nil
}

// program is the name of what a process runs, which is not told here.
func program(int) string { return "a daemon" }
