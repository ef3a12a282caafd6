package packet

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// deliver commits packets as an opener would: decrypted, with encryption padding,
// into the reserved space.
func deliver(t testing.TB, m *Merger, packets ...[]byte) (merged []bool) {
	for _, d := range packets {
		n := (len(d) + 15) &^ 15
		room := m.Reserve(n)
		require.NotNil(t, room)
		require.Len(t, room, n)
		require.GreaterOrEqual(t, cap(room), n+Slack)
		clear(room)
		copy(room, d)
		p, into := m.Commit(n)
		require.NotNil(t, p)
		merged = append(merged, into)
	}
	return merged
}

// undo cuts what is in the batch.
func undo(t testing.TB, b *Batch) (out [][]byte) {
	var c Cutter
	for i := range b.Packets {
		checkLayout(t, b, i)
	}
	for i := range b.Packets {
		segments, err := cutAll(&c, &b.Packets[i])
		require.NoError(t, err)
		out = append(out, segments...)
	}
	return out
}

// checkLayout checks that packet i may grow, and not into another.
func checkLayout(t testing.TB, b *Batch, i int) {
	p := &b.Packets[i]
	require.GreaterOrEqual(t, cap(p.Data), max(len(p.Data), 1500)+Slack)
	if i > 0 {
		before := b.Packets[i-1].Data
		limit := uintptr(unsafe.Pointer(unsafe.SliceData(before))) + uintptr(cap(before))
		require.LessOrEqual(t, limit, uintptr(unsafe.Pointer(unsafe.SliceData(p.Data))))
	}
}

// stream is n segments of one flow, as a sender would cut them.
func stream(w wire, n, seg int) [][]byte {
	w.payload = fill(n*seg, 9)
	return w.naiveCut(seg, false)
}

func TestMergerMakesOneSuperpacketOfAStream(t *testing.T) {
	for name, w := range map[string]wire{
		"TCP over IPv4": tcp4(),
		"TCP over IPv6": tcp6(),
		"UDP over IPv4": udp4(),
		"UDP over IPv6": udp6(),
		"TCP over IPv6 behind an extension header": tcp6().with(func(w *wire) {
			w.ext, w.extFirst = []byte{ProtocolTCP, 0, 1, 4, 0, 0, 0, 0}, extDestination
		}),
		"TCP over IPv4 with ECE in every segment": tcp4().with(func(w *wire) { w.flags |= tcpECE }),
		"an identification that wraps":            tcp4().with(func(w *wire) { w.id = 0xfffe }),
		"a sequence number that wraps":            tcp4().with(func(w *wire) { w.seq = 0xffffffff }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, seg := range []int{3, 30, 100, 1000, 1368} {
				in := stream(w, 40, seg)
				m, b := NewMerger(0), NewBatch(0)
				m.UDP = true
				m.Reset(b)
				merged := deliver(t, m, in...)
				require.NotContains(t, merged[1:], false)
				require.Len(t, b.Packets, 1)
				p := &b.Packets[0]
				require.EqualValues(t, seg, p.Seg)
				m.Flush()
				whole := w.with(func(w *wire) { w.payload = fill(40*seg, 9) }).bytes()
				at, _ := p.checksum()
				at += len(whole) - len(p.Transport())
				copy(p.Data[at:at+2], whole[at:]) // means nothing in a superpacket
				require.Equal(t, whole, p.Data)
				require.Equal(t, in, undo(t, b))
			}
		})
	}
}

func TestMergerPayloadLandsInPlace(t *testing.T) {
	in := stream(tcp4(), 3, 1000)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in[0], in[1])
	end := &b.Packets[0].Data[len(b.Packets[0].Data)-1]
	n := len(in[2])
	room := m.Reserve(n)
	require.Same(t, end, &room[52-1], "the header is laid over the end of the run")
	copy(room, in[2])
	_, merged := m.Commit(n)
	require.True(t, merged)
	require.Equal(t, in, undo(t, b))
}

