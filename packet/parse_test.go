package packet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseFindsTheTransport(t *testing.T) {
	options := []byte{1, 4, 0, 0, 0, 0}
	ext := func(next uint8) []byte { return append([]byte{next, 0}, options...) }
	for name, test := range map[string]struct {
		w        wire
		protocol uint8
		at       int // 0: no transport
		fragment bool
	}{
		"IPv4":                          {tcp4(), 6, 20, false},
		"IPv4 with options":             {tcp4().with(func(w *wire) { w.options4 = make([]byte, 40) }), 6, 60, false},
		"the first IPv4 fragment":       {udp4().with(func(w *wire) { w.frag = 0x2000 }), 17, 20, true},
		"a later IPv4 fragment":         {udp4().with(func(w *wire) { w.frag = 0x2001 }), 17, 0, true},
		"the last IPv4 fragment":        {udp4().with(func(w *wire) { w.frag = 1 }), 17, 0, true},
		"IPv6":                          {tcp6(), 6, 40, false},
		"a hop-by-hop header":           {tcp6().with(func(w *wire) { w.ext, w.extFirst = ext(6), 0 }), 6, 48, false},
		"several extension headers":     {tcp6().with(func(w *wire) { w.ext, w.extFirst = append(append(ext(60), ext(43)...), ext(6)...), 0 }), 6, 64, false},
		"an authentication header":      {tcp6().with(func(w *wire) { w.ext, w.extFirst = append([]byte{6, 4}, make([]byte, 22)...), 51 }), 6, 64, false},
		"mobility, HIP and shim6":       {tcp6().with(func(w *wire) { w.ext, w.extFirst = append(append(ext(139), ext(140)...), ext(6)...), 135 }), 6, 64, false},
		"the first IPv6 fragment":       {udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 0, 1, 0, 0, 0, 1}, 44 }), 17, 48, true},
		"a later IPv6 fragment":         {udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 0, 9, 0, 0, 0, 1}, 44 }), 17, 0, true},
		"an atomic fragment":            {udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 0, 0, 0, 0, 0, 1}, 44 }), 17, 48, false},
		"an atomic one in a fragment":   {udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{44, 0, 0, 1, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1}, 44 }), 17, 56, true},
		"no next header":                {udp6().with(func(w *wire) { w.ext, w.extFirst = ext(59), 0 }), 59, 0, false},
		"an extension past the end":     {udp6().with(func(w *wire) { w.ext, w.extFirst = append([]byte{17, 200}, options...), 0 }), 0, 0, false},
		"an unknown transport protocol": {udp6().with(func(w *wire) { w.protocol, w.payload = 132, options }), 132, 40, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p Packet
			d := test.w.bytes()
			p.Set(d, 0)
			require.True(t, p.Trim())
			require.Equal(t, test.protocol, p.Protocol())
			require.Equal(t, test.fragment, p.IsFragment())
			if test.at == 0 {
				require.Nil(t, p.Transport())
			} else {
				require.Equal(t, d[test.at:], p.Transport())
			}
		})
	}
	for name, first := range map[string]uint8{
		"a hop-by-hop header cut short": extHopByHop, "an authentication header cut short": extAuth, "a fragment header cut short": extFragment,
	} {
		t.Run(name, func(t *testing.T) {
			d := udp6().with(func(w *wire) { w.ext, w.extFirst = ext(17), first }).bytes()
			var p Packet
			p.Set(d[:47], 0)
			require.Zero(t, p.Protocol())
			require.Nil(t, p.Transport())
			require.False(t, p.ChecksumOK())
		})
	}
	t.Run("an endless chain", func(t *testing.T) {
		w := udp6()
		w.extFirst = extDestination
		for range 100 {
			w.ext = append(w.ext, ext(extDestination)...)
		}
		var p Packet
		p.Set(w.bytes(), 0)
		require.Zero(t, p.Protocol())
		require.Nil(t, p.Transport())
	})
}

func TestTrimTakesPaddingOffAndRefusesTheMalformed(t *testing.T) {
	for _, w := range []wire{tcp4(), tcp6(), udp4(), udp6()} {
		d := w.bytes()
		var p Packet
		p.Set(append(append([]byte(nil), d...), make([]byte, 15)...), 0)
		require.True(t, p.Trim())
		require.Equal(t, d, p.Data)
		p.Set(d[:len(d)-1], 0)
		require.False(t, p.Trim(), "a packet cut short")
	}
	for _, bad := range [][]byte{nil, {0x45}, make([]byte, 40), append([]byte{0x44}, make([]byte, 30)...),
		append([]byte{0x45, 0, 0, 19}, make([]byte, 30)...), append([]byte{0x4f, 0, 0, 30}, make([]byte, 30)...)} {
		var p Packet
		p.Set(bad, 0)
		require.False(t, p.Trim())
	}
}

func FuzzParse(f *testing.F) {
	for _, w := range checksummed() {
		f.Add(w.bytes(), uint16(0), uint16(1))
	}
	f.Add(tcp4().with(func(w *wire) { w.frag = 0x2000 }).bytes(), uint16(100), uint16(2))
	f.Add(tcp6().with(func(w *wire) { w.ext, w.extFirst = []byte{6, 0, 4, 1, 0, 0, 0, 0}, extRouting }).bytes(), uint16(0), uint16(3))
	f.Fuzz(func(t *testing.T, d []byte, seg, number uint16) {
		var p Packet
		p.Set(d, seg)
		trimmed := p.Trim()
		p.Protocol()
		if b := p.Transport(); len(b) > len(p.Data) {
			t.Fatal("the transport is longer than the packet")
		}
		ok := p.ChecksumOK()
		if ok && p.Version() == 0 {
			t.Fatal("no packet has a right checksum")
		}
		routed := p.routed
		for i, a := range []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(number >> 8), byte(number), 0, 255}), number),
			netip.AddrPortFrom(netip.AddrFrom16([16]byte{15: byte(number), 7: byte(number >> 8)}), number),
		} {
			src, dst := p.Src(), p.Dst()
			p.SetSrc(a)
			p.SetDst(a)
			same := p.Version() == 4 && i == 0 || p.Version() == 6 && i == 1
			if same && (p.SrcAddr() != a.Addr() || p.DstAddr() != a.Addr()) {
				t.Fatalf("edited to %v, it goes from %v to %v", a, p.SrcAddr(), p.DstAddr())
			}
			if !same && (p.Src() != src || p.Dst() != dst) {
				t.Fatalf("an address of the other family changed it")
			}
		}
		if trimmed && p.ChecksumOK() != ok {
			t.Fatalf("editing changed whether its checksums are right (routed %v)", routed)
		}
		p.FinishChecksum()
		if _, at := p.covered(); at != 0 && p.Version() == 6 && !p.ChecksumOK() {
			t.Fatal("a finished checksum is wrong")
		}
		if b := p.Transport(); b != nil {
			p.setLengths()
		}
		p.Data = p.Data[:min(len(p.Data), int(number%64))] // a stage may shorten it
		p.Transport()
		p.Src()
		p.SetDst(netip.AddrPortFrom(netip.IPv6Unspecified(), 1))
		p.IsFragment()
		p.ChecksumOK()
	})
}
