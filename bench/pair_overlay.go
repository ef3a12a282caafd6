package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
)

// newOverlayPair makes two of our nodes, each on a stack of ours.
func newOverlayPair(engine overlay.Engine) (*pair, error) {
	p := new(pair)
	near, nearNode, err := p.newOverlay(engine, nearAddr)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	far, farNode, err := p.newOverlay(engine, farAddr)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := joinNodes(nearNode, farNode, netip.AddrPortFrom(loopback, farNode.ListenPort())); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p.join(near, far)
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// joinNodes makes the nodes peers; the far one waits to be called.
func joinNodes(near, far *overlay.Node, farEndpoint netip.AddrPort) error {
	ctx := context.Background() // no names to resolve
	return errors.Join(
		far.SetPeer(ctx, overlay.Peer{PublicKey: near.PublicKey(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(nearAddr, 32)}}),
		near.SetPeer(ctx, overlay.Peer{
			PublicKey:  far.PublicKey(),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(farAddr, 32)},
			Endpoint:   farEndpoint.String(),
		}),
	)
}

func (p *pair) newOverlay(engine overlay.Engine, addr netip.Addr) (*ourHost, *overlay.Node, error) {
	s, err := newStack(addr)
	if err != nil {
		return nil, nil, err
	}
	node, err := newNode(engine, s.Device())
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	p.closeLater(node.Close) // and with it the stack
	return &ourHost{s}, node, nil
}

// newNode makes a node, which has the device from then on.
func newNode(engine overlay.Engine, device packet.Device) (*overlay.Node, error) {
	key, err := overlay.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	return overlay.New(overlay.Config{
		PrivateKey: key, Device: device, Engine: engine,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func newStack(addr netip.Addr) (*netstack.Stack, error) {
	return netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(addr, 24)}, MTU: mtu})
}

// ourHost is one of our stacks.
type ourHost struct {
	*netstack.Stack
}

func (h *ourHost) listen() (net.Listener, net.PacketConn, error) {
	port := ":" + strconv.Itoa(serverPort)
	l, err := h.Listen("tcp", port)
	if err != nil {
		return nil, nil, err
	}
	packets, err := h.ListenPacket("udp", port)
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, packets, nil
}

// newRawPair makes two of our stacks that hand each other their packets as they
// are.
func newRawPair() (*pair, error) {
	p := new(pair)
	near, err := newStack(nearAddr)
	if err != nil {
		return nil, err
	}
	far, err := newStack(farAddr)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(near.Device(), far.Device()) })
	pumps.Go(func() { pump(far.Device(), near.Device()) })
	p.closeLater(func() error {
		err := errors.Join(near.Close(), far.Close())
		pumps.Wait()
		if err != nil {
			return fmt.Errorf("close the stacks: %w", err)
		}
		return nil
	})
	return p.join(&ourHost{near}, &ourHost{far})
}

// pump carries batches from one device to another until one of them is closed.
func pump(from, to packet.Device) {
	batch := packet.NewBatch(0)
	for from.ReadBatch(batch) == nil && to.WriteBatch(batch) == nil {
	}
}
