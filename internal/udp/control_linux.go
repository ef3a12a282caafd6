package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Room for the control messages of one run, in words so that they are aligned:
// the larger packet information, the traffic class and the segment size, each
// with a header (cmsg(3)).
const controlWords = 16

type controlBuffer [controlWords]uint64

func (c *controlBuffer) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

// put appends a control message and returns the room for its data, which must
// be filled whole.
func put(b []byte, at int, level, kind int32, size int) (data []byte, end int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return b[at+unix.CmsgLen(0):][:size], at + unix.CmsgSpace(size)
}

// putEndpoint writes what a message asks of its outer header: the source and the
// ECN bits. It returns where the segment size goes, should there be one.
func putEndpoint(b []byte, e *Endpoint, v6 bool, ecn byte) (at int) {
	if hasSource(e) {
		var data []byte
		if v6 { // struct in6_pktinfo: address, interface
			data, at = put(b, at, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
			src := [16]byte{}
			if e.Src.IsValid() {
				src = e.Src.As16()
			}
			copy(data, src[:])
			binary.NativeEndian.PutUint32(data[16:], uint32(e.Interface))
		} else { // struct in_pktinfo: interface, source, unused
			data, at = put(b, at, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
			src := [4]byte{}
			if s := e.Src.Unmap(); s.Is4() {
				src = s.As4()
			}
			binary.NativeEndian.PutUint32(data, uint32(e.Interface))
			copy(data[4:], src[:])
			clear(data[8:])
		}
	}
	if ecn != 0 {
		level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if v6 {
			level, kind = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		var data []byte
		data, at = put(b, at, level, kind, 4)
		binary.NativeEndian.PutUint32(data, uint32(ecn&3))
	}
	return at
}

// putSegment writes the segment size and returns the whole length.
func putSegment(b []byte, at, seg int) int {
	data, end := put(b, at, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(data, uint16(seg))
	return end
}

// control is what the kernel says of a run received.
type control struct {
	src   netip.Addr
	index int32
	seg   int // 0: a single datagram
	ecn   byte
}

// parseControl reads the control messages it knows, and stops at a malformed one.
func parseControl(b []byte) (c control) {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return c
		}
		b = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			c.index = int32(binary.NativeEndian.Uint32(data))
			c.src = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			c.index = int32(binary.NativeEndian.Uint32(data[16:]))
			c.src = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			c.ecn = data[0] & 3
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			c.ecn = byte(binary.NativeEndian.Uint32(data)) & 3
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			c.seg = int(int32(binary.NativeEndian.Uint32(data)))
		}
	}
	return c
}
