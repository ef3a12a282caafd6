package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

func TestSumIsTheOnesComplementSumAtEveryLengthAndAlignment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	d := make([]byte, 1600)
	for i := range d {
		d[i] = byte(r.Uint32())
	}
	for from := range 9 {
		for n := 0; n <= 1500; n += 1 + n/200 {
			b := d[from : from+n]
			require.Equal(t, naiveSum(b, 0), Sum(b, 0), "%d bytes at %d", n, from)
			require.Equal(t, naiveSum(b, 0x1234), Sum(b, 0x1234), "%d bytes at %d", n, from)
		}
	}
}

func TestSumCarriesEndAround(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 9, 63, 64, 65, 255, 256, 257, 1400, MaxSize} {
		ones := make([]byte, n)
		for i := range ones {
			ones[i] = 0xff
		}
		require.Equal(t, naiveSum(ones, 0xffff), Sum(ones, 0xffff), n)
		require.Equal(t, uint16(0xffff), Sum(make([]byte, n), 0xffff), n)
		require.Zero(t, Sum(make([]byte, n), 0), n)
	}
}

func TestSumMatchesTheExampleOfRFC1071(t *testing.T) {
	require.Equal(t, uint16(0xddf2), Sum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0))
}

func TestPseudoSumIsThatOfThePseudoHeader(t *testing.T) {
	src4, dst4 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.9")
	require.Equal(t, naiveSum([]byte{10, 1, 2, 3, 192, 0, 2, 9, 0, 17, 0x12, 0x34}, 0), PseudoSum(17, src4, dst4, 0x1234))
	for _, w := range []wire{tcp4(), tcp6()} {
		d := w.with(func(w *wire) { w.payload = fill(1000, 1) }).bytes()
		for _, n := range []int{0, 1020, MaxSize, 1 << 20} {
			require.Equal(t, PseudoSum(6, w.src.Addr(), w.dst.Addr(), n), fold(pseudoHeader(d, 6, n)))
		}
	}
}

// checksummed is a packet of each kind that has a checksum.
func checksummed() map[string]wire {
	message := fill(99, 1)
	return map[string]wire{
		"TCP over IPv4":                 tcp4().with(func(w *wire) { w.payload = fill(100, 1) }),
		"TCP over IPv6":                 tcp6().with(func(w *wire) { w.payload = fill(101, 1) }),
		"UDP over IPv4":                 udp4().with(func(w *wire) { w.payload = fill(102, 1) }),
		"UDP over IPv6":                 udp6().with(func(w *wire) { w.payload = fill(1103, 1) }),
		"an empty UDP datagram":         udp6(),
		"ICMP":                          tcp4().with(func(w *wire) { w.protocol, w.payload = ProtocolICMP, message }),
		"ICMPv6":                        tcp6().with(func(w *wire) { w.protocol, w.payload = ProtocolICMPv6, message }),
		"TCP behind IPv4 options":       tcp4().with(func(w *wire) { w.options4 = []byte{1, 1, 1, 0} }),
		"UDP behind extension headers":  udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0}, 0 }),
		"UDP behind a finished routing": udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 4, 0, 0, 0, 0, 0}, extRouting }),
		"UDP in an atomic fragment":     udp6().with(func(w *wire) { w.ext, w.extFirst = []byte{17, 0, 0, 0, 1, 2, 3, 4}, extFragment }),
	}
}

func TestChecksumsAreVerifiedAndFinished(t *testing.T) {
	for name, w := range checksummed() {
		t.Run(name, func(t *testing.T) {
			want := w.bytes()
			var p Packet
			for bit := range len(want) * 8 {
				d := append([]byte(nil), want...)
				p.Set(d, 0)
				require.True(t, p.ChecksumOK())
				d[bit/8] ^= 1 << (bit % 8)
				p.Set(d, 0)
				// Only what no checksum covers may go unnoticed.
				if p.ChecksumOK() {
					require.Less(t, bit/8, len(want)-len(p.Transport()), "bit %d", bit)
					require.Equal(t, 6, p.Version())
				}
			}
			d := append([]byte(nil), want...)
			p.Set(d, 0)
			at, _ := p.checksum()
			at += len(d) - len(p.Transport())
			for _, before := range []uint16{0, 0xffff, PseudoSum(w.protocol, w.src.Addr(), w.dst.Addr(), len(p.Transport()))} {
				binary.BigEndian.PutUint16(d[at:], before)
				p.FinishChecksum()
				require.Equal(t, want, p.Data)
			}
		})
	}
}

func TestFinishedUDPChecksumIsNeverZero(t *testing.T) {
	for _, w := range []wire{udp4(), udp6()} {
		w.payload = []byte{0, 0}
		d := w.bytes()
		at := len(d) - 4
		copy(d[at+2:], d[at:at+2]) // the payload becomes the checksum, and the sum zero with it
		d[at], d[at+1] = 0, 0
		var p Packet
		p.Set(d, 0)
		p.FinishChecksum()
		require.Equal(t, []byte{0xff, 0xff}, d[at:at+2])
		require.True(t, p.ChecksumOK())

		w.payload = append(append([]byte{}, d[at+2:]...), 1, 2)
		var c Cutter
		segments, err := cutAll(&c, w.super(2))
		require.NoError(t, err)
		require.Equal(t, w.naiveCut(2, false), segments)
		require.Equal(t, []byte{0xff, 0xff}, segments[0][at:at+2])
	}
}

