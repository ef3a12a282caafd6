package overlay_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The netstack of wireguard-go, which the interop tests judge by, never ends its
// TCP's goroutines.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*processor).start"))
}

// engines are those every test of behaviour judges.
var engines = []overlay.Engine{overlay.EngineDefault, overlay.EngineWireGuardGo}

func eachEngine(t *testing.T, test func(t *testing.T, engine overlay.Engine)) {
	for _, engine := range engines {
		t.Run(engine.String(), func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

// A side is a node on a device in memory.
type side struct {
	*overlay.Node
	dev *testnet.Device
	ip4 netip.Addr // its overlay addresses
	ip6 netip.Addr
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newKey(t testing.TB) overlay.PrivateKey {
	key, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	return key
}

// newSide starts the node with overlay addresses 10.9.0.n and fd09::n.
func newSide(t testing.TB, engine overlay.Engine, n int, edit ...func(*overlay.Config)) *side {
	s := &side{
		dev: testnet.NewDevice(fmt.Sprintf("side%d", n), 1420, 1),
		ip4: netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}),
		ip6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: byte(n)}),
	}
	cfg := overlay.Config{PrivateKey: newKey(t), Device: s.dev, Engine: engine, Logger: quiet()}
	for _, e := range edit {
		e(&cfg)
	}
	if dev, ok := cfg.Device.(*testnet.Device); ok {
		s.dev = dev
	}
	var err error
	s.Node, err = overlay.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// as is s as a peer of others.
func (s *side) as() overlay.Peer {
	return overlay.Peer{
		PublicKey:  s.PublicKey(),
		Endpoint:   fmt.Sprintf("127.0.0.1:%d", s.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(s.ip4, 32), netip.PrefixFrom(s.ip6, 128)},
	}
}

// join makes a and b peers; b waits to be called.
func join(t testing.TB, a, b *side) {
	require.NoError(t, a.SetPeer(t.Context(), b.as()))
	p := a.as()
	p.Endpoint = ""
	require.NoError(t, b.SetPeer(t.Context(), p))
}

func newPair(t testing.TB, engine overlay.Engine, edit ...func(*overlay.Config)) (a, b *side) {
	a, b = newSide(t, engine, 1, edit...), newSide(t, engine, 2, edit...)
	join(t, a, b)
	return a, b
}

func (s *side) addr(six bool) netip.AddrPort {
	if six {
		return netip.AddrPortFrom(s.ip6, 7000)
	}
	return netip.AddrPortFrom(s.ip4, 7000)
}

// send puts a UDP datagram to another side into s's device.
func (s *side) send(t testing.TB, to *side, six bool, payload string) []byte {
	p := testnet.UDP(s.addr(six), to.addr(six), []byte(payload))
	require.True(t, s.dev.Put(0, p, 0))
	return p
}

// udp is a datagram to another side.
func (s *side) udp(to *side) []byte {
	return testnet.UDP(s.addr(false), to.addr(false), make([]byte, 1000))
}

// next waits for the next packet s delivers to its device.
func (s *side) next(t testing.TB) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	d, err := s.dev.Take(ctx)
	require.NoError(t, err)
	return d.Data
}

// take is next, ICMP errors apart.
func (s *side) take(t testing.TB) []byte {
	t.Helper()
	for {
		p := packet.Packet{Data: s.next(t)}
		if protocol := p.Protocol(); protocol != packet.ProtocolICMP && protocol != packet.ProtocolICMPv6 {
			return p.Data
		}
	}
}

// drain takes all there is.
func (s *side) drain() {
	for s.dev.Taken() > 0 {
		s.dev.Take(context.Background())
	}
}

// exchange sends one packet each way and waits for it.
func exchange(t testing.TB, a, b *side) {
	t.Helper()
	for _, six := range []bool{false, true} {
		want := a.send(t, b, six, "there")
		require.Equal(t, want, b.take(t))
		want = b.send(t, a, six, "and back")
		require.Equal(t, want, a.take(t))
	}
}

// peer is the status of s's peer.
func (s *side) peer(t testing.TB, key overlay.PublicKey) overlay.PeerStatus {
	t.Helper()
	for _, p := range s.Peers() {
		if p.PublicKey == key {
			return p
		}
	}
	require.FailNow(t, "no such peer")
	return overlay.PeerStatus{}
}

func drops(s *side, why packet.Reason) func() int {
	return func() int { return int(s.Stats().Drops[why]) }
}

// settles waits until got is want: counters are told after what they count.
func settles[T comparable](t testing.TB, want T, got func() T) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); got() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.Equal(t, want, got())
		}
	}
}

func TestTwoNodesExchangePackets(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)

		settles(t, overlay.Stats{
			TxPackets: 2, TxBytes: 20 + 8 + 5 + 40 + 8 + 5,
			RxPackets: 2, RxBytes: 20 + 8 + 8 + 40 + 8 + 8,
		}, a.Stats)
		p := a.peer(t, b.PublicKey())
		require.WithinDuration(t, time.Now(), p.LastHandshake, time.Minute)
		require.Equal(t, fmt.Sprintf("127.0.0.1:%d", b.ListenPort()), p.Addr.String())
		require.Equal(t, p.Addr.String(), p.Endpoint)
		require.Equal(t, uint64(2), p.TxPackets)
		require.Equal(t, uint64(2), p.RxPackets)
		require.Greater(t, p.TxBytes, uint64(148), "a handshake and two packets")
		require.Greater(t, p.RxBytes, uint64(92))

		q := b.peer(t, a.PublicKey())
		require.Equal(t, fmt.Sprintf("127.0.0.1:%d", a.ListenPort()), q.Addr.String(), "learned")
		require.Empty(t, q.Endpoint)
	})
}

func TestTheAnswerToTheFirstPacketArrives(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		rounds := 100
		if engine == overlay.EngineWireGuardGo {
			rounds = 5
		}
		for range rounds {
			a, b := newPair(t, engine)
			want := a.send(t, b, false, "the first packet")
			require.Equal(t, want, b.take(t))
			want = b.send(t, a, false, "its answer, at once")
			require.Equal(t, want, a.take(t))
			require.NoError(t, a.Close())
			require.NoError(t, b.Close())
		}
	})
}
