package testnet

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// namespace is an open file of nsfs (namespaces(7)), which keeps it alive.
type namespace struct {
	file *os.File
	id   os.FileInfo // device and inode, which tell namespaces apart

	closing sync.Once
	closed  error
}

func (ns *namespace) open() error {
	var err error
	apart := func() error { return unix.Unshare(unix.CLONE_NEWNET) }
	if switched := inNamespace(apart, func() {
		if ns.file, err = currentNamespace(); err == nil {
			err = setUp(Port{Name: "lo"})
		}
	}); switched != nil {
		return switched
	}
	if err == nil {
		ns.id, err = ns.file.Stat()
	}
	if err != nil && ns.file != nil {
		ns.file.Close()
	}
	return err
}

func (ns *namespace) do(f func()) {
	enter := func() error { return setNamespace(ns.file) }
	if err := inNamespace(enter, f); err != nil {
		panic(fmt.Sprintf("testnet: enter network namespace: %v", err))
	}
}

// inNamespace binds the goroutine to its thread, brings the thread into another
// namespace by enter, runs f, and brings it back.
func inNamespace(enter func() error, f func()) error {
	runtime.LockOSThread()
	home, err := currentNamespace()
	if err == nil {
		err = enter()
	}
	if err != nil {
		if home != nil {
			home.Close()
		}
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		defer home.Close()
		if err := setNamespace(home); err != nil {
			panic(fmt.Sprintf("testnet: leave network namespace: %v", err))
		}
		runtime.UnlockOSThread()
	}()
	f()
	return nil
}

func currentNamespace() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

func setNamespace(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var switched error
	err = conn.Control(func(fd uintptr) { switched = unix.Setns(int(fd), unix.CLONE_NEWNET) })
	if err != nil {
		return err
	}
	return switched
}

func (ns *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

func (ns *namespace) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + ns.path(), "--", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (ns *namespace) close() error {
	ns.closing.Do(func() {
		ns.closed = ns.killAll()
		if err := ns.file.Close(); ns.closed == nil {
			ns.closed = err
		}
	})
	return ns.closed
}

// killAll ends the processes in the namespace, over and over because one may
// have forked meanwhile.
func (ns *namespace) killAll() error {
	for {
		found, err := ns.kill()
		if err != nil || found == 0 {
			return err
		}
	}
}

// kill ends the processes found in the namespace at the moment, waits for their
// death, and returns how many there were.
func (ns *namespace) kill() (found int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone meanwhile
		}
		// Looked at after the pidfd was opened, so that pid is still the same process.
		if ns.holds(pid) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			found++
			for poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}; ; {
				if _, err = unix.Poll(poll, -1); err != unix.EINTR {
					break
				}
			}
		}
		unix.Close(fd)
	}
	return found, nil
}

func (ns *namespace) holds(pid int) bool {
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && os.SameFile(its, ns.id)
}

func veth(a, b Port) error {
	if a.Namespace == nil || b.Namespace == nil {
		return fmt.Errorf("a port has no namespace: %w", fs.ErrInvalid)
	}
	var err error
	a.Namespace.do(func() { err = addVeth(a, b) })
	if err != nil {
		return err
	}
	// The kernel tells an interface in the background that its other end is up, and
	// until then packets get lost.
	for _, step := range []func(Port) error{setUp, awaitCarrier, addAddrs} {
		for _, p := range []Port{a, b} {
			p.Namespace.do(func() { err = step(p) })
			if err != nil {
				a.Namespace.do(func() { removeLink(a.Name) }) // takes the other end with it
				return err
			}
		}
	}
	return nil
}

func addVeth(a, b Port) error {
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Name, TxQLen: -1},
		PeerName:      b.Name,
		PeerTxQLen:    -1,
		PeerNamespace: netlink.NsFd(b.Namespace.file.Fd()),
	})
}

func removeLink(name string) error {
	return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

func setUp(p Port) error {
	return netlink.LinkSetUp(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.Name}})
}

func awaitCarrier(p Port) error {
	changes, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return err
	}
	defer changes.Close()
	if err := changes.SetReceiveTimeout(&unix.Timeval{Sec: 10}); err != nil {
		return err
	}
	for {
		link, err := netlink.LinkByName(p.Name)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return err
		}
		if _, _, err := changes.Receive(); err != nil {
			return fmt.Errorf("wait for the carrier of %s: %w", p.Name, err)
		}
	}
}

func addAddrs(p Port) error {
	host, err := hostnet.Open()
	if err != nil {
		return err
	}
	defer host.Close()
	link, err := host.LinkByName(p.Name)
	if err != nil {
		return err
	}
	for _, addr := range p.Addrs {
		if err := host.AddAddr(link.Index, addr); err != nil {
			return err
		}
	}
	return nil
}
