package hostnet

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// holdName is bound by who has a namespace for himself. Names that begin with "@" are
// of the namespace (unix(7), "abstract"), and free again when their socket is closed,
// whatever ended its process.
const holdName = "@overlayd"

// Hold takes the namespace for the handle alone, until Close or the end of the process.
// When another process has it, or another handle of this one, the error is a
// *HeldError. Who has not our rights can take the name, but not the namespace by that:
// then there is no error.
func (h *Handle) Hold() error {
	var file *os.File
	err := h.namespace.do(func() (err error) {
		file, err = takeName()
		if errors.Is(err, unix.EADDRINUSE) {
			err = whoHolds()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("hold network namespace: %w", err)
	}
	h.held = file
	return nil
}

func takeName() (*os.File, error) {
	fd, err := newHoldSocket()
	if err != nil {
		return nil, err
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: holdName})
	if err == nil {
		err = unix.Listen(fd, 16) // so that the next one can ask who we are
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), holdName), nil
}

func newHoldSocket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// whoHolds returns a HeldError if who has the name may have the namespace: it listens,
// as takeName does at once, and is privileged or has our user.
func whoHolds() error {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		who, err := holder()
		switch {
		case err == nil && (who.Uid == 0 || int(who.Uid) == os.Geteuid()):
			return &HeldError{PID: int(who.Pid)}
		case err == nil:
			return nil
		case errors.Is(err, unix.EAGAIN): // many ask
			return &HeldError{}
		case !errors.Is(err, unix.ECONNREFUSED):
			return err
		case time.Now().After(deadline):
			return nil
		}
	}
}

func holder() (*unix.Ucred, error) {
	fd, err := newHoldSocket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: holdName}); err != nil {
		return nil, err
	}
	return unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
}
