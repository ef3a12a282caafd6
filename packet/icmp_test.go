package packet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	router4 = netip.MustParseAddr("192.0.2.254")
	router6 = netip.MustParseAddr("2001:db8::fe")
)

func TestICMPErrorsQuoteWhatTheyAreAbout(t *testing.T) {
	type call = func(p *Packet, from netip.Addr)
	for name, test := range map[string]struct {
		do     call
		v4, v6 [8]byte // ICMP header, but for its checksum
	}{
		"no route":          {func(p *Packet, a netip.Addr) { p.Unreachable(a, NoRoute) }, [8]byte{3, 0}, [8]byte{1, 0}},
		"host unreachable":  {func(p *Packet, a netip.Addr) { p.Unreachable(a, HostUnreachable) }, [8]byte{3, 1}, [8]byte{1, 3}},
		"port unreachable":  {func(p *Packet, a netip.Addr) { p.Unreachable(a, PortUnreachable) }, [8]byte{3, 3}, [8]byte{1, 4}},
		"prohibited":        {func(p *Packet, a netip.Addr) { p.Unreachable(a, Prohibited) }, [8]byte{3, 13}, [8]byte{1, 1}},
		"too big":           {func(p *Packet, a netip.Addr) { p.TooBig(a, 1300) }, [8]byte{3, 4, 0, 0, 0, 0, 5, 0x14}, [8]byte{2, 0, 0, 0, 0, 0, 5, 0x14}},
		"hop limit reached": {func(p *Packet, a netip.Addr) { p.HopLimit(a) }, [8]byte{11, 0}, [8]byte{3, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 10, 500, 519, 520, 521, 1191, 1192, 1193, 1380} {
				for _, w := range []wire{udp4(), udp6(), udp4().with(func(w *wire) { w.options4 = make([]byte, 40) })} {
					w.payload = fill(size, 1)
					from, header, limit, protocol := router4, test.v4, 576-28, uint8(ProtocolICMP)
					if w.src.Addr().Is6() {
						from, header, limit, protocol = router6, test.v6, 1280-48, ProtocolICMPv6
					}
					p := borrowed(w.bytes(), 1500)
					test.do(p, from)
					require.Equal(t, bounced, p.fate)
					quoted := w.bytes()
					want := answer(w).with(func(w *wire) {
						w.src = netip.AddrPortFrom(from, 0)
						w.protocol = protocol
						if protocol == ProtocolICMP {
							w.tos = 0xc0
						}
						w.payload = append(header[:], quoted[:min(limit, len(quoted))]...)
					})
					require.Equal(t, want.bytes(), p.Data)
				}
			}
		})
	}
}

func TestICMPErrorAboutASuperpacketQuotesItsFirstSegment(t *testing.T) {
	for _, w := range []wire{tcp4(), udp6()} {
		w.payload = fill(5000, 1)
		first := w.naiveCut(100, false)[0]
		from := router4
		if w.src.Addr().Is6() {
			from = router6
		}
		p := w.super(100)
		p.TooBig(from, 90)
		require.Equal(t, bounced, p.fate)
		require.Zero(t, p.Seg)
		require.True(t, p.ChecksumOK())
		quote := p.Transport()[8:]
		at, _ := p.checksum()
		require.NotZero(t, at)
		require.Len(t, quote, len(first))
		var inner Packet
		inner.Set(quote, 0)
		inner.FinishChecksum()
		require.Equal(t, first, inner.Data)
	}
}

func TestICMPErrorQuotesLessWhereThereIsLittleRoom(t *testing.T) {
	d := udp4().with(func(w *wire) { w.payload = fill(100, 1) }).bytes()
	p := borrowed(d, 0)
	p.HopLimit(router4)
	require.Equal(t, bounced, p.fate)
	require.Len(t, p.Data, len(d))
	require.Equal(t, d[:len(d)-28], p.Data[28:])
	require.True(t, p.ChecksumOK())

	p = borrowed(d[:40], 0) // 20 more bytes would have to be quoted
	p.setIPv4Length()
	p.HopLimit(router4)
	require.True(t, wasDropped(p, NoReply))
}

