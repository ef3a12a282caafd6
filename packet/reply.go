package packet

import (
	"encoding/binary"
	"net/netip"
)

// Reply turns a UDP datagram or an echo request into the answer to it: addresses
// and ports are swapped, the time to live is fresh, IP options and extension
// headers are gone, and the lengths are those of a packet with payload bytes
// behind the UDP or echo header. It returns these bytes, which still hold what of
// the question was there, to be written; FinishChecksum and Bounce then send the
// answer home.
//
// It returns nil when the answer does not fit into Data's capacity, less Slack,
// and p is unchanged then; and when p must not be answered (see EchoReply), and p
// is dropped with NoReply then.
func (p *Packet) Reply(payload int) []byte {
	t := p.Transport()
	if !p.answerable() || p.Seg != 0 || len(t) < 8 {
		p.Drop(NoReply)
		return nil
	}
	switch {
	case p.protocol == ProtocolUDP:
	case p.isEcho(t):
	default:
		p.Drop(NoReply)
		return nil
	}
	if payload < 0 || payload > p.room()-len(p.Data)+len(t)-8 {
		return nil
	}
	t = t[:8+payload]
	if p.protocol == ProtocolUDP {
		swap(t[0:2], t[2:4])
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		t[6], t[7] = 0, 0
	} else {
		t[0], t[2], t[3] = echoReply(p.protocol), 0, 0
	}
	p.turn(len(t))
	return p.Data[len(p.Data)-payload:]
}

// EchoReply answers an ICMP or ICMPv6 echo request, and bounces it. The checksum
// is adjusted, so that an echo damaged on the way stays damaged.
//
// What must not be answered is dropped with NoReply, here and by every other
// answer: a fragment, and a packet whose source is not one single host or whose
// destination is a group or all hosts (RFC 1122 sections 3.2.2 and 4.2.3.10, RFC
// 4443 section 2.4). That a destination is a subnet's broadcast address cannot be
// known here.
func (p *Packet) EchoReply() {
	t := p.Transport()
	if !p.answerable() || p.Seg != 0 || len(t) < icmpHeader || !p.isEcho(t) {
		p.Drop(NoReply)
		return
	}
	reply := [2]byte{echoReply(p.protocol), t[1]}
	adjust(t[2:4], replace(t[0:2], reply[:], 0))
	p.turn(len(t))
	p.Bounce()
}

// TCPReset answers a TCP segment as a closed port does (RFC 9293 section 3.10.7.1),
// and bounces it. A reset is not answered, nor is a segment whose checksum is
// wrong, which is dropped with BadChecksum. A superpacket counts as the one
// segment it stands for.
func (p *Packet) TCPReset() {
	t := p.Transport()
	if !p.answerable() || p.protocol != ProtocolTCP || len(t) < 20 {
		p.Drop(NoReply)
		return
	}
	header, flags := int(t[12]>>4)*4, t[13]
	if header < 20 || header > len(t) || flags&tcpRST != 0 {
		p.Drop(NoReply)
		return
	}
	if p.Seg == 0 && !p.ChecksumOK() {
		p.Drop(BadChecksum)
		return
	}
	seq, ack := binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	length := uint32(len(t) - header)
	if flags&tcpSYN != 0 {
		length++
	}
	if flags&tcpFIN != 0 {
		length++
	}
	swap(t[0:2], t[2:4])
	clear(t[4:20])
	if flags&tcpACK != 0 {
		binary.BigEndian.PutUint32(t[4:], ack)
		t[13] = tcpRST
	} else {
		binary.BigEndian.PutUint32(t[8:], seq+length)
		t[13] = tcpRST | tcpACK
	}
	t[12] = 5 << 4
	p.turn(20)
	p.FinishChecksum()
	p.Bounce()
}

// isEcho reports whether p, with transport header t, is an echo request.
func (p *Packet) isEcho(t []byte) bool {
	return p.protocol == ProtocolICMP && p.Version() == 4 && t[0] == icmpEcho ||
		p.protocol == ProtocolICMPv6 && p.Version() == 6 && t[0] == icmp6Echo
}

func echoReply(protocol uint8) byte {
	if protocol == ProtocolICMP {
		return icmpEchoReply
	}
	return icmp6EchoReply
}

// answerable reports whether the addresses of p, and that it is whole, allow any
// answer at all.
func (p *Packet) answerable() bool {
	if !p.Live() || p.Transport() == nil || p.fragment {
		return false
	}
	if d := p.Data; d[0]>>4 == 4 {
		return oneHost4(d[12]) && oneHost4(d[16])
	}
	return oneHost(p.SrcAddr()) && oneHost(p.DstAddr())
}

// oneHost reports whether an address on the wire can be that of a single host: not
// unspecified, loopback, multicast, broadcast or reserved (RFC 1122 sections
// 3.2.1.3 and 3.2.2, RFC 4443 section 2.4 e.6).
func oneHost(a netip.Addr) bool {
	if a.Is4() {
		return oneHost4(a.As4()[0])
	}
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

// oneHost4 is oneHost of an IPv4 address with this first byte.
func oneHost4(first byte) bool { return first != 0 && first != 127 && first < 224 }

// room is how long Data may get: its capacity, with Slack left behind it.
func (p *Packet) room() int {
	return min(max(len(p.Data), cap(p.Data)-Slack), MaxSize)
}

// turn puts a fresh IP header, with the addresses swapped, directly in front of
// the transport header and ends Data transport bytes behind it. Congestion marks
// are the question's and stay behind (RFC 3168 section 6.1.1).
func (p *Packet) turn(transport int) {
	d, at, protocol := p.Data, int(p.transport), p.protocol
	if d[0]>>4 == 4 {
		// The bytes themselves, not addresses made of them: this is most of the cost
		// of an answer.
		tos, src, dst := d[1]&^congestion, [4]byte(d[12:16]), [4]byte(d[16:20])
		p.Set(d[at-ipv4Header:at+transport], 0)
		p.parsed, p.protocol, p.transport = true, protocol, ipv4Header
		putIPv4(p.Data, tos, protocol, dst, src)
	} else {
		class, src, dst := (d[0]<<4|d[1]>>4)&^congestion, [16]byte(d[8:24]), [16]byte(d[24:40])
		p.Set(d[at-ipv6Header:at+transport], 0)
		p.parsed, p.protocol, p.transport = true, protocol, ipv6Header
		putIPv6(p.Data, class, protocol, dst, src)
	}
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
