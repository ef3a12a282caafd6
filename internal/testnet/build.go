package testnet

import (
	"encoding/binary"
	"net/netip"
)

// UDP is an IP packet with a UDP datagram, its checksums complete. Both
// addresses are of one family.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	t := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint16(t[4:], uint16(8+len(payload)))
	return ip(src.Addr(), dst.Addr(), 17, append(t, payload...), 6)
}

// TCP is an IP packet with a TCP segment that acknowledges, its checksums
// complete. With more payload than fits one segment it is a superpacket's Data.
func TCP(src, dst netip.AddrPort, seq uint32, payload []byte) []byte {
	t := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12] = 5 << 4
	t[13] = 1 << 4 // ACK
	binary.BigEndian.PutUint16(t[14:], 65535)
	return ip(src.Addr(), dst.Addr(), 6, append(t, payload...), 16)
}

// ip puts a header in front of a transport header and payload, and completes the
// checksum that stands at the given offset of the transport header.
func ip(src, dst netip.Addr, protocol byte, t []byte, at int) []byte {
	var p, pseudo []byte
	if src.Is4() {
		p = make([]byte, 20, 20+len(t))
		p[0], p[8], p[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(t)))
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(p[10:], checksum(p))
		pseudo = append(pseudo, p[12:20]...)
	} else {
		p = make([]byte, 40, 40+len(t))
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(t)))
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
		pseudo = append(pseudo, p[8:40]...)
	}
	pseudo = append(pseudo, 0, protocol, byte(len(t)>>8), byte(len(t)))
	sum := checksum(append(pseudo, t...))
	if sum == 0 && protocol == 17 {
		sum = 0xffff // zero says there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(t[at:], sum)
	return append(p, t...)
}

// checksum is RFC 1071's, word by word, as plainly as it is defined there.
func checksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) > 1; data = data[2:] {
		sum += uint32(data[0])<<8 | uint32(data[1])
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