func TestMergerLeavesApart(t *testing.T) {
	first := tcp4().with(func(w *wire) { w.payload = fill(100, 1) })
	next := first.with(func(w *wire) { w.seq += 100; w.id++ })
	first6 := tcp6().with(func(w *wire) { w.payload = fill(100, 1) })
	next6 := first6.with(func(w *wire) { w.seq += 100 })
	udp, udpNext := udp4().with(func(w *wire) { w.payload = fill(100, 1) }), udp4().with(func(w *wire) { w.payload = fill(100, 2); w.id++ })
	broken := func(w wire, at int) []byte {
		d := w.bytes()
		d[at] ^= 1
		return d
	}
	type pair struct{ first, next []byte }
	with := func(change func(*wire)) pair { return pair{first.bytes(), next.with(change).bytes()} }
	with6 := func(change func(*wire)) pair { return pair{first6.bytes(), next6.with(change).bytes()} }
	both := func(change func(*wire)) pair { return pair{first.with(change).bytes(), next.with(change).bytes()} }
	with6both := func(change func(*wire)) pair { return pair{first6.with(change).bytes(), next6.with(change).bytes()} }
	longExtension := func() []byte { return append([]byte{ProtocolTCP, 10, 1, 84}, make([]byte, 84)...) }
	// otherZero finds a second packet whose checksum at that offset is zero, and
	// writes it as 0xffff.
	otherZero := func(first wire, at int) pair {
		for i := range uint16(0xffff) {
			first.id = i
			second := first.with(func(w *wire) { w.seq += 100; w.id++ })
			second.payload = append([]byte{byte(i >> 8), byte(i)}, first.payload[2:]...)
			if d := second.bytes(); d[at]|d[at+1] == 0 {
				d[at], d[at+1] = 0xff, 0xff
				return pair{first.bytes(), d}
			}
		}
		panic("no checksum is zero")
	}
	for name, p := range map[string]pair{
		"another source address":             with(func(w *wire) { w.src = tcp4().dst }),
		"another destination address":        with(func(w *wire) { w.dst = tcp4().src }),
		"another source port":                with(func(w *wire) { w.src = addrPort("10.0.0.1:40001") }),
		"another destination port":           with(func(w *wire) { w.dst = addrPort("10.0.0.2:444") }),
		"another type of service":            with(func(w *wire) { w.tos = 4 }),
		"congestion experienced":             with(func(w *wire) { w.tos = 3 }),
		"another time to live":               with(func(w *wire) { w.ttl-- }),
		"another don't-fragment bit":         with(func(w *wire) { w.frag = 0 }),
		"the reserved bit":                   both(func(w *wire) { w.frag |= 0x8000 }),
		"IP options":                         both(func(w *wire) { w.options4 = []byte{1, 1, 1, 1} }),
		"a gap in the identification":        with(func(w *wire) { w.id++ }),
		"one identification that may repeat": {first.with(func(w *wire) { w.frag = 0 }).bytes(), next.with(func(w *wire) { w.frag = 0; w.id-- }).bytes()},
		"fragments":                          both(func(w *wire) { w.frag = 0x2000 }),
		"another traffic class":              with6(func(w *wire) { w.tos = 4 }),
		"another flow label":                 with6(func(w *wire) { w.flow = 1 }),
		"another hop limit":                  with6(func(w *wire) { w.ttl-- }),
		"an extension header in between":     with6(func(w *wire) { w.ext, w.extFirst = []byte{ProtocolTCP, 0, 1, 4, 0, 0, 0, 0}, extHopByHop }),
		"other bytes in the extension header": {
			first6.with(func(w *wire) { w.ext, w.extFirst = []byte{ProtocolTCP, 0, 1, 4, 0, 0, 0, 0}, extHopByHop }).bytes(),
			next6.with(func(w *wire) { w.ext, w.extFirst = []byte{ProtocolTCP, 0, 1, 4, 0, 0, 0, 1}, extHopByHop }).bytes()},
		"a gap in the sequence":            with(func(w *wire) { w.seq++ }),
		"a retransmission":                 {first.bytes(), first.with(func(w *wire) { w.id++ }).bytes()},
		"another acknowledgment":           with(func(w *wire) { w.ack++ }),
		"another window":                   with(func(w *wire) { w.window++ }),
		"another urgent pointer":           with(func(w *wire) { w.urgent++ }),
		"another timestamp":                with(func(w *wire) { w.options = []byte{1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 2} }),
		"another data offset":              with(func(w *wire) { w.options = nil }),
		"a larger segment":                 with(func(w *wire) { w.payload = fill(101, 1) }),
		"a pure acknowledgment after it":   with(func(w *wire) { w.payload = nil }),
		"a pure acknowledgment before it":  {first.with(func(w *wire) { w.payload = nil }).bytes(), first.with(func(w *wire) { w.id++ }).bytes()},
		"a segment with PSH before it":     {first.with(func(w *wire) { w.flags |= tcpPSH }).bytes(), next.bytes()},
		"FIN":                              with(func(w *wire) { w.flags |= tcpFIN }),
		"SYN":                              both(func(w *wire) { w.flags |= tcpSYN }),
		"RST":                              with(func(w *wire) { w.flags |= tcpRST }),
		"URG":                              both(func(w *wire) { w.flags |= tcpURG }),
		"ECE that begins":                  with(func(w *wire) { w.flags |= tcpECE }),
		"CWR":                              both(func(w *wire) { w.flags |= tcpCWR }),
		"no ACK":                           both(func(w *wire) { w.flags = 0 }),
		"a wrong TCP checksum":             {first.bytes(), broken(next, 100)},
		"a wrong TCP checksum before it":   {broken(first, 100), next.bytes()},
		"a wrong IP checksum":              {first.bytes(), broken(next, 10)},
		"a wrong IP checksum before it":    {broken(first, 10), next.bytes()},
		"a wrong TCP checksum over IPv6":   {first6.bytes(), broken(next6, 100)},
		"the other zero as a TCP checksum": otherZero(first, 36),
		"the other zero as an IP checksum": otherZero(first, 10),
		"too long a chain of extensions":   with6both(func(w *wire) { w.ext, w.extFirst = longExtension(), extDestination }),
		"an extension header of no offload": with6both(func(w *wire) {
			w.ext, w.extFirst = append([]byte{ProtocolTCP, 4}, make([]byte, 22)...), extAuth
		}),
		"a route under way":             with6both(func(w *wire) { w.ext, w.extFirst = []byte{ProtocolTCP, 0, 4, 1, 0, 0, 0, 0}, extRouting }),
		"another protocol":              {first.bytes(), udp.bytes()},
		"a UDP datagram that is larger": {udp.bytes(), udpNext.with(func(w *wire) { w.payload = fill(101, 0) }).bytes()},
		"a UDP datagram that is empty":  {udp.bytes(), udpNext.with(func(w *wire) { w.payload = nil }).bytes()},
		"UDP without a checksum":        {udp.with(func(w *wire) { w.noSum = true }).bytes(), udpNext.with(func(w *wire) { w.noSum = true }).bytes()},
		"a wrong UDP checksum":          {udp.bytes(), broken(udpNext, 60)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, laid := range []string{"over the run", "plainly"} {
				m, b := NewMerger(0), NewBatch(0)
				m.UDP = true
				m.Reset(b)
				m.missed = laid == "plainly"
				require.Equal(t, []bool{false, false}, deliver(t, m, p.first, p.next), laid)
				m.Flush()
				require.Equal(t, [][]byte{p.first, p.next}, undo(t, b), laid)
			}
		})
	}
}

