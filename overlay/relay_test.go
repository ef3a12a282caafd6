package overlay_test

import (
	"errors"
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
	front   *net.UDPConn
	server  netip.AddrPort
	running sync.WaitGroup

	mu     sync.Mutex
	client netip.AddrPort
	backs  []*net.UDPConn // the last one is in use, the others still take answers
}

func newRelay(t testing.TB, front *net.UDPConn, server netip.AddrPort) *relay {
	r := &relay{front: front, server: server}
	r.move(t)
	r.running.Go(r.forward)
	t.Cleanup(func() {
		r.front.Close()
		r.forget(0)
		r.running.Wait()
	})
	return r
}

// addr is where clients send to.
func (r *relay) addr() netip.AddrPort { return r.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// from is where the server sees the client.
func (r *relay) from() netip.AddrPort { return r.back().LocalAddr().(*net.UDPAddr).AddrPort() }

func (r *relay) back() *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.backs[len(r.backs)-1]
}

// move goes on from another address. What is on its way to the old one arrives.
func (r *relay) move(t testing.TB) {
	network := "udp4"
	if r.server.Addr().Is6() {
		network = "udp6"
	}
	back, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(r.server))
	require.NoError(t, err)
	r.mu.Lock()
	r.backs = append(r.backs, back)
	r.mu.Unlock()
	r.running.Go(func() { r.answer(back) })
}

// forget closes all but the last keep of the addresses it sent from.
func (r *relay) forget(keep int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, back := range r.backs[:len(r.backs)-keep] {
		back.Close()
	}
	r.backs = r.backs[len(r.backs)-keep:]
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
		if len(r.backs) > 0 {
			r.backs[len(r.backs)-1].Write(buf[:n])
		}
		r.mu.Unlock()
	}
}

func (r *relay) answer(back *net.UDPConn) {
	buf := make([]byte, 65536)
	for {
		n, err := back.Read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // the server's port may be closed for a while
		}
		r.mu.Lock()
		client := r.client
		r.mu.Unlock()
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
