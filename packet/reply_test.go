package packet

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// borrowed makes a packet with room to grow to size.
func borrowed(d []byte, size int) *Packet {
	room := make([]byte, max(len(d), size)+Slack)
	copy(room, d)
	p := &Packet{}
	p.Set(room[:len(d)], 0)
	return p
}

// dropped reports whether p was dropped for a reason.
func wasDropped(p *Packet, why Reason) bool { return p.fate == dropped && p.reason == why }

// answer is the description of the answer to w: addresses swapped, a fresh header.
func answer(w wire) wire {
	w.src, w.dst = w.dst, w.src
	w.ttl, w.tos, w.id, w.frag, w.flow, w.options4, w.ext = 64, w.tos&^3, 0, 0x4000, 0, nil, nil
	return w
}

func icmpMessage(kind, code byte, rest ...byte) []byte {
	return append([]byte{kind, code, 0, 0}, rest...)
}

func echo4() wire {
	return tcp4().with(func(w *wire) {
		w.protocol, w.payload = ProtocolICMP, icmpMessage(8, 0, append([]byte{1, 2, 3, 4}, fill(56, 1)...)...)
	})
}

func echo6() wire {
	return tcp6().with(func(w *wire) {
		w.protocol, w.payload = ProtocolICMPv6, icmpMessage(128, 0, append([]byte{1, 2, 3, 4}, fill(56, 1)...)...)
	})
}

func TestReplyMakesADatagramItsOwnAnswer(t *testing.T) {
	for name, w := range map[string]wire{
		"over IPv4":                     udp4().with(func(w *wire) { w.tos, w.frag, w.ttl = 0xba|1, 0, 3 }),
		"over IPv6":                     udp6().with(func(w *wire) { w.tos, w.flow = 0xb9, 12345 }),
		"over IPv4 with options":        udp4().with(func(w *wire) { w.options4 = []byte{1, 1, 1, 0} }),
		"over IPv6 behind an extension": udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 1, 4, 0, 0, 0, 0}, 60 }),
		"without a checksum":            udp4().with(func(w *wire) { w.noSum = true }),
	} {
		t.Run(name, func(t *testing.T) {
			w.payload = fill(40, 1)
			for _, n := range []int{0, 1, 39, 40, 41, 1200} {
				p := borrowed(w.bytes(), 1420)
				room := p.Reply(n)
				require.NotNil(t, room)
				require.Len(t, room, n)
				if n <= 40 {
					require.Equal(t, w.payload[:n], room, "the question is still there")
				}
				copy(room, fill(n, 9))
				p.FinishChecksum()
				require.True(t, p.Live())
				want := answer(w).with(func(w *wire) { w.payload, w.noSum = fill(n, 9), false })
				require.Equal(t, want.bytes(), p.Data)
				require.Equal(t, want.dst, p.Dst())
			}
		})
	}
}

func TestReplyMakesAnEchoRequestItsReply(t *testing.T) {
	for _, w := range []wire{echo4(), echo6()} {
		p := borrowed(w.bytes(), 1420)
		copy(p.Reply(3), "abc")
		p.FinishChecksum()
		kind := byte(0)
		if w.protocol == ProtocolICMPv6 {
			kind = 129
		}
		want := answer(w).with(func(w *wire) { w.payload = icmpMessage(kind, 0, 1, 2, 3, 4, 'a', 'b', 'c') })
		require.Equal(t, want.bytes(), p.Data)
	}
}

func TestReplyThatDoesNotFitChangesNothing(t *testing.T) {
	d := udp4().with(func(w *wire) { w.options4, w.payload = make([]byte, 4), fill(40, 1) }).bytes()
	p := borrowed(d, 500)
	for _, n := range []int{-1, 500 - 31, 1 << 20} {
		require.Nil(t, p.Reply(n), n)
		require.Equal(t, d, p.Data)
		require.True(t, p.Live())
	}
	require.Len(t, p.Reply(500-32), 500-32)
	require.Equal(t, Slack, cap(p.Data)-len(p.Data))

	exact := &Packet{Data: append([]byte(nil), d...)}
	exact.Data = exact.Data[:len(d):len(d)]
	require.Nil(t, exact.Reply(41))
	require.Len(t, exact.Reply(40), 40, "a packet without capacity has room for as much as it holds")
}

