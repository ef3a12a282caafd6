package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// freeTries is how many ports the system is asked for. Of its 28,232 (Linux's
// default ip_local_port_range) at most maxPorts are published, so that one try in
// two finds a free one at the worst.
const freeTries = 128

// picked reports whether a port is one of those that the system gives out.
func picked(port uint16) bool {
	first, last := uint16(32768), uint16(60999) // Linux's, unless it says otherwise
	if text, err := hostnet.ReadSysctl("net.ipv4.ip_local_port_range"); err == nil {
		fmt.Sscan(text, &first, &last)
	}
	return first <= port && port <= last
}

// claimFree puts a free port of the host in the table, one of those that the
// system gives to whoever does not care.
func (p *ports) claimFree(at hostPort, to netip.AddrPort) (hostPort, error) {
	var held []io.Closer // so that the system gives another one each time
	defer func() { closeAll(held) }()
	for range freeTries {
		socket, port, err := listenPort(at, to.Addr())
		if errors.Is(err, syscall.EADDRINUSE) {
			break // the system has none left
		}
		if err != nil {
			return at, cannotListen(at, err)
		}
		held = append(held, socket)
		free := hostPort{at.proto, at.ip, port}
		err = p.claim(free, to)
		if err == nil {
			return free, nil
		}
		if !errors.Is(err, wire.Conflict) {
			return at, err
		}
	}
	return at, &Error{Code: wire.Exhausted, Field: "host_port",
		Msg: fmt.Sprintf("the host's free ports for %s are exhausted: those that the system gives out (net.ipv4.ip_local_port_range) are all in use or published", at.proto)}
}

// portFree reports as an error that another program of the host has a port: it
// would lose what is sent to it.
func portFree(at hostPort, family netip.Addr) error {
	socket, _, err := listenPort(at, family)
	if err != nil {
		return cannotListen(at, err)
	}
	return socket.Close()
}

// listenPort listens on a port of the host for a moment.
func listenPort(at hostPort, family netip.Addr) (io.Closer, uint16, error) {
	network, host := string(at.proto)+"6", ""
	if family.Is4() {
		network = string(at.proto) + "4"
	}
	if at.ip.IsValid() {
		host = at.ip.String()
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(at.port)))
	if at.proto == wire.UDP {
		conn, err := net.ListenPacket(network, address)
		if err != nil {
			return nil, 0, err
		}
		return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, 0, err
	}
	return listener, listener.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

func cannotListen(at hostPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &Error{Code: wire.Conflict, Field: "host_port",
			Msg: fmt.Sprintf("a program on this host listens on %v: `ss -lnp sport = :%d` names it, and 0 picks a free port", at, at.port)}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return invalid("host_ip", "%v is not an address of this host", at.ip)
	}
	return because(err, "look whether %v is free", at)
}
