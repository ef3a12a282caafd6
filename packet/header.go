package packet

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv4Header = 20 // without options
	ipv6Header = 40 // without extension headers

	freshTTL   = 64   // RFC 1700, and what hosts use
	congestion = 0x03 // the bits of the type of service, or traffic class, that are ECN's
)

// writeIPv4 writes the IPv4 header of a packet that fills d. It may not be
// fragmented, so its identification means nothing (RFC 6864 section 4.1).
func writeIPv4(d []byte, tos, protocol uint8, src, dst netip.Addr) {
	putIPv4(d, tos, protocol, src.As4(), dst.As4())
}

func putIPv4(d []byte, tos, protocol uint8, src, dst [4]byte) {
	h := (*[ipv4Header]byte)(d)
	binary.BigEndian.PutUint64(h[0:], 0x45<<56|uint64(tos)<<48|uint64(len(d))<<32|0x4000)
	binary.BigEndian.PutUint32(h[8:], freshTTL<<24|uint32(protocol)<<16)
	*(*[4]byte)(h[12:]), *(*[4]byte)(h[16:]) = src, dst
	binary.BigEndian.PutUint16(h[10:], ^fold(sumHeader(h[:])))
}

// writeIPv6 writes the IPv6 header of a packet that fills d.
func writeIPv6(d []byte, class, protocol uint8, src, dst netip.Addr) {
	putIPv6(d, class, protocol, src.As16(), dst.As16())
}

func putIPv6(d []byte, class, protocol uint8, src, dst [16]byte) {
	h := (*[ipv6Header]byte)(d)
	binary.BigEndian.PutUint32(h[0:], 6<<28|uint32(class)<<20)
	binary.BigEndian.PutUint16(h[4:], uint16(len(d)-ipv6Header))
	h[6], h[7] = protocol, freshTTL
	*(*[16]byte)(h[8:]), *(*[16]byte)(h[24:]) = src, dst
}

// setLengths makes the length fields of IP and UDP say what Data holds, and the
// IPv4 header checksum with them. Data is at most MaxSize long.
func (p *Packet) setLengths() {
	d := p.Data
	switch p.Version() {
	case 4:
		header := int(d[0]&0x0f) * 4
		if header < 20 || header > len(d) {
			return
		}
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
		finishIPv4(d[:header])
	case 6:
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
	}
	if t := p.Transport(); p.protocol == ProtocolUDP && len(t) >= 8 {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
}
