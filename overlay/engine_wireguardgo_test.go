package overlay

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"golang.zx2c4.com/wireguard/tun"
)

var (
	here  = netip.MustParseAddrPort("10.0.0.1:7000")
	there = netip.MustParseAddrPort("10.0.0.2:7000")
)

// newAdapter starts an adapter whose every packet goes to one peer.
func newAdapter(t testing.TB, d packet.Device, stages ...packet.Stage) (*tunAdapter, *peerTraffic) {
	a := newTunAdapter(d, stages, slog.New(slog.NewTextHandler(io.Discard, nil)))
	traffic := new(peerTraffic)
	routes := new(bart.Table[*peerTraffic])
	routes.Insert(netip.MustParsePrefix("10.0.0.0/8"), traffic)
	a.routes.Store(routes)
	a.start()
	t.Cleanup(func() {
		d.Close()
		a.Close()
		a.running.Wait()
	})
	return a, traffic
}

// buffers are n as wireguard-go's.
func buffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 65535)
	}
	return bufs, make([]int, n)
}

func TestAdapterCutsASuperpacketOverSeveralReads(t *testing.T) {
	d := testnet.NewDevice("dev", 1420, 1)
	a, traffic := newAdapter(t, d)
	payload := make([]byte, 50_000)
	for i := range payload {
		payload[i] = byte(i % 251)
	}
	lone := testnet.UDP(here, there, []byte("behind it"))
	require.True(t, d.Put(0, testnet.TCP(here, there, 1, payload), 1000))
	require.True(t, d.Put(0, lone, 0))

	const offset = 16
	bufs, sizes := buffers(7)
	var got []byte
	for last := false; !last; {
		n, err := a.Read(bufs, sizes, offset)
		require.NoError(t, err)
		for i := range n {
			segment := bufs[i][offset:][:sizes[i]]
			if len(got) == len(payload) {
				require.Equal(t, lone, segment)
				last = true
				break
			}
			require.Equal(t, testnet.TCP(here, there, uint32(1+len(got)), payload[len(got):][:1000])[20:], segment[20:])
			got = append(got, segment[40:]...)
		}
	}
	require.Equal(t, payload, got)
	require.Equal(t, uint64(51), a.stats().TxPackets)
	require.Equal(t, uint64(51), traffic.txPackets.Load())
	require.Equal(t, uint64(50*1040+len(lone)), a.stats().TxBytes)
}

func TestAdapterDropsWhatItCannotPassOn(t *testing.T) {
	d := testnet.NewDevice("dev", 1420, 1)
	a, _ := newAdapter(t, d)
	last := testnet.UDP(here, there, []byte("the last"))
	for _, p := range []struct {
		data []byte
		seg  uint16
	}{
		{nil, 0},
		{make([]byte, 100), 0},
		{testnet.UDP(here, netip.MustParseAddrPort("192.0.2.1:1"), nil), 0},
		{testnet.UDP(here, there, make([]byte, 65535-28)), 0},
		{testnet.TCP(here, there, 1, nil)[:30], 1000}, // cut off in its TCP header
		{last, 0},
	} {
		require.True(t, d.Put(0, p.data, p.seg))
	}
	bufs, sizes := buffers(128)
	n := 0
	for n == 0 { // the lane may not have read all of them at once
		var err error
		n, err = a.Read(bufs, sizes, 16)
		require.NoError(t, err)
	}
	require.Equal(t, 1, n)
	require.Equal(t, last, bufs[0][16:][:sizes[0]])
	st := a.stats()
	require.Equal(t, uint64(3), st.Drops[packet.Malformed])
	require.Equal(t, uint64(1), st.Drops[packet.NoPeer])
	require.Equal(t, uint64(1), st.Drops[packet.TooBig])
}

// bouncer bounces all.
type bouncer struct{}

func (bouncer) Outbound(b *packet.Batch) { bounceAll(b) }
func (bouncer) Inbound(b *packet.Batch)  { bounceAll(b) }

func bounceAll(b *packet.Batch) {
	for i := range b.Packets {
		b.Packets[i].Bounce()
	}
}

func TestAdapterBoundsAnswers(t *testing.T) {
	a, traffic := newAdapter(t, testnet.NewDevice("dev", 1420, 1), bouncer{})
	bufs, sizes := buffers(128)
	for round := range 3 {
		var in [][]byte
		for i := range answerSlots + 10 {
			in = append(in, append(make([]byte, 16), testnet.UDP(there, here, []byte{byte(round), byte(i)})...))
		}
		n, err := a.Write(in, 16)
		require.NoError(t, err)
		require.Equal(t, len(in), n)

		// They left for a peer, in order, as many as there was room for.
		for got := 0; got < answerSlots; {
			n, err := a.Read(bufs[:50], sizes, 16)
			require.NoError(t, err)
			for i := range n {
				require.Equal(t, []byte{byte(round), byte(got)}, bufs[i][16:][:sizes[i]][28:])
				got++
			}
		}
	}
	st := a.stats()
	require.Equal(t, uint64(3*(answerSlots+10)), st.Bounces)
	require.Equal(t, uint64(3*(answerSlots+10)), st.RxPackets)
	require.Equal(t, uint64(30), st.Drops[packet.SendFailed])
	require.Equal(t, uint64(3*answerSlots), st.TxPackets)
	require.Equal(t, uint64(3*(answerSlots+10)), traffic.rxPackets.Load())
}

