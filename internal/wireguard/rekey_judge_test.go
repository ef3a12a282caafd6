package wireguard

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// Rekeys that we begin, because of how much was sent, lose nothing of what goes
// to wireguard-go and comes from it meanwhile, whoever began the session before.
func TestRekeysOfOursAgainstTheJudgeLoseNothing(t *testing.T) {
	for name, judgeBegins := range map[string]bool{"after ours began": false, "after the judge began": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			us, judge, peer := newSocketPair(t)
			out := &stream{from: ourAddr, to: judgeAddr, send: us.send, receive: judge.receive}
			in := &stream{from: judgeAddr, to: ourAddr, send: judge.send, receive: us.receive}
			first, second := out, in
			if judgeBegins {
				first, second = in, out
			}
			first.start(t)
			first.await(t, 1)
			second.start(t)
			second.await(t, 1)
			require.Equal(t, !judgeBegins, peer.current.Load().initiator)

			const rekeys = 5
			for range rekeys {
				old := peer.current.Load()
				// Once, not to wait for rekeyTimeout since the last rekey. After it our
				// next call has to wait as always: a second one would make the judge
				// forget the session of the first, which packets of ours may be using.
				peer.quietUntil.Store(0)
				old.counter.Store(rekeyAfterMessages)
				require.Eventually(t, func() bool { return peer.current.Load() != old }, 30*time.Second, time.Millisecond)
				require.True(t, peer.current.Load().initiator)
				out.await(t, out.received.Load()+200)
				in.await(t, in.received.Load()+200)
			}
			out.stop(t)
			in.stop(t)
		})
	}
}

// newSocketPair is an engine and a wireguard-go device that know each other, on
// sockets of the system.
func newSocketPair(t *testing.T) (us, judge packetEnd, peer *peer) {
	ourKey, ourPublic := newTestKeys(t)
	judgeKey, judgePublic := newTestKeys(t)
	ourDevice := newFakeDevice()
	e, err := New(Config{PrivateKey: ourKey, Device: ourDevice, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		ourDevice.Close()
		require.NoError(t, e.Close())
	})

	tun := tuntest.NewChannelTUN()
	dev := device.NewDevice(tun.TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	require.NoError(t, dev.IpcSet(fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=127.0.0.1:%d\nallowed_ip=%v/32\n",
		judgeKey, ourPublic, e.Port(), ourAddr)))
	require.NoError(t, dev.Up())
	text, err := dev.IpcGet()
	require.NoError(t, err)
	_, after, _ := strings.Cut(text, "listen_port=")
	var port uint16
	_, err = fmt.Sscan(after, &port)
	require.NoError(t, err)
	require.NoError(t, e.SetPeer(Peer{
		PublicKey:  judgePublic,
		Endpoint:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(judgeAddr, 32)},
	}))

	us = packetEnd{ourDevice.send, make(chan []byte)}
	judge = packetEnd{func(data []byte) { tun.Outbound <- data }, tun.Inbound}
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	go func() {
		for {
			select {
			case p := <-ourDevice.fromPeers:
				select {
				case us.receive <- p.data:
				case <-ended:
					return
				}
			case <-ended:
				return
			}
		}
	}()
	return us, judge, e.peer(judgePublic)
}

// A packetEnd is where packets of an overlay are sent and received.
type packetEnd struct {
	send    func(data []byte)
	receive chan []byte
}

// A stream is numbered packets, of which only so many are on their way at once
// that no socket has to drop one.
type stream struct {
	from, to netip.Addr
	send     func(data []byte)
	receive  <-chan []byte

	received atomic.Int64
	twice    atomic.Bool
	sent     uint32        // once sending is done
	halt     chan struct{} // closed to end sending
	sending  chan struct{} // closed when that is done
	end      chan struct{} // closed to end receiving
	done     chan struct{} // closed when that is done
}

const streamWindow = 32

func (s *stream) start(t *testing.T) {
	s.halt, s.sending = make(chan struct{}), make(chan struct{})
	s.end, s.done = make(chan struct{}), make(chan struct{})
	window := make(chan struct{}, streamWindow)
	go func() {
		defer close(s.sending)
		for {
			select {
			case <-s.halt:
				return
			case window <- struct{}{}:
				s.send(datagramTo(s.from, s.to, s.sent))
				s.sent++
			}
		}
	}()
	go func() {
		defer close(s.done)
		seen := make(map[uint32]bool)
		for {
			select {
			case <-s.end:
				return
			case data := <-s.receive:
				number := binary.BigEndian.Uint32(data[28:])
				if seen[number] {
					s.twice.Store(true)
				}
				seen[number] = true
				s.received.Store(int64(len(seen)))
				<-window
			}
		}
	}()
	t.Cleanup(func() {
		s.halted()
		select {
		case <-s.end:
		default:
			close(s.end)
		}
		<-s.done
	})
}

// halted ends sending.
func (s *stream) halted() {
	select {
	case <-s.halt:
	default:
		close(s.halt)
	}
	<-s.sending
}

// await waits until so many packets were received.
func (s *stream) await(t *testing.T, packets int64) {
	t.Helper()
	require.Eventually(t, func() bool { return s.received.Load() >= packets }, 30*time.Second, time.Millisecond,
		"from %v to %v nothing arrives any more", s.from, s.to)
}

// stop ends the stream, of which everything must have arrived, once.
func (s *stream) stop(t *testing.T) {
	t.Helper()
	s.halted()
	require.Eventually(t, func() bool { return s.received.Load() == int64(s.sent) }, 30*time.Second, time.Millisecond,
		"from %v to %v packets are lost", s.from, s.to)
	require.False(t, s.twice.Load(), "a packet came twice")
}
