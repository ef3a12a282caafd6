package overlay_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A relay passes UDP datagrams between one client and a server, on loopback, as
// a NAT does. It may change the address it sends from, which moves the client
// as the server sees it.
type relay struct {
	front  *net.UDPConn
	server netip.AddrPort

	mu      sync.Mutex
	client  netip.AddrPort
	back    *net.UDPConn
	closed  bool
	running sync.WaitGroup
}

func newRelay(t testing.TB, front *net.UDPConn, server netip.AddrPort) *relay {
	r := &relay{front: front, server: server}
	r.move(t)
	r.running.Go(func() { r.forward() })
	t.Cleanup(func() {
		r.mu.Lock()
		r.closed = true
		r.back.Close()
		r.mu.Unlock()
		r.front.Close()
		r.running.Wait()
	})
	return r
}

// addr is where clients send to.
func (r *relay) addr() netip.AddrPort { return r.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// from is where the server sees the client now.
func (r *relay) from() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.back.LocalAddr().(*net.UDPAddr).AddrPort()
}

// move goes on from another address.
func (r *relay) move(t testing.TB) {
	network := "udp4"
	if r.server.Addr().Is6() {
		network = "udp6"
	}
	back, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(r.server))
	require.NoError(t, err)
	r.mu.Lock()
	old := r.back
	r.back = back
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	r.running.Go(func() { r.answer(back) })
}

func (r *relay) forward() {
	buf := make([]byte, 65536)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.client = from
		back := r.back
		r.mu.Unlock()
		back.Write(buf[:n])
	}
}

func (r *relay) answer(back *net.UDPConn) {
	buf := make([]byte, 65536)
	for {
		n, err := back.Read(buf)
		r.mu.Lock()
		current, client := r.back == back && !r.closed, r.client
		r.mu.Unlock()
		if err != nil {
			if !current {
				return
			}
			continue // the server's port may be closed for a while
		}
		r.front.WriteToUDPAddrPort(buf[:n], client)
	}
}

// listen opens a UDP socket on an address, on any port if it is 0.
func listen(t testing.TB, addr string) *net.UDPConn {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// listenBoth opens sockets on 127.0.0.1 and ::1 that have the same port.
func listenBoth(t testing.TB) (four, six *net.UDPConn) {
	for range 100 {
		four = listen(t, "127.0.0.1:0")
		addr := net.UDPAddr{IP: net.IPv6loopback, Port: four.LocalAddr().(*net.UDPAddr).Port}
		var err error
		if six, err = net.ListenUDP("udp6", &addr); err == nil {
			t.Cleanup(func() { six.Close() })
			return four, six
		}
	}
	require.FailNow(t, "no port is free in both families")
	return nil, nil
}
