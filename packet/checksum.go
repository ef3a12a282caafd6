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

// sum adds b to acc in 64-bit little endian words with an end-around carry. The
// order of bytes does not matter until the sum is folded (RFC 1071 section 2B).
func sum(b []byte, acc uint64) uint64 {
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

// fold brings a sum of little endian words down to 16 bits in network order.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return bits.ReverseBytes16(uint16(acc))
}

// pseudoSum is PseudoSum of the addresses in a whole IP header.
func pseudoSum(ip []byte, protocol uint8, length int) uint16 {
	acc := uint64(bits.ReverseBytes16(uint16(length))) +
		uint64(bits.ReverseBytes16(uint16(length>>16))) +
		uint64(protocol)<<8
	if ip[0]>>4 == 4 {
		return fold(sum(ip[12:20], acc))
	}
	return fold(sum(ip[8:40], acc))
}

// checksumAt is where the transport protocol keeps its checksum, as an offset
// from the transport header, and how long that header is at least; at is 0 for
// protocols without one the data path knows.
func checksumAt(protocol uint8) (at, header int) {
	switch protocol {
	case ProtocolTCP:
		return 16, 20
	case ProtocolUDP:
		return 6, 8
	case ProtocolICMP, ProtocolICMPv6:
		return 2, 8
	}
	return 0, 0
}

// finishIPv4 computes the header checksum of an IPv4 header (RFC 791 section 3.1).
func finishIPv4(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^Sum(header, 0))
}