// alone fails when it runs twice at once for one lane.
type alone struct {
	lanes  [2]atomic.Bool
	failed atomic.Bool
}

func (s *alone) Outbound(*packet.Batch) {}

func (s *alone) Inbound(b *packet.Batch) {
	if s.lanes[b.Lane].Swap(true) {
		s.failed.Store(true)
	}
	for range 1000 {
		_ = b.Packets[0].SrcAddr()
	}
	s.lanes[b.Lane].Store(false)
}

func TestInboundStagesRunOnceALane(t *testing.T) {
	stage := new(alone)
	d := testnet.NewDevice("dev", 1420, 2)
	a, _ := newAdapter(t, d, stage)
	var running sync.WaitGroup
	for sender := range 8 {
		running.Go(func() {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + sender)}), 1)
			for range 100 {
				n, err := a.Write([][]byte{append(make([]byte, 16), testnet.UDP(from, here, nil)...)}, 16)
				if n != 1 || err != nil {
					stage.failed.Store(true)
				}
			}
		})
	}
	running.Wait()
	require.False(t, stage.failed.Load())
	lanes := make(map[byte]int)
	for d.Taken() > 0 {
		p, err := d.Take(t.Context())
		require.NoError(t, err)
		if known, found := lanes[p.Data[15]]; found {
			require.Equal(t, known, p.Lane, "a source stays on its lane")
		}
		lanes[p.Data[15]] = p.Lane
	}
	require.Len(t, lanes, 8)
	require.Contains(t, lanes, byte(10))
	require.NotEqual(t, lanes[10], lanes[11], "both lanes are used")
}

func TestAdapterTellsOfAnotherMTU(t *testing.T) {
	d := testnet.NewDevice("dev", 1420, 1)
	a, _ := newAdapter(t, d)
	d.SetMTU(1280)
	require.Equal(t, tun.Event(tun.EventMTUUpdate), <-a.Events())
	mtu, err := a.MTU()
	require.NoError(t, err)
	require.Equal(t, 1280, mtu)
	require.NoError(t, a.Close())
	_, open := <-a.Events()
	require.False(t, open)
}

func TestAdapterEndsReads(t *testing.T) {
	for name, end := range map[string]func(*tunAdapter, *testnet.Device){
		"when it is closed":           func(a *tunAdapter, _ *testnet.Device) { a.Close() },
		"when its device is closed":   func(_ *tunAdapter, d *testnet.Device) { d.Close() },
		"when it is closed once more": func(a *tunAdapter, d *testnet.Device) { a.Close(); d.Close(); a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			d := testnet.NewDevice("dev", 1420, 2)
			a, _ := newAdapter(t, d)
			result := make(chan error, 1)
			go func() {
				bufs, sizes := buffers(1)
				_, err := a.Read(bufs, sizes, 16)
				result <- err
			}()
			end(a, d)
			require.ErrorIs(t, <-result, os.ErrClosed)
		})
	}
}

func TestAClosedDeviceIsNoTrouble(t *testing.T) {
	d := testnet.NewDevice("dev", 1420, 1)
	a, _ := newAdapter(t, d)
	d.Close()
	n, err := a.Write([][]byte{append(make([]byte, 16), testnet.UDP(there, here, nil)...)}, 16)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = a.Write(nil, 16)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Zero(t, a.stats().Drops[packet.DeviceFull])
}

// An endless device always has the same superpackets to read, allocates nothing,
// and swallows what is written to it.
type endless struct {
	*testnet.Device
	arena, fresh []byte
	closed       atomic.Bool
}

func (d *endless) ReadBatch(b *packet.Batch) error {
	b.Reset()
	if d.closed.Load() {
		return net.ErrClosed
	}
	copy(d.arena, d.fresh)
	b.Append(d.arena[:len(d.fresh)], 1380)
	return nil
}

func (d *endless) WriteBatch(*packet.Batch) error { return nil }

func (d *endless) Close() error {
	d.closed.Store(true)
	return d.Device.Close()
}

func TestAdapterAllocatesNothing(t *testing.T) {
	fresh := testnet.TCP(here, there, 1, make([]byte, 60000))
	d := &endless{Device: testnet.NewDevice("dev", 1420, 1), fresh: fresh, arena: make([]byte, len(fresh)+packet.Slack)}
	nothing := new(nothing)
	a, _ := newAdapter(t, d, nothing, nothing, nothing)
	bufs, sizes := buffers(128)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := a.Read(bufs, sizes, 16); err != nil {
			t.Error(err)
		}
	}), "outbound")

	in := make([][]byte, 128)
	for i := range in {
		in[i] = append(make([]byte, 16), testnet.UDP(there, here, make([]byte, 1000))...)
	}
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := a.Write(in, 16); err != nil {
			t.Error(err)
		}
	}), "inbound")
}

type nothing struct{}

func (*nothing) Outbound(*packet.Batch) {}
func (*nothing) Inbound(*packet.Batch)  {}