func TestChecksumOfAUDPDatagramEndsWhereItsLengthSays(t *testing.T) {
	w := udp4().with(func(w *wire) { w.payload = fill(50, 1) })
	d := append(w.bytes(), 1, 2, 3)
	var p Packet
	p.Set(d, 0)
	p.setIPv4Length()
	require.True(t, p.ChecksumOK())
	p.FinishChecksum()
	require.True(t, p.ChecksumOK())
	for _, bad := range []uint16{0, 7, 62} {
		binary.BigEndian.PutUint16(d[24:], bad)
		require.False(t, p.ChecksumOK(), bad)
	}
}

// setIPv4Length makes the IPv4 header fit Data.
func (p *Packet) setIPv4Length() {
	binary.BigEndian.PutUint16(p.Data[2:], uint16(len(p.Data)))
	finishIPv4(p.Data[:20])
}

func TestChecksumOK(t *testing.T) {
	spoil := func(d []byte, at int) []byte {
		d[at] ^= 1
		return d
	}
	for name, test := range map[string]struct {
		data []byte
		seg  uint16
		want bool
	}{
		"is true of UDP without a checksum over IPv4":       {udp4().with(func(w *wire) { w.noSum = true }).bytes(), 0, true},
		"is false of UDP without a checksum over IPv6":      {udp6().with(func(w *wire) { w.noSum = true }).bytes(), 0, false},
		"is true of a fragment with any transport checksum": {spoil(tcp4().with(func(w *wire) { w.frag = 0x2000 }).bytes(), 36), 0, true},
		"is true of a later fragment":                       {tcp4().with(func(w *wire) { w.frag = 5 }).bytes(), 0, true},
		"is false of a fragment with a wrong IP checksum":   {spoil(tcp4().with(func(w *wire) { w.frag = 5 }).bytes(), 10), 0, false},
		"is true of a superpacket":                          {spoil(tcp4().bytes(), 36), 100, true},
		"is true of a protocol it does not know":            {tcp4().with(func(w *wire) { w.protocol = 132 }).bytes(), 0, true},
		"is false of a TCP header cut short":                {tcp6().bytes()[:50], 0, false},
		"is false of no packet":                             {[]byte{1}, 0, false},
		"is false of an empty packet":                       {nil, 0, false},
		"is false of an IPv4 header that is too short":      {spoil(tcp4().bytes(), 0), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p Packet
			p.Set(test.data, test.seg)
			require.Equal(t, test.want, p.ChecksumOK())
		})
	}
}

func TestFinishChecksumLeavesAlone(t *testing.T) {
	for name, w := range map[string]wire{
		"a fragment":               tcp4().with(func(w *wire) { w.frag = 0x2000 }),
		"what is no transport":     tcp4().with(func(w *wire) { w.protocol = 132 }),
		"an unfinished route":      tcp6().with(func(w *wire) { w.ext, w.extFirst = []byte{6, 0, 4, 1, 0, 0, 0, 0}, extRouting }),
		"ICMPv6 in an IPv4 packet": tcp4().with(func(w *wire) { w.protocol, w.payload = ProtocolICMPv6, make([]byte, 8) }),
	} {
		t.Run(name, func(t *testing.T) {
			d := w.bytes()
			d[len(d)-2] ^= 0xff
			want := append([]byte(nil), d...)
			var p Packet
			p.Set(d, 0)
			p.FinishChecksum()
			require.Equal(t, want, d)
		})
	}
	p := tcp4().super(100)
	p.Data[36] ^= 1
	want := append([]byte(nil), p.Data...)
	p.FinishChecksum()
	require.Equal(t, want, p.Data, "a superpacket")
}

func FuzzChecksum(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add([]byte{0xff, 0xff, 0xff}, uint16(0xffff), uint8(1))
	f.Add(fill(1400, 7), uint16(77), uint8(3))
	f.Add(make([]byte, 256), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, d []byte, initial uint16, skip uint8) {
		d = d[min(int(skip), len(d)):]
		want := naiveSum(d, uint32(initial))
		if got := Sum(d, initial); got != want {
			t.Fatalf("Sum of %d bytes is %#x, want %#x", len(d), got, want)
		}
		if got := fold(sumWords(d, 0)); got != naiveSum(d, 0) {
			t.Fatalf("sumWords of %d bytes is %#x, want %#x", len(d), got, naiveSum(d, 0))
		}
		if n := len(d) &^ 63; vector && n > 0 {
			if got := fold(sumVector(d[:n])); got != naiveSum(d[:n], 0) {
				t.Fatalf("sumVector of %d bytes is %#x, want %#x", n, got, naiveSum(d[:n], 0))
			}
		}
		if got := checksum.Checksum(d, initial); got != want {
			t.Fatalf("the independent sum of %d bytes is %#x, want %#x", len(d), got, want)
		}
		half := len(d) / 2 &^ 1
		if got := Sum(d[half:], Sum(d[:half], initial)); got != want {
			t.Fatalf("Sum in two parts is %#x, want %#x", got, want)
		}
	})
}

func BenchmarkSum1400(b *testing.B) {
	d := fill(1400, 1)
	b.SetBytes(1400)
	for b.Loop() {
		Sum(d, 0)
	}
}

func BenchmarkSum1400Words(b *testing.B) {
	d := fill(1400, 1)
	b.SetBytes(1400)
	for b.Loop() {
		fold(sumWords(d, 0))
	}
}

func BenchmarkSum20(b *testing.B) {
	d := fill(20, 1)
	b.SetBytes(20)
	for b.Loop() {
		Sum(d, 0)
	}
}