func TestMergerAddsAndThenEndsARun(t *testing.T) {
	first := tcp4().with(func(w *wire) { w.payload = fill(100, 1) })
	second := first.with(func(w *wire) { w.seq += 100; w.id++ })
	third := second.with(func(w *wire) { w.seq += 100; w.id++ })
	for name, p := range map[string][]wire{
		"with a shorter segment": {first, second.with(func(w *wire) { w.payload = w.payload[:50] }),
			third.with(func(w *wire) { w.seq -= 50; w.payload = w.payload[:50] })},
		"with PSH": {first, second.with(func(w *wire) { w.flags |= tcpPSH }), third},
		"with a shorter datagram": {udp4().with(func(w *wire) { w.payload = fill(100, 1) }),
			udp4().with(func(w *wire) { w.payload = fill(50, 1); w.id++ }),
			udp4().with(func(w *wire) { w.payload = fill(50, 1); w.id += 2 })},
	} {
		t.Run(name, func(t *testing.T) {
			m, b := NewMerger(0), NewBatch(0)
			m.UDP = true
			m.Reset(b)
			var in [][]byte
			for _, w := range p {
				in = append(in, w.bytes())
			}
			require.Equal(t, []bool{false, true, false}, deliver(t, m, in...))
			m.Flush()
			require.Equal(t, in, undo(t, b))
		})
	}
}

