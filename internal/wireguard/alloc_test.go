package wireguard

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// A countingStage looks at every packet, as a filter does.
type countingStage struct{ outbound, inbound int }

func (s *countingStage) Outbound(b *packet.Batch) { s.outbound += look(b) }
func (s *countingStage) Inbound(b *packet.Batch)  { s.inbound += look(b) }

func look(b *packet.Batch) (seen int) {
	for i := range b.Packets {
		if p := &b.Packets[i]; p.Src().IsValid() && p.Dst().IsValid() {
			seen++
		}
	}
	return seen
}

// A keepTransport keeps what was last sent, so that one goroutine can carry a
// packet all the way by hand.
type keepTransport struct {
	messages []udp.Message
	buffer   []byte
}

func (k *keepTransport) Port() uint16                       { return 1 }
func (k *keepTransport) Lane() int                          { return 0 }
func (k *keepTransport) Close() error                       { return nil }
func (k *keepTransport) Receive([]udp.Message) (int, error) { select {} }
func (k *keepTransport) Send(_ int, messages []udp.Message) (int, error) {
	k.messages, k.buffer = k.messages[:0], k.buffer[:0]
	for _, m := range messages {
		start := len(k.buffer)
		k.buffer = append(k.buffer, m.Data...)
		m.Data = k.buffer[start:]
		k.messages = append(k.messages, m)
	}
	return len(messages), nil
}

type nullDevice struct{ fakeDevice }

func (*nullDevice) WriteBatch(*packet.Batch) error { return nil }

// handEngine is an engine none of whose goroutines runs, with a session shared
// with itself.
func handEngine(t testing.TB, stages packet.Chain) (*Engine, *keepTransport, netip.Addr) {
	private, public := newTestKeys(t)
	id, err := newIdentity(private)
	require.NoError(t, err)
	wire := &keepTransport{buffer: make([]byte, 0, 1<<20), messages: make([]udp.Message, 0, maxRuns)}
	e := &Engine{
		config:    Config{Device: &nullDevice{*newFakeDevice()}, Stages: stages, Logger: slog.New(slog.DiscardHandler)},
		identity:  id,
		transport: wire,
		started:   time.Now(),
		peers:     make(map[[32]byte]*peer),
	}
	e.setUp()
	addr := netip.MustParseAddr("10.0.0.1")
	require.NoError(t, e.SetPeer(Peer{
		PublicKey: public, Endpoint: netip.MustParseAddrPort("192.0.2.1:1"),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)},
	}))
	p := e.peer(public)
	s, err := newSession(p, &transportKeys{}, e.sessions.reserve(p), 0, true, e.now())
	require.NoError(t, err)
	s.remote = s.local
	p.mu.Lock()
	e.sessions.establish(s)
	p.adopt(s)
	p.mu.Unlock()
	t.Cleanup(func() { p.stopTimer() })
	return e, wire, addr
}

func TestNoAllocationInEitherDirection(t *testing.T) {
	stages := []*countingStage{{}, {}, {}}
	e, wire, addr := handEngine(t, packet.Chain{stages[0], stages[1], stages[2]})
	out, in := newOutbound(e, 0), newInbound(e, wire)
	in.merger.Reset(in.batch)
	bulk := tcpSuperpacket(addr, addr, 45, 1368)
	lone := datagramTo(addr, addr, 1)
	buffer := make([]byte, len(bulk)+packet.Slack)
	for name, c := range map[string]struct {
		data []byte
		seg  uint16
	}{"superpacket": {bulk, 1368}, "lone packet": {lone, 0}} {
		allocs := testing.AllocsPerRun(200, func() {
			out.batch.Reset()
			copy(buffer, c.data)
			out.batch.Append(buffer[:len(c.data)], c.seg)
			out.process()
			in.process(wire.messages)
		})
		require.Zero(t, allocs, name)
	}
	require.Zero(t, e.Stats().Drops)
	require.EqualValues(t, e.Stats().TxPackets, e.Stats().RxPackets)
	require.EqualValues(t, 402, stages[0].outbound)
	require.EqualValues(t, stages[0].outbound, stages[2].inbound, "a superpacket is one packet again when it arrives")
}

// BenchmarkPeers carries a packet to one of many peers and back: the number of
// them must not matter.
func BenchmarkPeers(b *testing.B) {
	for name, peers := range map[string]int{"10": 10, "10000": 10000} {
		b.Run(name, func(b *testing.B) {
			e, wire, addr := handEngine(b, nil)
			var all []Peer
			for i := range peers {
				_, key := newTestKeys(b)
				a := netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
				all = append(all, Peer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(a, 32)}})
			}
			for i := range all {
				require.NoError(b, e.SetPeer(all[i]))
			}
			out, in := newOutbound(e, 0), newInbound(e, wire)
			in.merger.Reset(in.batch)
			lone := datagramTo(addr, addr, 1)
			buffer := make([]byte, 2048)
			b.ReportAllocs()
			for b.Loop() {
				out.batch.Reset()
				out.batch.Append(append(buffer[:0], lone...), 0)
				out.process()
				in.process(wire.messages)
			}
		})
	}
}
