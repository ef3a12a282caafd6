package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/tai64n"
)

// A recorder is a device and a transport that keep everything they are given, as
// single packets and datagrams.
type recorder struct {
	nullDevice
	keepTransport
	packets   [][]byte
	datagrams [][]byte
}

func (r *recorder) Close() error { return nil }

func (r *recorder) WriteBatch(b *packet.Batch) error {
	for i := range b.Packets {
		pk := &b.Packets[i]
		if pk.Live() {
			r.packets = append(r.packets, segments(pk)...)
		}
	}
	return nil
}

func (r *recorder) Send(_ int, messages []udp.Message) (int, error) {
	for _, m := range messages {
		for data := m.Data; len(data) > 0; {
			n := min(len(data), m.Seg)
			r.datagrams = append(r.datagrams, bytes.Clone(data[:n]))
			data = data[n:]
		}
	}
	return len(messages), nil
}

// segments are copies of what a packet is cut into, none if it cannot be. The
// packet is gone by then.
func segments(pk *packet.Packet) (all [][]byte) {
	var c packet.Cutter
	if c.Start(pk) != nil {
		return nil
	}
	for s := c.Next(); s != nil; s = c.Next() {
		all = append(all, bytes.Clone(s))
	}
	return all
}

// A turnstile bounces, in both directions, what has a bit of its traffic class set.
type turnstile struct{}

func (turnstile) Outbound(b *packet.Batch) { turnstile{}.Inbound(b) }
func (turnstile) Inbound(b *packet.Batch) {
	for i := range b.Packets {
		if p := &b.Packets[i]; turns(p.Data) {
			p.Bounce()
		}
	}
}

func turns(d []byte) bool { return len(d) > 1 && d[1]&0x80 != 0 }

// recordingEngine is a handEngine on a recorder, whose one peer, which is itself,
// owns the given prefixes.
func recordingEngine(t testing.TB, prefixes ...string) (*Engine, *recorder, *session) {
	e, _, addr := handEngine(t, packet.Chain{turnstile{}})
	r := &recorder{nullDevice: nullDevice{*newFakeDevice()}}
	e.config.Device, e.transport = r, r
	p, _ := e.routes.Load().Lookup(addr)
	cfg := Peer{PublicKey: p.key}
	for _, prefix := range prefixes {
		cfg.AllowedIPs = append(cfg.AllowedIPs, netip.MustParsePrefix(prefix))
	}
	require.NoError(t, e.SetPeer(cfg))
	return e, r, p.current.Load()
}

// A feed is fuzzed input, read as a sequence of things.
type feed struct{ rest []byte }

