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
	clear(d[:ipv4Header])
	d[0], d[1] = 0x45, tos
	binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	d[6] = 0x40
	d[8], d[9] = freshTTL, protocol
	from, to := src.As4(), dst.As4()
	copy(d[12:], from[:])
	copy(d[16:], to[:])
	finishIPv4(d[:ipv4Header])
}

// writeIPv6 writes the IPv6 header of a packet that fills d.
func writeIPv6(d []byte, class, protocol uint8, src, dst netip.Addr) {
	d[0], d[1], d[2], d[3] = 6<<4|class>>4, class<<4, 0, 0
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)-ipv6Header))
	d[6], d[7] = protocol, freshTTL
	from, to := src.As16(), dst.As16()
	copy(d[8:], from[:])
	copy(d[24:], to[:])
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
