package overlay_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// FuzzPackets gives two nodes any bytes, from the device and from the network,
// and expects the packet behind them to arrive.
func FuzzPackets(f *testing.F) {
	type pair struct {
		a, b *side
		wire net.Conn // to b's socket
	}
	var pairs []pair
	for _, engine := range engines {
		a, b := newPair(f, engine, stages(byPort{}))
		exchange(f, a, b)
		wire, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", b.ListenPort()))
		require.NoError(f, err)
		f.Cleanup(func() { wire.Close() })
		pairs = append(pairs, pair{a, b, wire})
	}
	a, b := pairs[0].a, pairs[0].b
	for _, six := range []bool{false, true} {
		f.Add(testnet.UDP(a.addr(six), b.addr(six), []byte("payload")), uint16(0))
		f.Add(testnet.TCP(a.addr(six), b.addr(six), 1, make([]byte, 5000)), uint16(1000))
		f.Add(testnet.UDP(a.addr(six), b.addr(six), make([]byte, 500)), uint16(1))
	}
	for kind := range uint32(6) { // messages of WireGuard, by their lengths
		for _, length := range []int{4, 32, 64, 92, 148} {
			m := make([]byte, length)
			binary.LittleEndian.PutUint32(m, kind)
			f.Add(m, uint16(length))
		}
	}
	f.Add([]byte{}, uint16(65535))

	serial := uint64(0)
	f.Fuzz(func(t *testing.T, data []byte, seg uint16) {
		if len(data) > 65535 {
			return // no device makes more
		}
		for _, p := range pairs {
			p.wire.Write(data) // too much for a datagram is an error of its own
			p.a.dev.Put(0, data, seg)
			// Thousands of segments may overflow a socket, so a marker may be lost.
			first := serial + 1
			require.Eventually(t, func() bool {
				serial++
				marker := binary.BigEndian.AppendUint64(nil, serial)
				p.a.dev.Put(0, testnet.UDP(p.a.addr(true), p.b.addr(true), marker), 0)
				return arrives(p.b, first, serial)
			}, 15*time.Second, time.Microsecond)
			p.a.drain()
		}
	})
}

// arrives waits a moment for one of a row of markers.
func arrives(s *side, first, last uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	for {
		d, err := s.dev.Take(ctx)
		if err != nil {
			return false
		}
		if len(d.Data) != 56 {
			continue
		}
		if n := binary.BigEndian.Uint64(d.Data[48:]); n >= first && n <= last {
			return true
		}
	}
}

// FuzzEndpoint sets any endpoint.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%eth0]:1", "hub.example.net:51820", "hub:1", "_sip.example:1",
		"", ":1", "[]:1", "1.2.3:4", "[::ffff:10.0.0.1]:1", "a..b:1", "-a:1", "a\x00b:1", "192.0.2.1:00001",
	} {
		f.Add(s)
	}
	node := newSide(f, overlay.EngineDefault, 1, func(cfg *overlay.Config) { cfg.Resolver = always{} })
	key := newKey(f).Public()
	f.Fuzz(func(t *testing.T, s string) {
		if node.SetPeer(t.Context(), overlay.Peer{PublicKey: key, Endpoint: s}) != nil {
			return
		}
		status := node.peer(t, key)
		require.Equal(t, s, status.Endpoint)
		if s == "" {
			return
		}
		require.True(t, status.Addr.IsValid())
		require.NotZero(t, status.Addr.Port())
		require.False(t, status.Addr.Addr().IsUnspecified() || status.Addr.Addr().IsMulticast() || status.Addr.Addr().Is4In6())
		require.NoError(t, node.SetEndpoint(t.Context(), key, status.Addr.String()), "an address in use is an endpoint")
	})
}
