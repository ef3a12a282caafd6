package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A Namespace is an open network namespace. It is kept alive by being open, with
// all its links, even when no process is left in it: it wants to be closed soon.
// Its methods are safe for use by several goroutines.
type Namespace struct {
	file *os.File // of nsfs, namespaces(7)
	id   NamespaceID
}

// ProcessNamespace opens the namespace a process is in. The error is
// fs.ErrNotExist when there is no such process, or only what a dead one has left
// behind for its parent to read, and fs.ErrPermission when we may not look.
//
// That the process is still the one that was meant when its id was written down
// is for the caller to know: an id is given to another after its end.
func ProcessNamespace(pid uint32) (*Namespace, error) {
	n, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, unix.ESRCH) { // it ended after the path was found
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	return n, nil
}

// currentNamespace opens the namespace of the calling thread.
func currentNamespace() (*Namespace, error) { return openNamespace("/proc/thread-self/ns/net") }

func openNamespace(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		f.Close()
		return nil, err
	}
	return &Namespace{f, NamespaceID{uint64(s.Dev), s.Ino}}, nil
}

// ID tells the namespace from all others there are, while there is a process in
// it or it is open.
func (n *Namespace) ID() NamespaceID { return n.id }

// Close gives the namespace up.
func (n *Namespace) Close() error { return n.file.Close() }

// OwnNamespace is the namespace this process is in.
func OwnNamespace() (NamespaceID, error) { return namespaceID("self") }

// HostNamespace is the namespace of the first process, as far as we see: the
// host's, or of the container we are in. The error is fs.ErrPermission for who may
// not look.
func HostNamespace() (NamespaceID, error) { return namespaceID("1") }

func namespaceID(process string) (NamespaceID, error) {
	var s unix.Stat_t
	path := "/proc/" + process + "/ns/net"
	if err := unix.Stat(path, &s); err != nil {
		return NamespaceID{}, fmt.Errorf("look up network namespace: %w", &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	return NamespaceID{uint64(s.Dev), s.Ino}, nil
}

// BootID is of this run of the system, and another at each. With it a NamespaceID
// that was written down tells whether it is of this run.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// do runs f in the namespace and returns its error. What f opens is in the
// namespace for good. A thread that is in it already need not enter it, which
// wants CAP_SYS_ADMIN.
//
// f runs on another goroutine, so that a thread to which the way back is refused
// ends with it: the Go runtime gives no thread that is still locked to another.
func (n *Namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- n.doHere(f) }()
	return <-done
}

func (n *Namespace) doHere(f func() error) error {
	runtime.LockOSThread()
	home, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open our network namespace: %w", err)
	}
	defer home.Close()
	if home.id == n.id {
		defer runtime.UnlockOSThread()
		return f()
	}
	// The first thread's namespace is what /proc has for the process's, and that
	// thread cannot end: while it is held here it is another that enters.
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		return n.do(f)
	}
	if err := n.enter(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if home.enter() == nil {
		runtime.UnlockOSThread()
	}
	return err
}

func (n *Namespace) enter() error {
	return n.withFD(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
}

// withFD lends the descriptor, which stays open meanwhile.
func (n *Namespace) withFD(f func(fd int) error) error {
	conn, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if conn.Control(func(fd uintptr) { done = f(int(fd)) }) != nil {
		return fs.ErrClosed // for which it has an error of its own
	}
	return done
}
