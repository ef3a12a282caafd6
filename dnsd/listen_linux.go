package dnsd

import (
	"context"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSockets bounds the UDP sockets of one address.
const maxSockets = 16

// listenPackets opens one UDP socket per CPU on addr; the kernel spreads flows
// over them (SO_REUSEPORT, Linux 3.9). The first is bound without that option,
// so that an address in use, be it by another server that shares, is an error.
func listenPackets(addr string) ([]net.PacketConn, error) {
	first, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	conns := []net.PacketConn{first}
	raw, err := first.(*net.UDPConn).SyscallConn()
	if err != nil {
		return conns, nil
	}
	if err := reusePort("", "", raw); err != nil {
		return conns, nil
	}
	config := net.ListenConfig{Control: reusePort}
	for range min(runtime.GOMAXPROCS(0), maxSockets) - 1 {
		conn, err := config.ListenPacket(context.Background(), "udp", first.LocalAddr().String())
		if err != nil {
			break // one socket serves as well
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func reusePort(_, _ string, raw syscall.RawConn) error {
	var err error
	if ctl := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); ctl != nil {
		return ctl
	}
	return err
}
