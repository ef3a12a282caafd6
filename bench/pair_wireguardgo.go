package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/overlayd/overlayd/overlay"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// newWireGuardGoPair makes two nodes as a program makes them of wireguard-go:
// its device, its netstack, its default bind.
func newWireGuardGoPair() (*pair, error) {
	p := new(pair)
	near, nearPeer, err := p.newWireGuardGo(nearAddr)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	far, farPeer, err := p.newWireGuardGo(farAddr)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := joinWireGuardGo(nearPeer, farPeer, loopback); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p.join(near, far)
}

func (p *pair) newWireGuardGo(addr netip.Addr) (*theirHost, *theirNode, error) {
	t, stack, err := netstack.CreateNetTUN([]netip.Addr{addr}, nil, mtu)
	if err != nil {
		return nil, nil, err
	}
	node, err := newTheirNode(t)
	if err != nil {
		return nil, nil, err
	}
	p.closeLater(node.Down)
	return &theirHost{stack}, node, nil
}

// theirNode is a device of wireguard-go.
type theirNode struct {
	*device.Device
	public overlay.PublicKey
}

// newTheirNode makes a device, which has t from then on, and opens its sockets.
func newTheirNode(t tun.Device) (*theirNode, error) {
	key, err := overlay.GeneratePrivateKey()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	n := &theirNode{device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, "")), key.Public()}
	if err := n.IpcSet(fmt.Sprintf("private_key=%x\n", key[:])); err != nil {
		n.Close()
		return nil, err
	}
	if err := n.Up(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// close ends the device and what it runs on, which must not be netstack: that
// closes a channel under those who still send, and the program dies of it. A node
// on netstack goes down instead, and ends with the process.
func (n *theirNode) close() error {
	n.Close()
	return nil
}

// port is the UDP port in use.
func (n *theirNode) port() (uint16, error) {
	text, err := n.IpcGet()
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(text, "listen_port=")
	if !found {
		return 0, errors.New("wireguard-go tells no listen_port")
	}
	var port uint16
	_, err = fmt.Sscan(after, &port)
	return port, err
}

// joinWireGuardGo makes the nodes peers; the far one, which is on host farHost,
// waits to be called.
func joinWireGuardGo(near, far *theirNode, farHost netip.Addr) error {
	port, err := far.port()
	if err != nil {
		return err
	}
	return errors.Join(
		far.IpcSet(fmt.Sprintf("public_key=%x\nallowed_ip=%v/32\n", near.public[:], nearAddr)),
		near.IpcSet(fmt.Sprintf("public_key=%x\nallowed_ip=%v/32\nendpoint=%v\n", far.public[:], farAddr, netip.AddrPortFrom(farHost, port))),
	)
}

// theirHost is wireguard-go's stack.
type theirHost struct {
	*netstack.Net
}

func (h *theirHost) listen() (net.Listener, net.PacketConn, error) {
	l, err := h.ListenTCP(&net.TCPAddr{Port: serverPort})
	if err != nil {
		return nil, nil, err
	}
	packets, err := h.ListenUDP(&net.UDPAddr{Port: serverPort})
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, packets, nil
}
