package wireguard

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// A sourceDevice yields the same superpacket over and over, no more of them
// under way than the sink has taken; a sinkDevice counts.
type sourceDevice struct {
	fakeDevice
	template []byte
	seg      uint16
	buffer   []byte
	sink     *sinkDevice
	sent     int64
	window   int64
	limit    atomic.Int64
}

func (d *sourceDevice) ReadBatch(b *packet.Batch) error {
	b.Reset()
	lost := time.Now()
	for d.sent-d.sink.bytes.Load() > d.window || d.sent >= d.limit.Load() {
		select {
		case <-d.closed:
			return net.ErrClosed
		case <-d.sink.wake:
		case <-time.After(20 * time.Millisecond):
			if time.Since(lost) > 100*time.Millisecond {
				d.sent = d.sink.bytes.Load() // the rest was lost
			}
		}
	}
	copy(d.buffer, d.template)
	b.Append(d.buffer[:len(d.template)], d.seg)
	d.sent += int64(len(d.template))
	return nil
}

type sinkDevice struct {
	fakeDevice
	bytes atomic.Int64
	wake  chan struct{}
}

func (d *sinkDevice) WriteBatch(b *packet.Batch) error {
	n := 0
	for i := range b.Packets {
		n += len(b.Packets[i].Data)
	}
	d.bytes.Add(int64(n))
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return nil
}

// tcpSuperpacket is an IPv4 TCP packet with timestamps and so many segments.
func tcpSuperpacket(from, to netip.Addr, segments, seg int) []byte {
	p := make([]byte, 52+segments*seg)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[6] = 0x40
	p[8], p[9] = 64, packet.ProtocolTCP
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[20:], 1234)
	binary.BigEndian.PutUint16(p[22:], 5678)
	p[32], p[33] = 8<<4, 0x10
	copy(p[40:], []byte{1, 1, 8, 10})
	return p
}

// BenchmarkEngine moves superpackets from one engine to another over loopback.
func BenchmarkEngine(b *testing.B) {
	from, to := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	sink := &sinkDevice{fakeDevice: *newFakeDevice(), wake: make(chan struct{}, 1)}
	source := &sourceDevice{fakeDevice: *newFakeDevice(), sink: sink, template: tcpSuperpacket(from, to, 45, 1368), seg: 1368, window: 1 << 20}
	source.buffer = make([]byte, len(source.template)+packet.Slack)
	keyA, pubA := newTestKeys(b)
	keyB, pubB := newTestKeys(b)
	logger := slog.New(slog.DiscardHandler)
	ea, err := New(Config{PrivateKey: keyA, Device: source, Logger: logger})
	require.NoError(b, err)
	eb, err := New(Config{PrivateKey: keyB, Device: sink, Logger: logger})
	require.NoError(b, err)
	require.NoError(b, eb.SetPeer(Peer{PublicKey: pubA, AllowedIPs: []netip.Prefix{netip.PrefixFrom(from, 32)}}))
	require.NoError(b, ea.SetPeer(Peer{PublicKey: pubB, AllowedIPs: []netip.Prefix{netip.PrefixFrom(to, 32)},
		Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), eb.Port())}))
	defer eb.Close()
	defer ea.Close()
	defer sink.Close()
	defer source.Close()

	wait := func(total int64) {
		for sink.bytes.Load() < total {
			time.Sleep(100 * time.Microsecond)
		}
	}
	size := int64(len(source.template))
	source.limit.Store(size)
	wait(size)
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	source.limit.Store(size * int64(b.N+1))
	wait(size * int64(b.N+1))
	b.StopTimer()
	b.ReportMetric(float64(ea.Stats().TxPackets)/float64(b.N)/45, "sent/delivered")
}

func BenchmarkSeal(b *testing.B) {
	_, x, y := newPair(b)
	x.device.send(datagramTo(x.overlay, y.overlay, 1))
	for len(y.device.received()) == 0 {
		time.Sleep(time.Millisecond)
	}
	var s *session
	for s == nil {
		s = x.peer(y.public).current.Load()
	}
	plain := make([]byte, 1420)
	out := make([]byte, 0, 1500)
	nonce := make([]byte, 12)
	b.SetBytes(1420)
	for b.Loop() {
		s.send.Seal(out, nonce, plain, nil)
	}
}