func TestICMPErrorIsNeverSentAbout(t *testing.T) {
	icmp := func(kind byte) wire { return echo4().with(func(w *wire) { w.payload[0] = kind }) }
	icmp6 := func(kind byte) wire { return echo6().with(func(w *wire) { w.payload[0] = kind }) }
	from := func(a string) wire { return udp4().with(func(w *wire) { w.src = addrPort(a) }) }
	to := func(a string) wire { return udp4().with(func(w *wire) { w.dst = addrPort(a) }) }
	from6 := func(a string) wire { return udp6().with(func(w *wire) { w.src = addrPort(a) }) }
	to6 := func(a string) wire { return udp6().with(func(w *wire) { w.dst = addrPort(a) }) }
	for name, w := range map[string]wire{
		"unreachable":                           icmp(3),
		"source quench":                         icmp(4),
		"a redirect":                            icmp(5),
		"time exceeded":                         icmp(11),
		"a parameter problem":                   icmp(12),
		"an unknown ICMP message":               icmp(99),
		"an ICMP message without a type":        icmp(8),
		"an ICMPv6 error":                       icmp6(1),
		"an unknown ICMPv6 error":               icmp6(127),
		"an ICMPv6 redirect":                    icmp6(137),
		"a fragment that is not the first":      udp4().with(func(w *wire) { w.frag = 1 }),
		"an IPv6 fragment that is not first":    udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 0, 8, 1, 2, 3, 4}, 44 }),
		"an unspecified IPv4 source":            from("0.0.0.0:1"),
		"a source in network zero":              from("0.1.2.3:1"),
		"a loopback source":                     from("127.0.0.1:1"),
		"a multicast source":                    from("224.0.0.1:1"),
		"a class E source":                      from("240.0.0.1:1"),
		"a broadcast source":                    from("255.255.255.255:1"),
		"a multicast destination":               to("224.0.0.1:1"),
		"a broadcast destination":               to("255.255.255.255:1"),
		"an unspecified IPv6 source":            from6("[::]:1"),
		"an IPv6 loopback source":               from6("[::1]:1"),
		"an IPv6 multicast source":              from6("[ff02::1]:1"),
		"an IPv6 multicast destination":         to6("[ff02::1]:1"),
		"what has no transport behind IPv6":     udp6().with(func(w *wire) { w.protocol = protocolNone }),
		"an IPv6 packet that needs a v4 answer": udp6(),
	} {
		t.Run(name, func(t *testing.T) {
			a := router4
			if w.src.Addr().Is6() && name != "an IPv6 packet that needs a v4 answer" {
				a = router6
			}
			d := w.bytes()
			if name == "an ICMP message without a type" {
				d = d[:20]
			}
			p := borrowed(d, 1500)
			p.HopLimit(a)
			require.True(t, wasDropped(p, NoReply))
			if p.DstAddr() != netip.MustParseAddr("ff02::1") {
				p = borrowed(d, 1500)
				p.TooBig(a, 1280)
				require.True(t, wasDropped(p, NoReply))
			}
		})
	}
	for _, bad := range []netip.Addr{{}, router6, netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::ffff:192.0.2.1")} {
		p := borrowed(udp4().bytes(), 1500)
		p.HopLimit(bad)
		require.True(t, wasDropped(p, NoReply), "from %v", bad)
	}
}

func TestICMPErrorIsSentAbout(t *testing.T) {
	for name, w := range map[string]wire{
		"an echo request":    echo4(),
		"an echo reply":      echo4().with(func(w *wire) { w.payload[0] = 0 }),
		"a timestamp":        echo4().with(func(w *wire) { w.payload[0] = 13 }),
		"an ICMPv6 echo":     echo6(),
		"the first fragment": udp4().with(func(w *wire) { w.frag = 0x2000 }),
		"any other protocol": tcp4().with(func(w *wire) { w.protocol, w.payload = 132, fill(12, 1) }),
	} {
		t.Run(name, func(t *testing.T) {
			a := router4
			if w.src.Addr().Is6() {
				a = router6
			}
			p := borrowed(w.bytes(), 1500)
			p.Unreachable(a, Prohibited)
			require.Equal(t, bounced, p.fate)
			require.True(t, p.ChecksumOK())
		})
	}
	t.Run("a packet to a group that is too big", func(t *testing.T) {
		p := borrowed(udp6().with(func(w *wire) { w.dst = addrPort("[ff02::1]:1") }).bytes(), 1500)
		p.TooBig(router6, 1280)
		require.Equal(t, bounced, p.fate)
	})
}
