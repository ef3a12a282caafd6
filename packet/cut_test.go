package packet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCutterGivesWhatASlowSegmentationGives(t *testing.T) {
	ext := []byte{ProtocolTCP, 0, 1, 4, 0, 0, 0, 0}
	for name, w := range map[string]wire{
		"TCP over IPv4":                              tcp4(),
		"TCP over IPv4 with IP options":              tcp4().with(func(w *wire) { w.options4 = []byte{1, 1, 1, 0} }),
		"TCP over IPv4 with the longest headers":     tcp4().with(func(w *wire) { w.options4, w.options = make([]byte, 40), make([]byte, 40) }),
		"TCP over IPv6":                              tcp6(),
		"TCP over IPv6 behind an extension header":   tcp6().with(func(w *wire) { w.ext, w.extFirst = ext, extHopByHop }),
		"UDP over IPv4":                              udp4(),
		"UDP over IPv6":                              udp6(),
		"TCP with FIN, PSH, CWR and ECE":             tcp4().with(func(w *wire) { w.flags |= tcpFIN | tcpPSH | tcpCWR | tcpECE }),
		"an identification that wraps":               tcp4().with(func(w *wire) { w.id = 0xffff }),
		"a sequence number that wraps":               tcp4().with(func(w *wire) { w.seq = 0xfffffff0 }),
		"TCP over IPv4 with a traffic class and ECN": tcp4().with(func(w *wire) { w.tos = 0xbb }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, seg := range []uint16{1, 7, 20, 52, 100, 536, 1000, 1400} {
				for _, payload := range []int{0, 1, 99, 100, 101, 2000, 2800, 8000} {
					w := w.with(func(w *wire) { w.payload = fill(payload, 3) })
					if payload/int(seg) > 300 {
						continue
					}
					var c Cutter
					got, err := cutAll(&c, w.super(seg))
					require.NoError(t, err)
					require.Equal(t, w.naiveCut(int(seg), false), got, "seg %d payload %d", seg, payload)
				}
			}
		})
	}
}

func TestCutterGivesAnOrdinaryPacketBackUnchanged(t *testing.T) {
	d := tcp4().with(func(w *wire) { w.payload = fill(500, 0) }).bytes()
	d[40] ^= 0xff // its checksum is not the Cutter's business
	var p Packet
	p.Set(append([]byte(nil), d...), 0)
	var c Cutter
	got, err := cutAll(&c, &p)
	require.NoError(t, err)
	require.Equal(t, [][]byte{d}, got)
}

func TestCutterKeepsOneIdentificationWhereTheRunHadOne(t *testing.T) {
	w := tcp4().with(func(w *wire) { w.payload = fill(3000, 0) })
	p := w.super(1000)
	p.fixedID = true
	var c Cutter
	got, err := cutAll(&c, p)
	require.NoError(t, err)
	require.Equal(t, w.naiveCut(1000, true), got)
}

func TestCutterRefuses(t *testing.T) {
	big := fill(9000, 0)
	for name, test := range map[string]struct {
		p    *Packet
		want error
	}{
		"a fragment": {tcp4().with(func(w *wire) { w.frag, w.payload = 0x2000, big }).super(100), errCutFragment},
		"what is not the first fragment": {tcp4().with(func(w *wire) { w.frag, w.payload = 3, big }).super(100),
			errCutFragment},
		"ICMP":            {tcp4().with(func(w *wire) { w.protocol, w.payload = ProtocolICMP, big }).super(100), errCutProtocol},
		"no IP packet":    {&Packet{Data: []byte{1, 2, 3}, Seg: 100}, errCutMalformed},
		"an empty packet": {&Packet{Seg: 100}, errCutMalformed},
		"a TCP header cut short": {func() *Packet {
			p := tcp4().super(100)
			p.Data = p.Data[:45]
			return p
		}(), errCutMalformed},
		"a TCP data offset below the header": {func() *Packet {
			p := tcp4().with(func(w *wire) { w.payload = big }).super(100)
			p.Data[32] = 0x40
			return p
		}(), errCutMalformed},
		"a UDP header cut short": {func() *Packet {
			p := udp4().super(100)
			p.Data = p.Data[:25]
			return p
		}(), errCutMalformed},
		"segments larger than a packet may be": {func() *Packet {
			p := tcp4().super(65500)
			p.Data = append(p.Data, make([]byte, 65500)...)
			return p
		}(), errCutMalformed},
		"too many segments": {tcp4().with(func(w *wire) { w.payload = big }).super(1), errCutSegments},
		"an unfinished routing header": {tcp6().with(func(w *wire) {
			w.ext, w.extFirst, w.payload = []byte{ProtocolTCP, 0, 4, 1, 0, 0, 0, 0}, extRouting, big
		}).super(100), errCutRouted},
		"too long a chain of extension headers": {tcp6().with(func(w *wire) {
			w.ext = append([]byte{ProtocolTCP, 31}, make([]byte, 254)...)
			w.extFirst, w.payload = extDestination, big
		}).super(100), errCutHeader},
	} {
		t.Run(name, func(t *testing.T) {
			var c Cutter
			err := c.Start(test.p)
			require.ErrorIs(t, err, ErrCut)
			require.ErrorIs(t, err, test.want)
			require.Nil(t, c.Next())
		})
	}
}