func TestMergerTakesOneIdentificationWhereFragmentingIsForbidden(t *testing.T) {
	w := tcp4().with(func(w *wire) { w.payload = fill(1000, 1) })
	in := w.naiveCut(100, true)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in...)
	m.Flush()
	require.Len(t, b.Packets, 1)
	require.Equal(t, in, undo(t, b))
}

func TestMergerKeepsARunWithinMaxSize(t *testing.T) {
	in := stream(tcp4(), 100, 1368)
	m, b := NewMerger(1<<19), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in...)
	m.Flush()
	require.Len(t, b.Packets, 3)
	for i := range b.Packets {
		require.LessOrEqual(t, len(b.Packets[i].Data), MaxSize)
	}
	require.Equal(t, in, undo(t, b))
}

func TestMergerKeepsARunOfDatagramsWithinTheKernelsLimit(t *testing.T) {
	in := stream(udp4(), 100, 100)
	m, b := NewMerger(0), NewBatch(0)
	m.UDP = true
	m.Reset(b)
	deliver(t, m, in...)
	m.Flush()
	require.Len(t, b.Packets, 2)
	require.Equal(t, 64, (len(b.Packets[0].Data)-28)/100)
	require.Equal(t, in, undo(t, b))
}

func TestMergerLeavesDatagramsApartUnlessAsked(t *testing.T) {
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	require.NotContains(t, deliver(t, m, stream(udp4(), 5, 100)...), true)
}

func TestMergerDoesNotMergeAcross(t *testing.T) {
	in := stream(tcp4(), 2, 1000)
	for name, between := range map[string]func(*Merger, *Batch){
		"a Break":          func(m *Merger, b *Batch) { m.Break() },
		"a Flush":          func(m *Merger, b *Batch) { m.Flush() },
		"a dropped packet": func(m *Merger, b *Batch) { b.Packets[0].Drop(NotAllowed) },
		"a bounced packet": func(m *Merger, b *Batch) { b.Packets[0].Bounce() },
	} {
		t.Run(name, func(t *testing.T) {
			m, b := NewMerger(0), NewBatch(0)
			m.Reset(b)
			deliver(t, m, in[0])
			between(m, b)
			require.Equal(t, []bool{false}, deliver(t, m, in[1]))
			require.Equal(t, in, undo(t, b))
		})
	}
}

func TestMergerMovesAPacketLaidOverARunThatWasDroppedMeanwhile(t *testing.T) {
	in := stream(tcp4(), 3, 1000)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in[0], in[1])
	copy(m.Reserve(len(in[2])), in[2])
	require.True(t, m.over)
	b.Packets[0].Drop(NotAllowed)
	_, merged := m.Commit(len(in[2]))
	require.False(t, merged)
	m.Flush()
	require.Equal(t, in, undo(t, b))
}

