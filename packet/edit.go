package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// SetSrc makes a the source address and, for TCP and UDP, the source port. The
// checksums that cover them are adjusted in place by RFC 1624 equation 3, so one
// that was wrong stays wrong. Of a superpacket only the IPv4 header checksum is
// adjusted; of a fragment that is not the first, only the address and the IPv4
// header checksum change. An address of the other family leaves p as it is, as
// does a packet without an IP header; a zone is ignored.
func (p *Packet) SetSrc(a netip.AddrPort) { p.edit(a, 12, 8, 0) }

// SetDst makes a the destination address and, for TCP and UDP, the destination
// port, as SetSrc does with the source. Where a routing header has segments left
// the transport checksum covers the last address in that header instead of this
// one, and is adjusted for the port alone.
func (p *Packet) SetDst(a netip.AddrPort) { p.edit(a, 16, 24, 2) }

// edit writes an address to the offset at4 or at6 of the IP header, and a port to
// the offset port of the transport header.
func (p *Packet) edit(a netip.AddrPort, at4, at6, port int) {
	var change uint64 // of the sum of what the transport checksum covers
	switch addr := a.Addr(); {
	case p.Version() == 4 && addr.Is4():
		value := addr.As4()
		change = replace(p.Data[at4:at4+4], value[:], 0)
		adjust(p.Data[10:12], change)
	case p.Version() == 6 && addr.Is6():
		value := addr.As16()
		change = replace(p.Data[at6:at6+16], value[:], 0)
	default:
		return
	}

	t := p.Transport()
	if p.routed && at6 == 24 {
		change = 0
	}
	switch p.protocol {
	case ProtocolTCP, ProtocolUDP:
		if len(t) >= 4 {
			value := [2]byte{byte(a.Port() >> 8), byte(a.Port())}
			change = replace(t[port:port+2], value[:], change)
		}
	case ProtocolICMPv6:
	default:
		return // no checksum, or one without a pseudo header
	}
	at, _ := p.checksum()
	if at == 0 || len(t) < at+2 || p.Seg != 0 {
		return
	}
	field := t[at : at+2]
	if p.protocol != ProtocolUDP {
		adjust(field, change)
	} else if field[0]|field[1] != 0 { // zero says there is none (RFC 768)
		adjust(field, change)
		if field[0]|field[1] == 0 {
			field[0], field[1] = 0xff, 0xff
		}
	}
}

// Rewrite overwrites old, whole 16-bit words that the checksum covers, by value of
// the same length, and adjusts the checksum (RFC 1624).
func Rewrite(old, value, checksum []byte) { adjust(checksum, replace(old, value, 0)) }

// replace overwrites old by value, and adds the difference to a sum: the ones'
// complement of a number is its negative.
func replace(old, value []byte, acc uint64) uint64 {
	acc = sumWords(value, ^sumWords(old, ^acc))
	copy(old, value)
	return acc
}

// adjust applies the change of a sum to the checksum of it: RFC 1624 equation 3,
// HC' = ~(~HC + ~m + m').
func adjust(checksum []byte, change uint64) {
	old := ^binary.LittleEndian.Uint16(checksum)
	var c uint64
	change, c = bits.Add64(change, uint64(old), 0)
	binary.BigEndian.PutUint16(checksum, ^fold(change+c))
}
