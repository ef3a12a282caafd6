package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds b to initial by the rule of RFC 1071: the ones' complement sum of
// its 16-bit words, an odd last byte padded with a zero. The result is not
// complemented, so sums chain, as long as every part but the last has even
// length.
func Sum(b []byte, initial uint16) uint16 {
	return fold(sum(b, uint64(bits.ReverseBytes16(initial))))
}

// PseudoSum is the sum of the pseudo header that TCP, UDP and ICMPv6 include in
// their checksum (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1). length is
// that of the transport header and what follows it. src and dst are of one
// family.
func PseudoSum(protocol uint8, src, dst netip.Addr, length int) uint16 {
	var b [40]byte
	n := len(append(append(b[:0], src.AsSlice()...), dst.AsSlice()...))
	binary.BigEndian.PutUint32(b[n:], uint32(length))
	b[n+7] = protocol
	return Sum(b[:n+8], 0)
}

// vectorLength is from how many bytes on a vector unit is worth its start.
const vectorLength = 256

// sum adds b to acc in little endian words, with an end-around carry. The order
// of bytes does not matter until the sum is folded (RFC 1071 section 2B).
func sum(b []byte, acc uint64) uint64 {
	if vector && len(b) >= vectorLength {
		n := len(b) &^ 63
		var c uint64
		acc, c = bits.Add64(acc, sumVector(b[:n]), 0)
		acc += c
		b = b[n:]
	}
	return sumWords(b, acc)
}

// sumWords is sum in 64-bit words.
func sumWords(b []byte, acc uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[0:8]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:16]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:24]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:32]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:40]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:48]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:56]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:64]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail uint64
	shift := 0
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b, shift = b[4:], 32
	}
	if len(b) >= 2 {
		tail |= uint64(binary.LittleEndian.Uint16(b)) << shift
		b, shift = b[2:], shift+16
	}
	if len(b) == 1 {
		tail |= uint64(b[0]) << shift
	}
	acc, c = bits.Add64(acc, tail, c)
	acc, c = bits.Add64(acc, 0, c)
	return acc + c
}

// sumHeader is sumWords of an IPv4 header without options.
func sumHeader(h []byte) uint64 {
	acc, c := bits.Add64(binary.LittleEndian.Uint64(h), binary.LittleEndian.Uint64(h[8:]), 0)
	acc, c = bits.Add64(acc, uint64(binary.LittleEndian.Uint32(h[16:])), c)
	return acc + c
}

// fold brings a sum of little endian words down to 16 bits in network order.
func fold(acc uint64) uint16 {
	s, c := bits.Add32(uint32(acc>>32), uint32(acc), 0)
	s += c
	s = s>>16 + s&0xffff
	s += s >> 16
	return bits.ReverseBytes16(uint16(s))
}

// pseudoHeader is the sum, not folded, of the pseudo header that belongs to a whole
// IP header.
func pseudoHeader(ip []byte, protocol uint8, length int) uint64 {
	acc := uint64(protocol)<<8 + uint64(bits.ReverseBytes32(uint32(length)))
	if ip[0]>>4 == 4 {
		return acc + uint64(binary.LittleEndian.Uint32(ip[12:])) + uint64(binary.LittleEndian.Uint32(ip[16:]))
	}
	return sumWords(ip[8:40], acc)
}

// finishIPv4 computes the header checksum of an IPv4 header (RFC 791 section 3.1).
func finishIPv4(header []byte) {
	header[10], header[11] = 0, 0
	acc := sumHeader(header)
	if len(header) > ipv4Header {
		acc = sumWords(header, 0)
	}
	binary.BigEndian.PutUint16(header[10:], ^fold(acc))
}

// FinishChecksum computes the transport checksum of an ordinary packet: TCP, UDP,
// ICMP or ICMPv6. Whatever the field holds before, such as the sum of the pseudo
// header that a kernel leaves there, is overwritten. Data ends where the IP header
// says. A fragment, a superpacket, and what has no such checksum are left as they
// are.
func (p *Packet) FinishChecksum() {
	t, at := p.covered()
	if at == 0 {
		return
	}
	t[at], t[at+1] = 0, 0
	sum := ^fold(sum(t, p.pseudo(len(t))))
	if sum == 0 && p.protocol == ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(t[at:], sum)
}

// ChecksumOK verifies the IPv4 header checksum and the transport checksum of TCP,
// UDP, ICMP or ICMPv6. Data ends where the IP header says. Of a fragment, a
// superpacket and other protocols it can judge the IPv4 header alone. A UDP
// datagram without a checksum is right over IPv4 and wrong over IPv6 (RFC 8200
// section 8.1). A malformed packet is wrong.
func (p *Packet) ChecksumOK() bool {
	p.parse()
	switch p.Version() {
	case 0:
		return false
	case 4:
		header := int(p.Data[0]&0x0f) * 4
		if header < 20 || header > len(p.Data) || Sum(p.Data[:header], 0) != 0xffff {
			return false
		}
	}
	t, at := p.covered()
	if at == 0 {
		has, _ := p.checksum()
		return p.protocol != 0 && (has == 0 || p.fragment || p.routed || p.Seg != 0)
	}
	if p.protocol == ProtocolUDP && t[6]|t[7] == 0 {
		return p.Version() == 4
	}
	return fold(sum(t, p.pseudo(len(t)))) == 0xffff
}

// checksum is the offset of the checksum in the transport header, or 0 for
// protocols without one this package knows; header is how long that header is at
// least.
func (p *Packet) checksum() (at, header int) {
	p.parse()
	switch {
	case p.protocol == ProtocolTCP:
		return 16, 20
	case p.protocol == ProtocolUDP:
		return 6, 8
	case p.protocol == ProtocolICMP && p.Version() == 4, p.protocol == ProtocolICMPv6 && p.Version() == 6:
		return 2, 4
	}
	return 0, 0
}

// covered is what the transport checksum covers besides the pseudo header, and
// where in it the checksum is; at is 0 when there is none to be computed here.
func (p *Packet) covered() (t []byte, at int) {
	t = p.Transport()
	at, header := p.checksum()
	if at == 0 || len(t) < header || p.fragment || p.routed || p.Seg != 0 {
		return nil, 0
	}
	if p.protocol == ProtocolUDP {
		n := int(binary.BigEndian.Uint16(t[4:]))
		if n < header || n > len(t) {
			return nil, 0
		}
		t = t[:n]
	}
	return t, at
}

// pseudo is what the sum of a transport of length bytes begins with.
func (p *Packet) pseudo(length int) uint64 {
	if p.protocol == ProtocolICMP {
		return 0
	}
	return pseudoHeader(p.Data, p.protocol, length)
}
