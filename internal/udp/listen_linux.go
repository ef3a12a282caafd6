package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// batch is a socket that moves many runs in one system call.
//
// Path MTU discovery is left as the system has it, which by default sends
// datagrams within the known path MTU with "don't fragment" set and cuts larger
// ones here (IP_PMTUDISC_WANT, ip(7)). wireguard-go leaves it too.
type batch struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	caps     Capabilities // but for GSO, which is in segments
	segments atomic.Int32 // a header may hold; 1: there is no UDP_SEGMENT
	rx       receiver
	tx       sender
}

func systemOpener() opener { return openBatch }

func openBatch(p place) (transport, error) {
	b := new(batch)
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if cerr := raw.Control(func(fd uintptr) { err = b.configure(int(fd), p) }); cerr != nil {
			return cerr
		}
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), p.network(), ":"+strconv.Itoa(int(p.port)))
	if err != nil {
		return nil, err
	}
	b.conn = pc.(*net.UDPConn)
	if b.raw, err = b.conn.SyscallConn(); err == nil && p.lanes > 1 && p.lane == 0 {
		err = b.setInt("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err != nil {
		b.conn.Close()
		return nil, err
	}
	b.rx.init()
	b.tx.init(b, p.v6)
	return b, nil
}

// configure sets what must be set before the socket is bound. What the kernel
// refuses is a capability less, no more.
func (b *batch) configure(fd int, p place) error {
	// Lane 0 binds without SO_REUSEPORT and gets it afterwards: so it fails when
	// the port is taken, even by another program of ours that shares its own.
	if p.lane > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
		}
	}
	set := func(level, name, value int) bool { return unix.SetsockoptInt(fd, level, name, value) == nil }
	for _, o := range [2][2]int{{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}, {unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}} {
		set(unix.SOL_SOCKET, o[0], socketBuffer) // up to net.core.{r,w}mem_max
		set(unix.SOL_SOCKET, o[1], socketBuffer) // beyond it, with CAP_NET_ADMIN
	}
	if p.v6 {
		b.caps.Src = set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		b.caps.ECN = set(unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	} else {
		b.caps.Src = set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		b.caps.ECN = set(unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}
	// Kernels before 5.12 cannot be asked for UDP_GRO (98184612aca0), and its
	// early versions have faults, so there it stays off.
	if set(unix.IPPROTO_UDP, unix.UDP_GRO, 1) {
		on, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO)
		b.caps.GRO = err == nil && on == 1
		if !b.caps.GRO {
			set(unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		}
	}
	b.segments.Store(1)
	if _, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
		b.segments.Store(maxSegments)
	}
	return nil
}

func (b *batch) setInt(what string, level, name, value int) (err error) {
	if cerr := b.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); cerr != nil {
		return closedOr(cerr)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("setsockopt %s: %w; it needs CAP_NET_ADMIN", what, err)
	}
	return os.NewSyscallError("setsockopt "+what, err)
}

func (b *batch) setMark(mark uint32) error {
	return b.setInt("SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, int(mark))
}

func (b *batch) capabilities() Capabilities {
	c := b.caps
	c.GSO = b.segments.Load() > 1
	return c
}

func (b *batch) port() uint16 { return uint16(b.conn.LocalAddr().(*net.UDPAddr).Port) }

func (b *batch) receive(ms []Message) (int, error) { return b.rx.receive(b.raw, ms) }

func (b *batch) send(ms []Message) (int, error) { return b.tx.send(ms) }

func (b *batch) close() error { return b.conn.Close() }
