package main

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/overlayd/overlayd/bench/internal/load"
)

// The overlay addresses of the nodes, and the port of the load's server.
var (
	nearAddr = netip.MustParseAddr("10.99.0.1")
	farAddr  = netip.MustParseAddr("10.99.0.2")
)

const (
	serverPort = 5201 // iperf3's
	mtu        = 1420
)

var serverAddr = netip.AddrPortFrom(farAddr, serverPort).String()

// A pair is two nodes in this process that are joined by a tunnel: load goes from
// the near one, which dials, to the far one, which has a server.
type pair struct {
	dial    load.Dial
	server  *load.Server
	closers []func() error
}

// closeLater has f called by close.
func (p *pair) closeLater(f func() error) { p.closers = append(p.closers, f) }

// close ends the server and the nodes, the last one first.
func (p *pair) close() error {
	var err error
	if p.server != nil {
		err = p.server.Close()
	}
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}

// A host is an end of a tunnel as a program sees it.
type host interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	listen() (net.Listener, net.PacketConn, error)
}

// join starts the server on the far host. When it fails it closes the pair.
func (p *pair) join(near, far host) (*pair, error) {
	l, packets, err := far.listen()
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.server = load.Serve(l, packets)
	p.dial = func(ctx context.Context, network string) (net.Conn, error) {
		return near.DialContext(ctx, network, serverAddr)
	}
	return p, nil
}
