package overlay

import (
	"encoding/binary"

	"github.com/overlayd/overlayd/packet"
	"golang.org/x/sys/unix"
)

// virtioHeaderSize is that of struct virtio_net_hdr (linux/virtio_net.h), which
// precedes every packet of a TUN with IFF_VNET_HDR. Its fields have the
// machine's byte order, as long as nobody asks for another (TUNSETVNETLE).
const virtioHeaderSize = 10

type virtioHeader [virtioHeaderSize]byte

// tunOffloads are TUN_F_* of linux/if_tun.h: what we take from the kernel, and so
// what it has.
type tunOffloads uint

const allTUNOffloads tunOffloads = unix.TUN_F_CSUM | tcpOffloads | udpOffloads

const (
	tcpOffloads tunOffloads = unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	udpOffloads tunOffloads = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2, and only both
)

// setOffloads tells the kernel to leave us as much of the wanted as it can, and
// returns what that is.
func setOffloads(fd int, wanted tunOffloads) tunOffloads {
	for _, o := range []tunOffloads{wanted, wanted &^ udpOffloads, wanted & unix.TUN_F_CSUM} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(o)) == nil {
			return o
		}
	}
	return 0
}

func (o tunOffloads) tcp() bool { return o&tcpOffloads != 0 }
func (o tunOffloads) udp() bool { return o&udpOffloads != 0 }

// A shape is what a superpacket is made of.
type shape struct {
	kind      byte // VIRTIO_NET_HDR_GSO_*
	transport int  // where in Data the transport header begins
	payload   int  // where the payload begins
	sum       int  // where in the transport header the checksum stands
}

// shapeOf reports false for what is no superpacket: it must be a whole packet of
// TCP or UDP.
func shapeOf(p *packet.Packet) (s shape, ok bool) {
	t := p.Transport()
	if t == nil || p.IsFragment() {
		return s, false
	}
	s.transport = len(p.Data) - len(t)
	switch protocol := p.Protocol(); {
	case protocol == packet.ProtocolUDP && len(t) >= 8:
		s.kind, s.sum, s.payload = unix.VIRTIO_NET_HDR_GSO_UDP_L4, 6, s.transport+8
	case protocol == packet.ProtocolTCP && len(t) >= 20:
		s.kind, s.sum, s.payload = unix.VIRTIO_NET_HDR_GSO_TCPV4, 16, s.transport+int(t[12]>>4)*4
		if p.Version() == 6 {
			s.kind = unix.VIRTIO_NET_HDR_GSO_TCPV6
		}
		if s.payload < s.transport+20 || s.payload > len(p.Data) {
			return s, false
		}
	default:
		return s, false
	}
	return s, true
}

// unpackVirtio makes p, which was read behind the header, what the header says
// it is. It reports false when they do not belong together.
func unpackVirtio(h []byte, p *packet.Packet) bool {
	if kind := h[1] &^ unix.VIRTIO_NET_HDR_GSO_ECN; kind != unix.VIRTIO_NET_HDR_GSO_NONE {
		size := binary.NativeEndian.Uint16(h[4:])
		s, ok := shapeOf(p)
		if !ok || kind != s.kind || size == 0 {
			return false
		}
		if len(p.Data)-s.payload > int(size) {
			p.Seg = size
			whole := len(p.Data)
			return p.Trim() && len(p.Data) == whole
		}
	}
	if h[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
		return true
	}
	return finishChecksum(p.Data,
		int(binary.NativeEndian.Uint16(h[6:])),
		int(binary.NativeEndian.Uint16(h[8:])))
}

// finishChecksum completes a checksum whose place holds the sum of the pseudo
// header so far, as skb_checksum_help of linux/net/core/dev.c does.
func finishChecksum(data []byte, start, offset int) bool {
	if start+offset+2 > len(data) {
		return false
	}
	sum := ^packet.Sum(data[start:], 0)
	if sum == 0 {
		sum = 0xffff // the same number, and to UDP not "none" (RFC 768)
	}
	binary.BigEndian.PutUint16(data[start+offset:], sum)
	return true
}

// packVirtio makes the header for a superpacket, and puts the sum of the pseudo
// header into p, where the kernel wants it. It reports false when the kernel
// does not take p whole.
func packVirtio(p *packet.Packet, offloads tunOffloads) (h virtioHeader, ok bool) {
	s, ok := shapeOf(p)
	if !ok {
		return h, false
	}
	t := p.Data[s.transport:]
	if s.kind == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
		ok = offloads.udp()
	} else {
		ok = offloads.tcp()
	}
	if !ok {
		return h, false
	}
	const cwr = 1 << 7 // of the TCP flags (RFC 3168 section 6.1.2)
	if len(p.Data)-s.payload > int(p.Seg) {
		h[1] = s.kind
		if s.kind != unix.VIRTIO_NET_HDR_GSO_UDP_L4 && t[13]&cwr != 0 {
			h[1] |= unix.VIRTIO_NET_HDR_GSO_ECN
		}
		binary.NativeEndian.PutUint16(h[4:], p.Seg)
	}
	h[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(h[2:], uint16(s.payload))
	binary.NativeEndian.PutUint16(h[6:], uint16(s.transport))
	binary.NativeEndian.PutUint16(h[8:], uint16(s.sum))
	sum := packet.PseudoSum(p.Protocol(), p.SrcAddr(), p.DstAddr(), len(t))
	binary.BigEndian.PutUint16(t[s.sum:], sum)
	return h, true
}
