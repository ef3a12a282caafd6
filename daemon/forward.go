package daemon

import (
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/packet"
)

// A forwarder is what a kernel that forwards does for a node with a TUN device, for
// one without: packets from a peer for another, such as a guest's, go back into the
// node, which knows whose they are.
type forwarder struct {
	own []netip.Addr // what the node's own stack answers at
}

var _ packet.Stage = (*forwarder)(nil)

func newForwarder(addrs []netip.Prefix) *forwarder {
	f := new(forwarder)
	for _, p := range addrs {
		f.own = append(f.own, p.Addr())
	}
	return f
}

// Outbound implements packet.Stage.
func (f *forwarder) Outbound(*packet.Batch) {}

// Inbound implements packet.Stage.
func (f *forwarder) Inbound(b *packet.Batch) {
	for i := range b.Packets {
		p := &b.Packets[i]
		if dst := p.DstAddr(); p.Live() && !slices.Contains(f.own, dst) && !dst.IsMulticast() {
			f.forward(p)
		}
	}
}

// forward sends a packet on, with its time to live counted down (RFC 1812 section
// 5.3.1, RFC 8200 section 3).
func (f *forwarder) forward(p *packet.Packet) {
	at := 8 // of the time to live in IPv4, with the protocol behind it
	if p.Version() == 6 {
		at = 7
	}
	if p.Data[at] <= 1 {
		f.expired(p)
		return
	}
	if p.Version() == 6 {
		p.Data[at]--
	} else {
		next := [2]byte{p.Data[at] - 1, p.Data[at+1]}
		packet.Rewrite(p.Data[at:at+2], next[:], p.Data[10:12])
	}
	p.Bounce()
}

func (f *forwarder) expired(p *packet.Packet) {
	for _, a := range f.own {
		if a.Is6() == (p.Version() == 6) {
			p.HopLimit(a)
			return
		}
	}
	p.Drop(packet.HopLimit)
}
