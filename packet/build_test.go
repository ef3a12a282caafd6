package packet

import (
	"encoding/binary"
	"net/netip"
)

// naiveSum is RFC 1071 as one would say it.
func naiveSum(b []byte, acc uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		acc += word
		acc = acc&0xffff + acc>>16
	}
	return uint16(acc)
}

// A wire describes a packet to build.
type wire struct {
	src, dst netip.AddrPort
	protocol uint8
	tos, ttl uint8
	flow     uint32 // IPv6 flow label
	id       uint16
	frag     uint16 // IPv4 flags and offset
	options4 []byte // IPv4 options, a multiple of 4 bytes
	ext      []byte // IPv6 extension headers, the last one's next header filled in
	extFirst uint8  // kind of the first extension header

	seq, ack uint32
	flags    byte
	window   uint16
	urgent   uint16
	options  []byte // TCP options, a multiple of 4 bytes
	noSum    bool   // UDP without a checksum
	payload  []byte
}

func tcp4() wire {
	return wire{
		src: addrPort("10.0.0.1:40000"), dst: addrPort("10.0.0.2:443"),
		protocol: ProtocolTCP, ttl: 64, frag: 0x4000, id: 7, seq: 1000, ack: 2000, flags: tcpACK, window: 512,
		options: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2},
	}
}

func tcp6() wire {
	w := tcp4()
	w.src, w.dst = addrPort("[fd00::1]:40000"), addrPort("[fd00::2]:443")
	return w
}

func udp4() wire {
	w := tcp4()
	w.protocol = ProtocolUDP
	return w
}

func udp6() wire {
	w := tcp6()
	w.protocol = ProtocolUDP
	return w
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func (w wire) with(change func(*wire)) wire {
	change(&w)
	return w
}

func fill(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + seed
	}
	return b
}

// bytes makes the packet, with correct lengths and checksums.
func (w wire) bytes() []byte {
	var t []byte
	be := binary.BigEndian
	switch w.protocol {
	case ProtocolTCP:
		t = make([]byte, 20, 20+len(w.options)+len(w.payload))
		be.PutUint16(t[0:], w.src.Port())
		be.PutUint16(t[2:], w.dst.Port())
		be.PutUint32(t[4:], w.seq)
		be.PutUint32(t[8:], w.ack)
		t[12], t[13] = byte((20+len(w.options))/4)<<4, w.flags
		be.PutUint16(t[14:], w.window)
		be.PutUint16(t[18:], w.urgent)
		t = append(append(t, w.options...), w.payload...)
	case ProtocolUDP:
		t = make([]byte, 8, 8+len(w.payload))
		be.PutUint16(t[0:], w.src.Port())
		be.PutUint16(t[2:], w.dst.Port())
		be.PutUint16(t[4:], uint16(8+len(w.payload)))
		t = append(t, w.payload...)
	default:
		t = append(t, w.payload...)
	}
	var ip []byte
	if w.src.Addr().Is4() {
		ip = make([]byte, 20, 20+len(w.options4)+len(t))
		ip[0], ip[1] = 0x40|byte((20+len(w.options4))/4), w.tos
		be.PutUint16(ip[2:], uint16(20+len(w.options4)+len(t)))
		be.PutUint16(ip[4:], w.id)
		be.PutUint16(ip[6:], w.frag)
		ip[8], ip[9] = w.ttl, w.protocol
		copy(ip[12:], w.src.Addr().AsSlice())
		copy(ip[16:], w.dst.Addr().AsSlice())
		ip = append(ip, w.options4...)
		be.PutUint16(ip[10:], ^naiveSum(ip, 0))
	} else {
		ip = make([]byte, 40, 40+len(w.ext)+len(t))
		be.PutUint32(ip, 6<<28|uint32(w.tos)<<20|w.flow)
		be.PutUint16(ip[4:], uint16(len(w.ext)+len(t)))
		ip[6], ip[7] = w.protocol, w.ttl
		if w.ext != nil {
			ip[6] = w.extFirst
		}
		copy(ip[8:], w.src.Addr().AsSlice())
		copy(ip[24:], w.dst.Addr().AsSlice())
		ip = append(ip, w.ext...)
	}
	at := 16
	switch {
	case w.protocol == ProtocolUDP && !w.noSum:
		at = 6
	case w.protocol == ProtocolICMPv6:
		at = 2
	case w.protocol == ProtocolICMP:
		be.PutUint16(t[2:], 0)
		be.PutUint16(t[2:], ^naiveSum(t, 0))
		return append(ip, t...)
	case w.protocol != ProtocolTCP:
		return append(ip, t...)
	}
	be.PutUint16(t[at:], 0)
	sum := ^naiveTransport(ip, w.protocol, t)
	if sum == 0 && w.protocol == ProtocolUDP {
		sum = 0xffff
	}
	be.PutUint16(t[at:], sum)
	return append(ip, t...)
}

// naiveTransport sums pseudo header and transport.
func naiveTransport(ip []byte, protocol uint8, t []byte) uint16 {
	var pseudo []byte
	if ip[0]>>4 == 4 {
		pseudo = append(pseudo, ip[12:20]...)
	} else {
		pseudo = append(pseudo, ip[8:40]...)
	}
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(t)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	return naiveSum(t, uint32(naiveSum(pseudo, 0)))
}

// super makes a superpacket of w: its payload in segments of seg bytes.
func (w wire) super(seg uint16) *Packet {
	var p Packet
	d := w.bytes()
	room := make([]byte, len(d)+Slack)
	copy(room, d)
	p.Set(room[:len(d)], seg)
	return &p
}

// naiveCut says what cutting must give, from the description.
func (w wire) naiveCut(seg int, fixedID bool) [][]byte {
	var out [][]byte
	rest := w.payload
	for i := 0; i == 0 || len(rest) > 0; i++ {
		s := w
		n := min(seg, len(rest))
		s.payload = rest[:n]
		rest = rest[n:]
		s.seq = w.seq + uint32(i*seg)
		if !fixedID {
			s.id = w.id + uint16(i)
		}
		if len(rest) > 0 {
			s.flags &^= tcpFIN | tcpPSH
		}
		if i > 0 {
			s.flags &^= tcpCWR
		}
		out = append(out, s.bytes())
	}
	return out
}

func cutAll(c *Cutter, p *Packet) ([][]byte, error) {
	if err := c.Start(p); err != nil {
		return nil, err
	}
	var out [][]byte
	for s := c.Next(); s != nil; s = c.Next() {
		out = append(out, append([]byte(nil), s...))
	}
	return out, nil
}
