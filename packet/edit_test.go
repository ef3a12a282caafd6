package packet

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// randomAddr likes the values at which checksums wrap.
func randomAddr(r *rand.Rand, like netip.Addr) netip.AddrPort {
	b := like.AsSlice()
	fillWith := [...]byte{0, 0xff, byte(r.Uint32())}[r.IntN(3)]
	for i := range b {
		b[i] = fillWith
		if r.IntN(3) == 0 {
			b[i] = byte(r.Uint32())
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, [...]uint16{0, 0xffff, uint16(r.Uint32())}[r.IntN(3)])
}

func TestIncrementalChecksumsEqualFullOnesOverRandomEdits(t *testing.T) {
	for name, w := range checksummed() {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			var p, full Packet
			p.Set(w.bytes(), 0)
			for range 5000 {
				a := randomAddr(r, w.src.Addr())
				if r.IntN(2) == 0 {
					p.SetSrc(a)
					require.Equal(t, a.Addr(), p.SrcAddr())
					if p.protocol == ProtocolTCP || p.protocol == ProtocolUDP {
						require.Equal(t, a, p.Src())
					}
				} else {
					p.SetDst(a)
					require.Equal(t, a.Addr(), p.DstAddr())
					if p.protocol == ProtocolTCP || p.protocol == ProtocolUDP {
						require.Equal(t, a, p.Dst())
					}
				}
				full.Set(append([]byte(nil), p.Data...), 0)
				if p.Version() == 4 {
					finishIPv4(full.Data[:int(p.Data[0]&15)*4])
				}
				full.FinishChecksum()
				require.Equal(t, full.Data, p.Data)
			}
		})
	}
}

func TestAnEditKeepsAWrongChecksumWrong(t *testing.T) {
	for name, w := range checksummed() {
		t.Run(name, func(t *testing.T) {
			d := w.bytes()
			d[len(d)-1] ^= 1
			var p Packet
			p.Set(d, 0)
			a := netip.AddrPortFrom(w.src.Addr().Next(), 99)
			p.SetSrc(a)
			p.SetDst(a)
			require.False(t, p.ChecksumOK())
		})
	}
}

func TestAnEdit(t *testing.T) {
	to4, to6 := addrPort("192.0.2.1:99"), addrPort("[2001:db8::1]:99")
	edit := func(d []byte, seg uint16, a netip.AddrPort) *Packet {
		p := &Packet{}
		p.Set(d, seg)
		p.SetSrc(a)
		return p
	}
	t.Run("leaves a packet of the other family as it is", func(t *testing.T) {
		require.Equal(t, tcp4().bytes(), edit(tcp4().bytes(), 0, to6).Data)
		require.Equal(t, tcp6().bytes(), edit(tcp6().bytes(), 0, to4).Data)
		require.Equal(t, tcp4().bytes(), edit(tcp4().bytes(), 0, netip.AddrPort{}).Data)
		require.Equal(t, tcp4().bytes(), edit(tcp4().bytes(), 0, addrPort("[::ffff:1.2.3.4]:1")).Data)
		require.Equal(t, []byte{1, 2}, edit([]byte{1, 2}, 0, to4).Data)
	})
	t.Run("leaves UDP without a checksum without one", func(t *testing.T) {
		w := udp4().with(func(w *wire) { w.noSum, w.payload = true, fill(20, 1) })
		require.Equal(t, w.with(func(w *wire) { w.src = to4 }).bytes(), edit(w.bytes(), 0, to4).Data)
	})
	t.Run("of a later fragment changes the address alone", func(t *testing.T) {
		w := udp4().with(func(w *wire) { w.frag, w.payload = 3, fill(20, 1) })
		want := w.bytes()
		copy(want[12:], to4.Addr().AsSlice())
		finishIPv4(want[:20])
		require.Equal(t, want, edit(w.bytes(), 0, to4).Data)

		w = udp6().with(func(w *wire) {
			w.ext, w.extFirst, w.payload = []byte{17, 0, 0, 8, 1, 2, 3, 4}, extFragment, fill(20, 1)
		})
		want = w.bytes()
		copy(want[8:], to6.Addr().AsSlice())
		require.Equal(t, want, edit(w.bytes(), 0, to6).Data)
	})
	t.Run("of the first fragment adjusts the checksum of the whole datagram", func(t *testing.T) {
		w := udp4().with(func(w *wire) { w.payload = fill(1000, 1) })
		whole := edit(w.bytes(), 0, to4).Data
		first := w.with(func(w *wire) { w.frag = 0x2000 }).bytes()
		got := edit(first[:528], 0, to4).Data
		require.Equal(t, whole[20:528], got[20:])
	})
	t.Run("of a superpacket skips the transport checksum", func(t *testing.T) {
		w := tcp4().with(func(w *wire) { w.payload = fill(1000, 1) })
		want := w.with(func(w *wire) { w.src = to4 }).bytes()
		copy(want[36:38], w.bytes()[36:38])
		require.Equal(t, want, edit(w.bytes(), 100, to4).Data)
	})
	t.Run("of a protocol without ports changes the address alone", func(t *testing.T) {
		w := tcp4().with(func(w *wire) { w.protocol, w.payload = 132, fill(20, 1) })
		require.Equal(t, w.with(func(w *wire) { w.src = to4 }).bytes(), edit(w.bytes(), 0, to4).Data)
	})
	t.Run("changes the port of a transport header cut short, and no more", func(t *testing.T) {
		d := tcp4().with(func(w *wire) { w.frag = 0x2000 }).bytes()[:28]
		got := edit(append([]byte(nil), d...), 0, to4)
		require.Equal(t, to4, got.Src())
		require.Equal(t, d[24:], got.Data[24:])
	})
	t.Run("of a destination under way along a route leaves the final one's checksum", func(t *testing.T) {
		w := udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 4, 1, 0, 0, 0, 0}, extRouting })
		d := w.bytes()
		var p Packet
		p.Set(d, 0)
		before := w.bytes()
		p.SetDst(netip.AddrPortFrom(to6.Addr(), w.dst.Port()))
		require.Equal(t, before[48:], p.Data[48:])
		require.Equal(t, to6.Addr(), p.DstAddr())
	})
}

func TestEditsDoNotAllocate(t *testing.T) {
	var p, p6 Packet
	p.Set(tcp4().bytes(), 0)
	p6.Set(udp6().bytes(), 0)
	a, a6 := addrPort("192.0.2.1:99"), addrPort("[2001:db8::1]:99")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p.SetSrc(a)
		p6.SetDst(a6)
		p.FinishChecksum()
		if !p6.ChecksumOK() || PseudoSum(6, a.Addr(), a.Addr(), 20) == 0 {
			t.Fail()
		}
	}))
}

func BenchmarkEdit(b *testing.B) {
	for name, w := range map[string]wire{"TCPv4": tcp4(), "UDPv6": udp6()} {
		b.Run(name, func(b *testing.B) {
			d := w.bytes()
			var p Packet
			src, dst := w.dst, w.src
			for b.Loop() {
				p.Set(d, 0)
				p.SetSrc(src)
				src, dst = dst, src
			}
		})
	}
}

func TestARewrittenWordKeepsTheHeaderChecksumRight(t *testing.T) {
	header := []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, ProtocolUDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	finishIPv4(header)
	for word := range 1 << 16 {
		Rewrite(header[4:6], []byte{byte(word >> 8), byte(word)}, header[10:12])
		require.EqualValues(t, 0xffff, Sum(header, 0), "%#x", word)
	}
}
