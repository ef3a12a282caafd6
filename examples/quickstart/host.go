package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	name    string
	addr    netip.Addr
	stack   *netstack.Stack
	node    *overlay.Node
	servers []io.Closer
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
	return &host{name: name, addr: lease.Addr, stack: stack, node: node}, nil
}

// Close ends what is served, and the node, which closes the stack below it.
func (h *host) Close() {
	for _, s := range h.servers {
		s.Close()
	}
	h.node.Close()
}

// endpoint is where the node is reached from this machine.
func (h *host) endpoint() string { return fmt.Sprintf("127.0.0.1:%d", h.node.ListenPort()) }

// asPeer is what another node has to know of h.
func (h *host) asPeer(endpoint string) overlay.Peer {
	return overlay.Peer{
		PublicKey:  h.node.PublicKey(),
		Endpoint:   endpoint,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(h.addr, h.addr.BitLen())},
	}
}

// meet makes h and the other each other's peers, and has h ask the other for
// names. The other is not told where h is: it learns that when h calls.
func (h *host) meet(ctx context.Context, other *host) error {
	if err := other.node.SetPeer(ctx, h.asPeer("")); err != nil {
		return err
	}
	if err := h.node.SetPeer(ctx, other.asPeer(other.endpoint())); err != nil {
		return err
	}
	return h.stack.SetDNS([]netip.AddrPort{netip.AddrPortFrom(other.addr, 53)})
}

// serveNames answers DNS queries for a zone in which one name is h's.
func (h *host) serveNames(origin, name string) error {
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: origin})
	if err != nil {
		return err
	}
	if err := zone.SetAddresses(name+".", h.addr); err != nil {
		return err
	}
	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
	if err != nil {
		return err
	}
	h.servers = append(h.servers, server)
	udp, err := h.stack.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	if err := server.ServePacket(udp); err != nil {
		return err
	}
	tcp, err := h.stack.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	return server.ServeStream(tcp)
}

// serveData answers HTTP requests with src.
func (h *host) serveData(src source) error {
	listener, err := h.stack.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: src}
	h.servers = append(h.servers, server)
	go server.Serve(listener)
	return nil
}