func (f *feed) byte() byte {
	b := f.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (f *feed) uint16() int { return int(f.byte())<<8 | int(f.byte()) }

func (f *feed) bytes(n int) []byte {
	n = min(n, len(f.rest))
	b := f.rest[:n:n]
	f.rest = f.rest[n:]
	return b
}

// What FuzzInbound does next. Each but the last three is followed by how many
// counters to skip, the length of the content, and the content.
const (
	feedValid     = iota // an authentic message
	feedChanged          // one with a bit changed, which the content's first byte tells
	feedTruncated        // one that has lost as many bytes as that byte tells
	feedHeld             // one that is on its way for longer
	feedNoise            // the content itself
	feedHandshake        // an initiation, with a bit changed if there is content
	feedReplayed         // the last authentic message again
	feedReleased         // what was held, last in first out
	feedSend             // deliver what there is, and begin a new batch
	feedKinds
)

// A sealedMessage is an authentic transport message.
type sealedMessage struct {
	datagram []byte
	content  []byte
	counter  uint64
}

// A wire makes the datagrams FuzzInbound delivers, and knows which of them are to
// arrive.
type wire struct {
	t        *testing.T
	engine   *Engine
	session  *session
	stranger *identity // whom the engine knows as another peer
	counter  uint64
	last     sealedMessage
	held     []sealedMessage

	seen    map[uint64]bool
	highest uint64
	want    [][]byte
}

func (w *wire) seal(content []byte) sealedMessage {
	d := make([]byte, sizeTransportHeader, sizeTransportMin+len(content))
	putTransportHeader(d, w.session.local, w.counter)
	var nonce [12]byte
	binary.LittleEndian.PutUint64(nonce[4:], w.counter)
	m := sealedMessage{w.session.send.Seal(d, nonce[:], content, nil), content, w.counter}
	w.counter++
	return m
}

// arrives notes that an authentic message is delivered, and returns it.
func (w *wire) arrives(m sealedMessage, ecn byte) []byte {
	if m.datagram == nil {
		return nil
	}
	w.last = m
	if w.seen[m.counter] || w.highest > m.counter && w.highest-m.counter > 127*64 {
		return m.datagram
	}
	w.seen[m.counter] = true
	w.highest = max(w.highest, m.counter)
	pk := packet.Packet{}
	pk.Set(bytes.Clone(m.content), 0)
	if len(m.content) == 0 || ecn == congestionExperienced && !markCongestion(pk.Data) || !pk.Trim() {
		return m.datagram
	}
	if owner, _ := w.engine.routes.Load().Lookup(pk.SrcAddr()); owner == w.session.peer && !turns(pk.Data) {
		w.want = append(w.want, pk.Data)
	}
	return m.datagram
}

// next is the next datagram, which may be empty, and whether there is more to come
// before it is all delivered.
func (w *wire) next(f *feed, ecn byte) (datagram []byte, more bool) {
	kind := f.byte() % feedKinds
	switch kind {
	case feedSend:
		return nil, false
	case feedReplayed:
		return w.arrives(w.last, ecn), true
	case feedReleased:
		n := len(w.held)
		if n == 0 {
			return nil, true
		}
		m := w.held[n-1]
		w.held = w.held[:n-1]
		return w.arrives(m, ecn), true
	}
	w.counter += uint64(f.byte())
	content := f.bytes(f.uint16())
	if kind == feedNoise {
		return content, true
	}
	var first int
	if len(content) > 0 {
		first = int(content[0])
	}
	if kind == feedHandshake {
		d, hs, err := w.stranger.initiate(w.engine.identity.key, [32]byte{}, 7, tai64n.Now())
		require.NoError(w.t, err)
		hs.wipe()
		newCookieJar(w.engine.identity.key).addMACs(d[:])
		if first < len(d) {
			d[first] ^= byte(len(content))
		}
		return d[:], true
	}
	m := w.seal(content)
	switch kind {
	case feedChanged:
		m.datagram[first%len(m.datagram)] ^= 1 << (first % 8)
	case feedTruncated:
		m.datagram = m.datagram[:max(0, len(m.datagram)-1-first)]
	case feedHeld:
		w.held = append(w.held, m)
		return nil, true
	default:
		return w.arrives(m, ecn), true
	}
	return m.datagram, true
}

// batch is the next datagrams to be received at once. Those of one size are one
// run, as the kernel makes it.
func (w *wire) batch(f *feed) (messages []udp.Message) {
	from := udp.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.7:7")}
	for len(f.rest) > 0 && len(messages) < maxReceive {
		ecn := byte(len(messages)) & 3
		d, more := w.next(f, ecn)
		if !more {
			break
		}
		if len(d) == 0 {
			continue
		}
		if n := len(messages); n > 0 && ecn != congestionExperienced && messages[n-1].ECN != congestionExperienced {
			m := &messages[n-1]
			if len(d) <= m.Seg && len(m.Data)%m.Seg == 0 && len(m.Data)+len(d) < 1<<16 {
				m.Data = append(m.Data, d...)
				continue
			}
		}
		messages = append(messages, udp.Message{Data: bytes.Clone(d), Seg: len(d), Endpoint: from, ECN: ecn})
	}
	return messages
}

// FuzzInbound feeds sequences of datagrams, authentic ones with any content,
// damaged, late, replayed and invented ones, alone and in runs, to the way in. What
// reaches the device is what the peer sealed, once, in the order it came, byte for
// byte, and from an address the peer owns.
func FuzzInbound(f *testing.F) {
	a4, a6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	feed1 := func(kind byte, content []byte) []byte {
		return append([]byte{kind, 0, byte(len(content) >> 8), byte(len(content))}, content...)
	}
	add := func(parts ...[]byte) { f.Add(bytes.Join(parts, nil)) }
	lone := datagramTo(a4, a4, 1)
	six := make([]byte, 48)
	six[0], six[5], six[6], six[7] = 0x60, 8, packet.ProtocolUDP, 64
	copy(six[8:], a6.AsSlice())
	copy(six[24:], a6.AsSlice())
	six[45] = 8
	var run [][]byte
	var pk packet.Packet
	pk.Set(tcpSuperpacket(a4, a4, 6, 60), 60)
	for i, s := range segments(&pk) {
		run = append(run, feed1(byte(i/3*feedHeld), s))
	}
	add(append(run, []byte{feedReleased, feedReleased, feedReleased, feedSend, feedReplayed})...)
	add(feed1(feedValid, lone), feed1(feedValid, six), feed1(feedValid, nil))
	add(feed1(feedValid, lone), []byte{feedReplayed}, feed1(feedHandshake, nil), feed1(feedHandshake, []byte{99}))
	add(feed1(feedValid, datagramTo(netip.MustParseAddr("192.0.2.1"), a4, 1)), feed1(feedChanged, lone), feed1(feedTruncated, lone))
	add(feed1(feedNoise, append([]byte{4, 0, 0, 0}, lone...)), feed1(feedNoise, []byte{1}))
	add(feed1(feedHeld, lone), bytes.Repeat([]byte{feedValid, 255, 0, 0}, 33), []byte{feedReleased})

	f.Fuzz(func(t *testing.T, input []byte) {
		e, r, s := recordingEngine(t, "10.0.0.0/8", "fd00::/8")
		private, public := newTestKeys(t)
		stranger, err := newIdentity(private)
		require.NoError(t, err)
		require.NoError(t, e.SetPeer(Peer{PublicKey: public, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}))
		w := wire{t: t, engine: e, session: s, stranger: stranger, seen: make(map[uint64]bool)}
		in, worker := newInbound(e, r), newSender(e, 0, packet.MaxSize+packet.BatchSize)
		in.merger.Reset(in.batch)
		for feed := (feed{input}); len(feed.rest) > 0; {
			in.process(w.batch(&feed))
			for len(e.handshakes) > 0 {
				m := <-e.handshakes
				e.answer(&m, worker)
				e.load.done()
			}
		}
		require.Equal(t, len(w.want), len(r.packets))
		for i := range w.want {
			require.Equal(t, w.want[i], r.packets[i], "packet %d", i)
		}
		for _, p := range e.peers {
			p.end()
		}
	})
}

// FuzzOutbound feeds any packets and superpackets to the way out. Each datagram
// that leaves opens to one segment and its padding, in order, under a counter of
// its own.
func FuzzOutbound(f *testing.F) {
	a4 := netip.MustParseAddr("10.0.0.1")
	add := func(packets ...packetBytes) {
		var input []byte
		for _, p := range packets {
			input = binary.BigEndian.AppendUint16(input, p.seg)
			input = binary.BigEndian.AppendUint16(input, uint16(len(p.data)))
			input = append(input, p.data...)
		}
		f.Add(input)
	}
	bulk := packetBytes{tcpSuperpacket(a4, a4, 3, 60), 60}
	lone := packetBytes{datagramTo(a4, a4, 1), 0}
	add(lone, bulk, lone, packetBytes{tcpSuperpacket(a4, a4, 30, 7), 7})
	add(packetBytes{lone.data, 10}, packetBytes{nil, 0}, packetBytes{lone.data[:19], 0})
	add(packetBytes{append([]byte{0x60, 0x80}, make([]byte, 60)...), 0})

	f.Fuzz(func(t *testing.T, input []byte) {
		e, r, s := recordingEngine(t, "0.0.0.0/0", "::/0")
		out := newOutbound(e, 0)
		feed := feed{input}
		var want [][]byte
		for len(feed.rest) > 0 {
			out.batch.Reset()
			for len(feed.rest) > 0 && !out.batch.Full() {
				seg := feed.uint16()
				content := feed.bytes(feed.uint16())
				data := make([]byte, len(content), max(len(content), 1500)+packet.Slack)
				copy(data, content)
				out.batch.Append(data, uint16(seg))
				pk := packet.Packet{}
				pk.Set(bytes.Clone(content), uint16(seg))
				if pk.DstAddr().IsValid() && !turns(content) {
					want = append(want, segments(&pk)...)
				}
			}
			out.process()
		}
		require.Equal(t, len(want), len(r.datagrams))
		var nonce [12]byte
		for i, d := range r.datagrams {
			require.EqualValues(t, typeTransport, messageType(d))
			require.EqualValues(t, i, transportCounter(d))
			binary.LittleEndian.PutUint64(nonce[4:], uint64(i))
			plain, err := s.receive.Open(nil, nonce[:], d[sizeTransportHeader:], nil)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(plain, want[i]), "datagram %d", i)
			padding := plain[len(want[i]):]
			require.Less(t, len(padding), paddingMultiple)
			require.Equal(t, make([]byte, len(padding)), padding)
		}
		require.EqualValues(t, len(r.datagrams), e.Stats().TxPackets)
	})
}
