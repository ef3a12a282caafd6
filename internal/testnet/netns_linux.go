package testnet

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"

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
			err = raiseLoopback()
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

func raiseLoopback() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
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
	err := a.Namespace.with(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.Name, TxQLen: -1},
			PeerName:      b.Name,
			PeerTxQLen:    -1,
			PeerNamespace: netlink.NsFd(b.Namespace.file.Fd()),
		})
	})
	if err != nil {
		return err
	}
	if err = a.configure(); err == nil {
		err = b.configure()
	}
	// The kernel tells an interface that its other end is up in the background,
	// and until then packets get lost.
	if err == nil {
		err = a.awaitCarrier()
	}
	if err == nil {
		err = b.awaitCarrier()
	}
	if err != nil {
		a.Namespace.with(func(h *netlink.Handle) error { // takes the other end with it
			return h.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Name}})
		})
	}
	return err
}

func (p Port) configure() error {
	return p.Namespace.with(func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.Name)
		if err != nil {
			return err
		}
		for _, prefix := range p.Addrs {
			if err := h.AddrAdd(link, address(prefix)); err != nil {
				return fmt.Errorf("add address %v: %w", prefix, err)
			}
		}
		return h.LinkSetUp(link)
	})
}

func (p Port) awaitCarrier() error {
	return p.Namespace.with(func(h *netlink.Handle) error {
		changes, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		if err != nil {
			return err
		}
		defer changes.Close()
		if err := changes.SetReceiveTimeout(&unix.Timeval{Sec: 10}); err != nil {
			return err
		}
		for {
			link, err := h.LinkByName(p.Name)
			if err != nil || link.Attrs().OperState == netlink.OperUp {
				return err
			}
			if _, _, err := changes.Receive(); err != nil {
				return fmt.Errorf("wait for the carrier of %s: %w", p.Name, err)
			}
		}
	})
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // or it is of no use for a second (RFC 4862 section 5.4)
	}
	return a
}

// with calls f with a handle on the namespace.
func (ns *namespace) with(f func(*netlink.Handle) error) (err error) {
	ns.do(func() {
		var h *netlink.Handle
		if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
			defer h.Close()
			err = f(h)
		}
	})
	return err
}