func TestReplyDropsWhatIsNeitherADatagramNorAnEchoRequest(t *testing.T) {
	for name, p := range map[string]*Packet{
		"TCP":                     borrowed(tcp4().bytes(), 100),
		"an echo reply":           borrowed(answer(echo4()).with(func(w *wire) { w.payload[0] = 0 }).bytes(), 100),
		"a fragment":              borrowed(udp4().with(func(w *wire) { w.frag = 0x2000 }).bytes(), 100),
		"a superpacket":           udp4().with(func(w *wire) { w.payload = fill(100, 1) }).super(10),
		"a header cut short":      borrowed(udp4().bytes()[:25], 100),
		"no packet":               borrowed(nil, 100),
		"a datagram to a group":   borrowed(udp4().with(func(w *wire) { w.dst = addrPort("224.0.0.251:5353") }).bytes(), 100),
		"a datagram from nowhere": borrowed(udp6().with(func(w *wire) { w.src = addrPort("[::]:53") }).bytes(), 100),
	} {
		t.Run(name, func(t *testing.T) {
			require.Nil(t, p.Reply(5))
			require.True(t, wasDropped(p, NoReply))
		})
	}
}

func TestEchoReply(t *testing.T) {
	for name, w := range map[string]wire{
		"over IPv4":              echo4(),
		"over IPv6":              echo6(),
		"over IPv4 with options": echo4().with(func(w *wire) { w.options4 = make([]byte, 40) }),
		"over IPv6 behind an extension": echo6().with(func(w *wire) {
			w.ext, w.extFirst = []byte{ProtocolICMPv6, 0, 1, 4, 0, 0, 0, 0}, extDestination
		}),
	} {
		t.Run(name, func(t *testing.T) {
			want := answer(w)
			want.payload = append([]byte(nil), w.payload...)
			want.payload[0] = map[uint8]byte{ProtocolICMP: 0, ProtocolICMPv6: 129}[w.protocol]
			p := borrowed(w.bytes(), 0)
			p.EchoReply()
			require.Equal(t, bounced, p.fate)
			require.Equal(t, want.bytes(), p.Data)

			d := w.bytes()
			d[len(d)-1] ^= 1
			p = borrowed(d, 0)
			p.EchoReply()
			require.False(t, p.ChecksumOK(), "damaged stays damaged")
		})
	}
	for name, w := range map[string]wire{
		"no ICMP":        udp4(),
		"an echo reply":  echo4().with(func(w *wire) { w.payload[0] = 0 }),
		"a short header": echo4().with(func(w *wire) { w.payload = w.payload[:7] }),
		"a fragment":     echo4().with(func(w *wire) { w.frag = 0x2000 }),
	} {
		t.Run("drops "+name, func(t *testing.T) {
			p := borrowed(w.bytes(), 0)
			p.EchoReply()
			require.True(t, wasDropped(p, NoReply))
		})
	}
}

func TestTCPReset(t *testing.T) {
	for name, test := range map[string]struct {
		w        wire
		seq, ack uint32
		flags    byte
	}{
		"takes its sequence number from an acknowledgment": {tcp4().with(func(w *wire) { w.payload = fill(10, 1) }), 2000, 0, tcpRST},
		"acknowledges a SYN":                                  {tcp4().with(func(w *wire) { w.flags = tcpSYN }), 0, 1001, tcpRST | tcpACK},
		"acknowledges data and FIN":                           {tcp6().with(func(w *wire) { w.flags, w.payload = tcpFIN, fill(10, 1) }), 0, 1011, tcpRST | tcpACK},
		"counts SYN and FIN, over the wrap":                   {tcp6().with(func(w *wire) { w.flags, w.seq = tcpSYN|tcpFIN, 0xffffffff }), 0, 1, tcpRST | tcpACK},
		"answers a SYN and ACK as nothing to be acknowledged": {tcp6().with(func(w *wire) { w.flags |= tcpSYN }), 2000, 0, tcpRST},
	} {
		t.Run(name, func(t *testing.T) {
			p := borrowed(test.w.bytes(), 0)
			p.TCPReset()
			require.Equal(t, bounced, p.fate)
			want := answer(test.w).with(func(w *wire) {
				w.seq, w.ack, w.flags, w.window, w.options, w.payload = test.seq, test.ack, test.flags, 0, nil, nil
			})
			require.Equal(t, want.bytes(), p.Data)
		})
	}
	t.Run("counts all of a superpacket", func(t *testing.T) {
		p := tcp4().with(func(w *wire) { w.flags, w.payload = 0, fill(1000, 1) }).super(100)
		p.TCPReset()
		require.Equal(t, bounced, p.fate)
		require.Zero(t, p.Seg)
		require.True(t, p.ChecksumOK())
		require.EqualValues(t, 2000, binary.BigEndian.Uint32(p.Transport()[8:]))
	})
	for name, w := range map[string]wire{
		"a reset":               tcp4().with(func(w *wire) { w.flags |= tcpRST }),
		"what is not TCP":       udp4(),
		"a fragment":            tcp4().with(func(w *wire) { w.frag = 0x2000 }),
		"a segment to a group":  tcp4().with(func(w *wire) { w.dst = addrPort("239.1.1.1:80") }),
		"a segment to all":      tcp4().with(func(w *wire) { w.dst = addrPort("255.255.255.255:80") }),
		"a segment from all":    tcp4().with(func(w *wire) { w.src = addrPort("255.255.255.255:80") }),
		"a segment from itself": tcp4().with(func(w *wire) { w.src = addrPort("127.0.0.1:80") }),
	} {
		t.Run("is not sent about "+name, func(t *testing.T) {
			p := borrowed(w.bytes(), 0)
			p.TCPReset()
			require.True(t, wasDropped(p, NoReply))
		})
	}
	t.Run("is not sent about a wrong checksum", func(t *testing.T) {
		d := tcp4().bytes()
		d[30] ^= 1
		p := borrowed(d, 0)
		p.TCPReset()
		require.True(t, wasDropped(p, BadChecksum))
	})
	t.Run("is not sent about a header that is malformed", func(t *testing.T) {
		for _, offset := range []byte{0x40, 0xf0} {
			d := tcp4().bytes()
			d[32] = offset
			p := borrowed(d, 0)
			p.TCPReset()
			require.True(t, wasDropped(p, NoReply))
		}
	})
}