func TestCutterSegmentsMayBeChangedAndSealedBehind(t *testing.T) {
	w := tcp6().with(func(w *wire) { w.payload = fill(5000, 0) })
	want := w.naiveCut(1000, false)
	p := w.super(1000)
	var c Cutter
	require.NoError(t, c.Start(p))
	for i, s := 0, c.Next(); s != nil; i, s = i+1, c.Next() {
		require.Equal(t, want[i], s)
		behind := s[len(s) : len(s)+Slack-1]
		saved := append([]byte(nil), behind...)
		clear(behind)
		clear(s)
		copy(behind, saved)
	}
}

func TestCutterDoesNotAllocate(t *testing.T) {
	w := tcp4().with(func(w *wire) { w.payload = fill(45*1368, 0) })
	d := w.bytes()
	buf := make([]byte, len(d)+Slack)
	var c Cutter
	var p Packet
	require.Zero(t, testing.AllocsPerRun(10, func() {
		copy(buf, d)
		p.Set(buf[:len(d)], 1368)
		if c.Start(&p) != nil {
			t.Fail()
		}
		for c.Next() != nil {
		}
	}))
}

func BenchmarkCut45(b *testing.B) {
	d := tcp4().with(func(w *wire) { w.payload = fill(45*1368, 0) }).bytes()
	buf := make([]byte, len(d)+Slack)
	copy(buf, d)
	var c Cutter
	var p Packet
	b.SetBytes(int64(len(d)))
	for b.Loop() {
		copy(buf, d[:52])
		p.Set(buf[:len(d)], 1368)
		_ = c.Start(&p)
		for c.Next() != nil {
		}
	}
}

// FuzzCut compares with the slow segmentation, and cuts any bytes at all.
func FuzzCut(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0), uint16(1), uint8(0))
	f.Add([]byte{}, uint16(3000), uint8(1), uint16(1000), uint8(0xff))
	f.Add([]byte{1}, uint16(3000), uint8(2), uint16(7), uint8(0x10))
	f.Add([]byte{1, 2, 3}, uint16(3000), uint8(3), uint16(1400), uint8(0x99))
	f.Add(tcp6().with(func(w *wire) { w.payload = fill(300, 2) }).bytes(), uint16(0), uint8(4), uint16(100), uint8(0))
	f.Add(udp4().with(func(w *wire) { w.options4, w.payload = make([]byte, 40), fill(300, 2) }).bytes(), uint16(0), uint8(4), uint16(3), uint8(0))
	f.Fuzz(func(t *testing.T, d []byte, size uint16, kind uint8, seg uint16, flags uint8) {
		var c Cutter
		if kind&4 != 0 {
			p := borrowed(d, 0)
			p.Seg = seg
			if !p.Trim() {
				if cutAll(&c, p); p.Version() == 0 && seg != 0 && c.Next() != nil {
					t.Fatal("cut what is no packet")
				}
				return
			}
			whole := append([]byte(nil), p.Data...)
			parts, err := cutAll(&c, p)
			if err != nil || seg == 0 {
				return
			}
			var payload []byte
			for _, part := range parts {
				var s Packet
				s.Set(part, 0)
				if !s.Trim() || len(s.Data) != len(part) || !s.ChecksumOK() {
					t.Fatalf("segment is not a finished packet: %x", part)
				}
				payload = append(payload, part[c.header:]...)
			}
			if string(payload) != string(whole[c.header:]) {
				t.Fatal("the segments' payload is not the whole's")
			}
			return
		}
		d = append(d, fill(int(size), flags)...)
		seg = max(seg, 1)
		w := [...]func() wire{tcp4, tcp6, udp4, udp6}[kind&3]()
		if len(d)+120 > MaxSize || len(d)/int(seg) > 500 || int(seg)+120 > MaxSize {
			return
		}
		w.payload, w.flags = d, flags
		w.tos, w.id, w.seq = flags, seg, uint32(seg)<<16
		w.options = w.options[:len(w.options)/4*4*int(kind>>7)]
		if kind&8 != 0 {
			w.options4, w.ext, w.extFirst = []byte{1, 1, 1, 1}, []byte{w.protocol, 0, 1, 4, 0, 0, 0, 0}, extDestination
		}
		p := w.super(seg)
		p.fixedID = kind&16 != 0
		got, err := cutAll(&c, p)
		require.NoError(t, err)
		require.Equal(t, w.naiveCut(int(seg), p.fixedID), got)
	})
}