func TestMergerIsNotDisturbedByASweep(t *testing.T) {
	in := stream(tcp4(), 3, 1000)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in[0])
	m.Break()
	deliver(t, m, in[1])
	b.Packets[0].Drop(NotAllowed)
	b.Sweep()
	deliver(t, m, in[2])
	m.Flush()
	require.Equal(t, in[1:], undo(t, b))
}

func TestMergerLaysOutPlainlyAfterAPacketThatDidNotContinueTheRun(t *testing.T) {
	in := stream(tcp4(), 5, 1000)
	other := stream(tcp4().with(func(w *wire) { w.src = addrPort("10.0.0.1:40001") }), 1, 1000)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	over := func(d []byte) bool {
		copy(m.Reserve(len(d)), d)
		over := m.over
		m.Commit(len(d))
		return over
	}
	require.False(t, over(in[0]), "there is no run")
	require.True(t, over(in[1]))
	require.True(t, over(other[0]), "another flow")
	require.False(t, over(in[2]), "it did not continue the run")
	require.False(t, over(in[3]), "nor did that")
	require.True(t, over(in[4]), "the one before continued its run")
	m.Flush()
	require.Equal(t, [][]byte{in[0], in[1], other[0], in[2], in[3], in[4]}, undo(t, b))
	m.Reset(b)
	require.False(t, over(in[0]))
	require.False(t, over(in[1][:52]), "too short to carry payload")
}

func TestMergerForgetsWhatWasCancelledOrIsNoPacket(t *testing.T) {
	in := stream(tcp4(), 4, 1000)
	m, b := NewMerger(0), NewBatch(0)
	m.Reset(b)
	deliver(t, m, in[0], in[1])
	clear(m.Reserve(len(in[2])))
	m.Cancel()
	for _, bad := range [][]byte{nil, {0x45}, make([]byte, 1000), fill(1000, 0x45)} {
		room := m.Reserve(1052)
		clear(room)
		copy(room, bad)
		p, merged := m.Commit(len(bad))
		require.Nil(t, p)
		require.False(t, merged)
	}
	p, _ := m.Commit(10) // nothing is reserved
	require.Nil(t, p)
	clear(m.Reserve(len(in[2])))
	require.Equal(t, []bool{true, true}, deliver(t, m, in[2], in[3]), "an abandoned Reserve counts as cancelled")
	m.Flush()
	require.Equal(t, in, undo(t, b))
}

func TestMergerSaysWhenItIsFull(t *testing.T) {
	m, b := NewMerger(0), NewBatch(0)
	require.Nil(t, m.Reserve(1), "no batch")
	m.Reset(b)
	require.Nil(t, m.Reserve(-1))
	require.NotNil(t, m.Reserve(MaxSize))
	m.Cancel()
	d := tcp4().bytes()
	for !b.Full() {
		room := m.Reserve(len(d))
		if room == nil {
			break
		}
		copy(room, d)
		m.Commit(len(d))
	}
	require.Nil(t, m.Reserve(1))
	require.False(t, b.Full(), "the arena is full")
	m.Flush()
	m.Reset(b)
	require.NotNil(t, m.Reserve(MaxSize))

	m = NewMerger(1 << 20)
	m.Reset(b)
	for !b.Full() {
		copy(m.Reserve(len(d)), d)
		m.Commit(len(d))
	}
	require.Nil(t, m.Reserve(1), "the batch is full")
}

func TestMergerDoesNotAllocate(t *testing.T) {
	in := append(stream(tcp4(), 45, 1368), tcp6().bytes(), tcp4().bytes())
	m, b := NewMerger(1<<18), NewBatch(0)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		m.Reset(b)
		for _, d := range in {
			copy(m.Reserve(len(d)), d)
			m.Commit(len(d))
		}
		m.Flush()
	}))
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x10, 0, 0x10, 0, 0x10, 1, 0x10, 0})
	f.Add([]byte{1, 0, 1, 0, 20, 1, 0, 24, 1, 0, 28, 1, 0, 1, 0})
	f.Add([]byte{2, 0, 2, 0, 2, 0, 3, 0, 3, 0, 3, 0, 3, 7})
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, program []byte) { runMerge(t, program) })
}

