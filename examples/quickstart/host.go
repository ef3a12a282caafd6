package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/overlayd/overlayd/dnsd"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
)

// A host is what a machine is to a network: a TCP/IP stack with an address, and
// below it the WireGuard node that carries its packets.
type host struct {
	name  string
	addr  netip.Addr
	stack *netstack.Stack
	node  *overlay.Node
}

func newHost(addrs *ipam.Authority, pool netip.Prefix, name string) (*host, error) {
	lease, err := addrs.Allocate(pool, ipam.Owner{Kind: ipam.KindNode, ID: name})
	if err != nil {
		return nil, err
	}
	key, err := overlay.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	stack, err := netstack.New(netstack.Config{Name: name, Addrs: []netip.Prefix{lease.Prefix()}})
	if err != nil {
		return nil, err
	}
	node, err := overlay.New(overlay.Config{PrivateKey: key, Device: stack.Device()})
	if err != nil {
		return nil, errors.Join(err, stack.Close())
	}
	return &host{name, lease.Addr, stack, node}, nil
}

// Close ends the node, which closes the stack as its device.
func (h *host) Close() error { return h.node.Close() }

// loopback is where the node is reached from this machine.
func (h *host) loopback() string { return fmt.Sprintf("127.0.0.1:%d", h.node.ListenPort()) }

// asPeer is what another node has to know of h.
func (h *host) asPeer(endpoint string) overlay.Peer {
	return overlay.Peer{
		PublicKey:  h.node.PublicKey(),
		Endpoint:   endpoint,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(h.addr, h.addr.BitLen())},
	}
}

// serve answers DNS queries for the zone, with h under the name of the download,
// and HTTP requests with src, until stop is called.
func (h *host) serve(src source) (stop func(), err error) {
	names, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: zone})
	if err != nil {
		return nil, err
	}
	if err := names.SetAddresses("web", h.addr); err != nil {
		return nil, err
	}
	dns, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{names}})
	if err != nil {
		return nil, err
	}
	web := &http.Server{Handler: src}
	stop = func() { web.Close(); dns.Close() }
	if err := h.listen(dns, web); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// listen opens the ports of both servers on the overlay.
func (h *host) listen(dns *dnsd.Server, web *http.Server) error {
	udp, err := h.stack.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	if err := dns.ServePacket(udp); err != nil {
		return err
	}
	tcp, err := h.stack.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	if err := dns.ServeStream(tcp); err != nil {
		return err
	}
	pages, err := h.stack.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go web.Serve(pages) // until web is closed
	return nil
}
