package overlay_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// A recorder is a stage that notes what passes it.
type recorder struct {
	name string
	log  *journal
}

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) read() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (r *recorder) Outbound(b *packet.Batch) { r.note("out", b) }
func (r *recorder) Inbound(b *packet.Batch)  { r.note("in", b) }

func (r *recorder) note(way string, b *packet.Batch) {
	for range b.Packets {
		r.log.add(r.name + " " + way)
	}
}

// byPort is a stage that does what the packet's destination port asks for.
type byPort struct{}

const (
	portReflect = 7
	portFilter  = 13
)

func (byPort) Outbound(b *packet.Batch) { byPort{}.both(b) }
func (byPort) Inbound(b *packet.Batch)  { byPort{}.both(b) }

func (byPort) both(b *packet.Batch) {
	for i := range b.Packets {
		p := &b.Packets[i]
		switch p.Dst().Port() {
		case portReflect:
			src, dst := p.Src(), p.Dst()
			p.SetSrc(dst)
			p.SetDst(src)
			p.Bounce()
		case portFilter:
			p.Drop(packet.Filtered)
		}
	}
}

func stages(s ...packet.Stage) func(*overlay.Config) {
	return func(cfg *overlay.Config) { cfg.Stages = s }
}

func TestStagesRunInOrderAndBack(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		var log journal
		chain := []packet.Stage{&recorder{"dns", &log}, &recorder{"filter", &log}, &recorder{"nat", &log}}
		a, b := newSide(t, engine, 1, stages(chain...)), newSide(t, engine, 2)
		chain[0] = nil // the node has its own list
		join(t, a, b)
		want := a.send(t, b, false, "out")
		require.Equal(t, want, b.take(t))
		want = b.send(t, a, false, "in")
		require.Equal(t, want, a.take(t))
		require.Equal(t, []string{"dns out", "filter out", "nat out", "nat in", "filter in", "dns in"}, log.read())
	})
}

func TestWhatAStageBouncesGoesBack(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newSide(t, engine, 1), newSide(t, engine, 2, stages(byPort{}))
		join(t, a, b)
		exchange(t, a, b)
		for _, six := range []bool{false, true} {
			src, dst := a.addr(six), netip.AddrPortFrom(b.addr(six).Addr(), portReflect)
			answer := testnet.UDP(dst, src, []byte("reflect"))

			// Inbound, at b: to the peer it came from.
			a.dev.Put(0, testnet.UDP(src, dst, []byte("reflect")), 0)
			require.Equal(t, answer, a.take(t))

			// Outbound, at b: to the device it came from.
			outside := netip.AddrPortFrom(a.addr(six).Addr(), portReflect)
			b.dev.Put(0, testnet.UDP(b.addr(six), outside, []byte("reflect")), 0)
			require.Equal(t, testnet.UDP(outside, b.addr(six), []byte("reflect")), b.take(t))
		}
		settles(t, uint64(4), func() uint64 { return b.Stats().Bounces })
		require.Zero(t, a.Stats().Bounces)
		require.Equal(t, uint64(4), b.peer(t, a.PublicKey()).TxPackets, "two of the exchange, two that bounced")
		require.Zero(t, b.dev.Taken())
	})
}

func TestWhatAStageDropsIsCounted(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newSide(t, engine, 1), newSide(t, engine, 2, stages(byPort{}))
		join(t, a, b)
		a.dev.Put(0, testnet.UDP(a.addr(false), netip.AddrPortFrom(b.ip4, portFilter), nil), 0)
		exchange(t, a, b)
		b.dev.Put(0, testnet.UDP(b.addr(false), netip.AddrPortFrom(a.ip4, portFilter), nil), 0)
		exchange(t, b, a)
		settles(t, 2, drops(b, packet.Filtered))
	})
}

func TestWhatANodeDropsIsCounted(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine, func(cfg *overlay.Config) { cfg.Device = testnet.NewDevice("large", 65475, 1) })
		exchange(t, a, b)
		stranger := netip.MustParseAddrPort("10.200.0.1:7000")

		a.dev.Put(0, make([]byte, 100), 0)
		settles(t, 1, drops(a, packet.Malformed))

		a.dev.Put(0, testnet.UDP(a.addr(false), stranger, nil), 0)
		settles(t, 1, drops(a, packet.NoPeer))
		if engine == overlay.EngineDefault { // it says so to who sent it, too
			refusal := a.next(t)
			require.EqualValues(t, packet.ProtocolICMP, refusal[9])
		}

		a.dev.Put(0, testnet.UDP(stranger, b.addr(false), nil), 0)
		six := netip.MustParseAddrPort("[fd00::1]:7000")
		a.dev.Put(0, testnet.UDP(six, b.addr(true), nil), 0)
		settles(t, 2, drops(b, packet.NotAllowed))

		// No datagram over IPv4 takes this and its seal.
		a.dev.Put(0, testnet.UDP(a.addr(false), b.addr(false), make([]byte, 65488-28)), 0)
		settles(t, 1, func() int { return drops(a, packet.SendFailed)() + drops(a, packet.TooBig)() })
		exchange(t, a, b)
		require.Zero(t, b.dev.Taken())
	})
}

func TestASuperpacketArrivesWhole(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		for _, six := range []bool{false, true} {
			payload := make([]byte, 60000)
			for i := range payload {
				payload[i] = byte(i ^ i>>8)
			}
			header := 40
			if six {
				header = 60
			}
			seg := 1420 - header
			require.True(t, a.dev.Put(0, testnet.TCP(a.addr(six), b.addr(six), 1, payload), uint16(seg)))
			var got []byte
			for len(got) < len(payload) {
				d := b.take(t) // one segment, or several merged again
				got = append(got, d[header:]...)
			}
			require.Equal(t, payload, got)
		}
		segments := uint64(44 + 45)
		settles(t, segments, func() uint64 { return a.Stats().TxPackets })
		settles(t, segments, func() uint64 { return b.Stats().RxPackets })
		settles(t, segments, func() uint64 { return b.peer(t, a.PublicKey()).RxPackets })
	})
}

func TestEveryLaneIsRead(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		dev := testnet.NewDevice("lanes", 1420, 3)
		a := newSide(t, engine, 1, func(cfg *overlay.Config) { cfg.Device = dev })
		b := newSide(t, engine, 2)
		join(t, a, b)
		for lane := range 3 {
			p := testnet.UDP(a.addr(false), b.addr(false), fmt.Appendf(nil, "lane %d", lane))
			require.True(t, dev.Put(lane, p, 0))
			require.Equal(t, p, b.take(t))
			want := b.send(t, a, false, "back")
			require.Equal(t, want, a.take(t))
		}
	})
}

func TestThreeStagesAllocateNothing(t *testing.T) {
	var chain packet.Chain = []packet.Stage{byPort{}, byPort{}, byPort{}}
	b := packet.NewBatch(0)
	var data [][]byte
	for i := range packet.BatchSize {
		port := []uint16{80, portReflect, portFilter}[i%3]
		data = append(data, testnet.UDP(netip.MustParseAddrPort("10.0.0.1:1"), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port), make([]byte, 100)))
	}
	for name, run := range map[string]func(*packet.Batch){"outbound": chain.Outbound, "inbound": chain.Inbound} {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			b.Reset()
			for _, d := range data {
				b.Append(d, 0)
			}
			run(b)
		}), name)
	}
}