func TestCuttingUndoesMergingOverRandomPrograms(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		program := make([]byte, 2*r.IntN(200))
		flow := byte(0)
		for i := 0; i < len(program); i += 2 {
			if r.IntN(8) == 0 {
				flow = byte(r.Uint32())
			}
			program[i] = flow
			if r.IntN(5) == 0 {
				program[i] = byte(r.Uint32())
				program[i+1] = byte(r.Uint32())
			}
			program[i+1] |= byte(r.Uint32()) & 0xc0
		}
		runMerge(t, program)
	}
}

// runMerge runs a program of packets and other events, and checks that cutting
// what came of it gives the packets back.
func runMerge(t *testing.T, program []byte) {
	m, b := NewMerger(1<<17), NewBatch(0)
	m.Reset(b)
	flows := []wire{tcp4(), tcp6(), udp4(), udp6()}
	sizes := []int{1368, 1, 30, 60, 500, 1400}
	var want [][]byte
	arg := func() byte {
		if len(program) == 0 {
			return 0
		}
		v := program[0]
		program = program[1:]
		return v
	}
	reserve := func(n int) []byte {
		room := m.Reserve(n)
		if room == nil {
			m.Flush()
			require.Equal(t, want, undo(t, b))
			want = nil
			m.Reset(b)
			room = m.Reserve(n)
		}
		for i := range room {
			room[i] = 0xa5
		}
		return room
	}
	for len(program) > 0 {
		op := arg()
		w := &flows[op&3]
		m.UDP = op&0x40 == 0
		switch op >> 2 & 7 {
		case 5:
			reserve(int(arg()) * 8)
			m.Cancel()
		case 6:
			m.Break()
		case 7: // any bytes
			n := min(int(arg()), len(program))
			room := reserve(n)
			copy(room, program[:n])
			program = program[n:]
			var p Packet
			p.Set(append([]byte(nil), room[:n]...), 0)
			got, _ := m.Commit(n)
			if ok := p.Trim(); ok != (got != nil) {
				t.Fatalf("Trim says %v, Commit %v", ok, got)
			} else if ok {
				want = append(want, p.Data)
			}
		default:
			w.payload = fill(sizes[int(op>>2&7)], op)
			how := arg()
			d := w.bytes()
			switch how & 0x3f {
			case 1:
				w.flags |= tcpPSH
				d = w.bytes()
				w.flags &^= tcpPSH
			case 2:
				w.id-- // one identification for two
			case 3:
				d[len(d)-1] ^= 1
			case 4:
				w.payload = nil
				d = w.bytes()
			case 5:
				d[how>>6+10] ^= 1
			case 6:
				w.tos ^= 1
			case 7:
				w.seq += uint32(how)
			case 8:
				w.payload = w.payload[:len(w.payload)/2]
				d = w.bytes()
			case 9:
				d[13] ^= how
				d[min(33, len(d)-1)] ^= how
			case 10:
				w.flags ^= tcpECE
			case 11:
				w.frag ^= 0x4000
			}
			w.seq += uint32(len(w.payload))
			w.id++
			pad := int(how>>6) * 5
			room := reserve(len(d) + pad)
			copy(room, d)
			p, _ := m.Commit(len(d) + pad)
			require.NotNil(t, p)
			want = append(want, d)
		}
	}
	m.Flush()
	require.Equal(t, want, undo(t, b))
}

func BenchmarkMerge45(b *testing.B) {
	in := stream(tcp4(), 45, 1368)
	m, batch := NewMerger(1<<18), NewBatch(0)
	b.SetBytes(45 * 1420)
	for b.Loop() {
		m.Reset(batch)
		for _, d := range in {
			copy(m.Reserve(len(d)), d)
			m.Commit(len(d))
		}
		m.Flush()
	}
	if len(batch.Packets) != 1 {
		b.Fatal(len(batch.Packets))
	}
}