func TestADroppedPacketIsNotAnswered(t *testing.T) {
	from := addrPort("10.9.9.9:0").Addr()
	for name, do := range map[string]func(p *Packet){
		"Reply":       func(p *Packet) { require.Nil(t, p.Reply(1)) },
		"EchoReply":   (*Packet).EchoReply,
		"TCPReset":    (*Packet).TCPReset,
		"Unreachable": func(p *Packet) { p.Unreachable(from, NoRoute) },
		"TooBig":      func(p *Packet) { p.TooBig(from, 1280) },
		"HopLimit":    func(p *Packet) { p.HopLimit(from) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, w := range []wire{udp4(), tcp4(), echo4()} {
				p := borrowed(w.bytes(), 1500)
				p.Drop(Filtered)
				do(p)
				require.True(t, wasDropped(p, Filtered))
				require.Equal(t, w.bytes(), p.Data)
			}
		})
	}
}

func TestAnswersDoNotAllocate(t *testing.T) {
	udp, ping, syn := udp6().bytes(), echo4().bytes(), tcp6().bytes()
	buf := make([]byte, 1500+Slack)
	from := addrPort("10.9.9.9:0").Addr()
	var p Packet
	set := func(d []byte) {
		p.Set(buf[:copy(buf, d)], 0)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		set(udp)
		clear(p.Reply(100))
		p.FinishChecksum()
		set(ping)
		p.EchoReply()
		set(syn)
		p.TCPReset()
		set(ping)
		p.HopLimit(from)
		if p.Live() {
			t.Fail()
		}
	}))
}

func FuzzReply(f *testing.F) {
	for _, w := range checksummed() {
		f.Add(w.bytes(), uint8(0), uint16(100), uint16(0))
		f.Add(w.bytes(), uint8(3), uint16(1280), uint16(10))
	}
	f.Add(echo4().bytes(), uint8(1), uint16(0), uint16(0))
	f.Add(echo6().bytes(), uint8(1), uint16(0), uint16(0))
	f.Add(tcp6().bytes(), uint8(2), uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, d []byte, what uint8, number, seg uint16) {
		p := borrowed(d, 1500)
		p.Seg = seg
		trimmed := what&0x80 == 0 && p.Trim()
		valid := trimmed && p.ChecksumOK()
		src, dst := p.SrcAddr(), p.DstAddr()
		from := addrPort("[2001:db8::9]:0").Addr()
		if p.Version() == 4 {
			from = addrPort("192.0.2.9:0").Addr()
		}
		self := true // the answer comes from the packet's destination
		switch what & 7 {
		case 0:
			if room := p.Reply(int(number)); room != nil {
				clear(room)
				p.FinishChecksum()
				p.Bounce()
				valid = true
			} else if p.Live() {
				return // did not fit
			}
		case 1:
			p.EchoReply()
		case 2:
			p.TCPReset()
		case 3:
			p.Unreachable(from, Code(number))
			self, valid = false, true
		case 4:
			p.TooBig(from, int(number))
			self, valid = false, true
		case 5:
			p.HopLimit(from)
			self, valid = false, true
		default:
			return
		}
		if p.fate != bounced {
			if !wasDropped(p, NoReply) && !wasDropped(p, BadChecksum) {
				t.Fatalf("neither answered nor dropped: fate %d, reason %v", p.fate, p.reason)
			}
			return
		}
		size := len(p.Data)
		if !p.Trim() || len(p.Data) != size || cap(p.Data)-size < Slack {
			t.Fatalf("the answer's length is wrong: %d of %d", len(p.Data), size)
		}
		if self {
			from = dst
		}
		if p.SrcAddr() != from || p.DstAddr() != src || p.Seg != 0 {
			t.Fatalf("the answer goes from %v to %v, segments of %d", p.SrcAddr(), p.DstAddr(), p.Seg)
		}
		if valid && !p.ChecksumOK() {
			t.Fatal("the answer's checksum is wrong")
		}
	})
}
