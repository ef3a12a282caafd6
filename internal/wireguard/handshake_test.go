package wireguard

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// Both sides call at once and go on to send. They come to one session, whose
// renewals lose nothing.
func TestBothBeginAtOnce(t *testing.T) {
	for name, c := range map[string]struct{ there, back time.Duration }{
		"the calls cross":               {50 * time.Millisecond, 50 * time.Millisecond},
		"one way is slower":             {10 * time.Millisecond, 90 * time.Millisecond},
		"one way is as slow as a round": {30 * time.Millisecond, 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b := newPair(t)
				defer a.close()
				defer b.close()
				n.setFate(func(_ []byte, from, _ netip.AddrPort) []time.Duration {
					if from == a.transport.address() {
						return []time.Duration{c.there}
					}
					return []time.Duration{c.back}
				})
				calls := n.watch(a.transport, typeInitiation)
				callsBack := n.watch(b.transport, typeInitiation)
				const seconds, rate = 260, 50
				var atA, atB, want []uint32
				for i := range uint32(seconds * rate) {
					a.device.send(datagramTo(a.overlay, b.overlay, i))
					b.device.send(datagramTo(b.overlay, a.overlay, i))
					want = append(want, i)
					time.Sleep(time.Second / rate)
					atA = append(atA, numbers(a.device.received())...)
					atB = append(atB, numbers(b.device.received())...)
				}
				time.Sleep(time.Second)
				atA = append(atA, numbers(a.device.received())...)
				atB = append(atB, numbers(b.device.received())...)
				slices.Sort(atA)
				slices.Sort(atB)
				require.Equal(t, want, atA)
				require.Equal(t, want, atB)
				ofA, ofB := a.peer(b.public).current.Load(), b.peer(a.public).current.Load()
				require.Equal(t, ofA.local, ofB.remote)
				require.Equal(t, ofB.local, ofA.remote)
				require.Equal(t, 2+seconds/int(rekeyAfterTime/time.Second), calls.count()+callsBack.count())
			})
		})
	}
}

// A node that starts anew has forgotten its sessions. That the other side has only
// just begun the last one must not make its call look like one that crossed.
func TestANodeThatStartsAnewRightAfterAHandshakeIsSentToAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		if bytes.Compare(a.public[:], b.public[:]) < 0 {
			a, b = b, a // of two sessions that crossed, a's would remain
		}
		defer a.close()
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration {
			return []time.Duration{10 * time.Millisecond}
		})
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(50 * time.Millisecond)
		require.Equal(t, []uint32{1}, numbers(b.device.received()))

		address, overlay, private := b.transport.address().String(), b.overlay.String(), b.private
		b.close()
		b = newTestNode(t, n, address, overlay, func(c *Config) { c.PrivateKey = private })
		defer b.close()
		require.NoError(t, b.SetPeer(a.peerOf()))
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		time.Sleep(50 * time.Millisecond)
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		time.Sleep(50 * time.Millisecond)
		require.Equal(t, []uint32{3}, numbers(b.device.received()))
	})
}

// Whoever begins, or both.
func TestHandshakesSurviveALossyReorderingLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		random := rand.New(rand.NewPCG(1, 2))
		n.setFate(func(d []byte, _, _ netip.AddrPort) []time.Duration {
			delay := func() time.Duration { return time.Duration(random.Int64N(int64(300 * time.Millisecond))) }
			if messageType(d) == typeTransport {
				return []time.Duration{0}
			}
			switch random.IntN(4) {
			case 0:
				return nil
			case 1:
				return []time.Duration{delay(), delay(), delay()}
			default:
				return []time.Duration{delay()}
			}
		})
		const ofA, ofB = 1000, 2000
		for round := range uint32(40) {
			want := 0
			if round%3 != 1 {
				a.device.send(datagramTo(a.overlay, b.overlay, ofA+round))
				want++
			}
			if round%3 != 0 {
				b.device.send(datagramTo(b.overlay, a.overlay, ofB+round))
				want++
			}
			deadline := time.Now().Add(rekeyAttemptTime)
			var got []uint32
			for len(got) < want && time.Now().Before(deadline) {
				time.Sleep(100 * time.Millisecond)
				got = append(got, numbers(b.device.received())...)
				got = append(got, numbers(a.device.received())...)
			}
			require.Len(t, got, want, "round %d", round)
			for _, number := range got {
				require.Contains(t, []uint32{ofA + round, ofB + round}, number)
			}
			time.Sleep(4 * time.Minute) // the session ends
		}
	})
}

func TestAFloodOfHandshakesDoesNotStopKnownPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)

		// Initiations with a right MAC1, which anyone who knows the public key can
		// make, held back until enough of them wait.
		cookies := n.watch(b.transport, typeCookie)
		jar := newCookieJar(b.public)
		flood := func(count int) {
			for range count {
				d := make([]byte, sizeInitiation)
				putInitiationHeader(d, rand.Uint32())
				for i := 8; i < 100; i++ {
					d[i] = byte(rand.Uint32())
				}
				jar.addMACs(d)
				n.deliver(d, netip.MustParseAddrPort("203.0.113.9:9"), b.transport.address(), 0)
			}
		}
		flood(3000)
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Equal(t, []uint32{2}, numbers(b.device.received()))
		require.Positive(t, cookies.count(), "under load a stranger gets a cookie and no handshake")

		// A third node that knows b gets through by answering the cookie.
		c := newTestNode(t, n, "192.0.2.3:3000", "10.0.0.3")
		defer c.close()
		require.NoError(t, b.SetPeer(c.peerOf()))
		require.NoError(t, c.SetPeer(b.peerOf()))
		flood(2000)
		c.device.send(datagramTo(c.overlay, b.overlay, 3))
		for range 24 { // its first call is lost, the second meets a cookie, the third shows it
			time.Sleep(500 * time.Millisecond)
			flood(2000)
		}
		synctest.Wait()
		require.Equal(t, []uint32{3}, numbers(b.device.received()))
	})
}

func TestUnreachablePeersAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		reported := make(chan [32]byte, 100)
		a := newTestNode(t, n, "192.0.2.1:1000", "10.0.0.1", func(c *Config) {
			c.Unreachable = func(key [32]byte) { reported <- key }
		})
		defer a.close()
		_, public := newTestKeys(t)
		require.NoError(t, a.SetPeer(Peer{
			PublicKey: public, Endpoint: netip.MustParseAddrPort("192.0.2.9:9"),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/32")},
		}))
		a.device.send(datagramTo(a.overlay, netip.MustParseAddr("10.0.0.9"), 1))
		time.Sleep(6 * time.Second)
		require.Len(t, reported, 1)
		require.Equal(t, public, <-reported)
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoSession])
	})
}

func TestAResponderAnswersTheCookieOfAnInitiatorUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		cookies := n.watch(a.transport, typeCookie)
		strain := func() { // a is under load for a second
			a.load.waiting.Add(loadedHandshakes)
			a.load.under(time.Now())
			a.load.waiting.Add(-loadedHandshakes)
		}
		strain()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Equal(t, 1, cookies.count(), "a does not trust the response yet")
		require.Empty(t, b.device.received())
		for range 20 { // the next response shows the cookie
			strain()
			time.Sleep(500 * time.Millisecond)
		}
		require.Equal(t, []uint32{1}, numbers(b.device.received()))
		require.Equal(t, 1, cookies.count())
	})
}

// A node whose response is lost is, for a while, not to call itself. Its own call
// waits for that, and what waits for the call with it.
func TestAResponsePutsTheNextCallOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var reports atomic.Int32
		a := newTestNode(t, n, "192.0.2.1:1000", "10.0.0.1", func(c *Config) {
			c.Unreachable = func([32]byte) { reports.Add(1) }
		})
		b := newTestNode(t, n, "192.0.2.2:2000", "10.0.0.2")
		defer a.close()
		defer b.close()
		require.NoError(t, a.SetPeer(b.peerOf()))
		require.NoError(t, b.SetPeer(a.peerOf()))
		var mute atomic.Bool // loses what a sends
		mute.Store(true)
		n.setFate(func(_ []byte, from, _ netip.AddrPort) []time.Duration {
			if mute.Load() && from == a.transport.address() {
				return nil
			}
			return []time.Duration{0}
		})
		calls, answers := n.watch(a.transport, typeInitiation), n.watch(a.transport, typeResponse)
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(3 * time.Second)
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		time.Sleep(4 * time.Second) // a would have called again, had it not answered b
		require.Equal(t, 1, answers.count())
		require.Equal(t, 1, calls.count())
		require.Zero(t, reports.Load())
		require.Zero(t, a.Stats().Drops)
		mute.Store(false)
		time.Sleep(3 * time.Second)
		require.Equal(t, []uint32{1}, numbers(b.device.received()))
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
	})
}

// With a key of low order there is no handshake, which is said once a call and not
// once a packet.
func TestACallThatCannotBeMadeIsNotMadeForEachPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer // written by the engine alone until it is closed
		a := newTestNode(t, newNetwork(), "192.0.2.1:1000", "10.0.0.1", func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		require.NoError(t, a.SetPeer(Peer{
			PublicKey:  [32]byte{1},
			Endpoint:   netip.MustParseAddrPort("192.0.2.9:9"),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/32")},
		}))
		for i := range uint32(90) {
			a.device.send(datagramTo(a.overlay, netip.MustParseAddr("10.0.0.9"), i))
			time.Sleep(100 * time.Millisecond)
		}
		a.close()
		require.Equal(t, 2, strings.Count(log.String(), "cannot begin a handshake"))
	})
}

func TestACallThatCameToNothingEndsWithTheNextHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil })
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		p := a.peer(b.public)
		require.NotNil(t, p.initiation)
		n.setFate(nil)
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		synctest.Wait()
		require.Equal(t, []uint32{1}, numbers(b.device.received()))
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
		require.Nil(t, p.initiation, "its secrets are gone")
		require.Empty(t, a.sessions.pending)
	})
}

// The node that answered must not call for five seconds. When the packet that
// would have made its session usable is lost, and the other side has no more to
// say, a packet of its own leads to a call after that.
func TestAPacketThatMeetsNoSessionLeadsToACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		n.setFate(func(d []byte, _, _ netip.AddrPort) []time.Duration {
			if messageType(d) == typeTransport {
				return nil
			}
			return []time.Duration{0}
		})
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(time.Second)
		require.Nil(t, b.peer(a.public).current.Load())
		n.setFate(nil)
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		time.Sleep(3 * time.Second)
		require.Empty(t, a.device.received())
		time.Sleep(3 * time.Second)
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
	})
}

func TestACallThereWasNoRoomForIsMadeLater(t *testing.T) {
	e, wire, _ := handEngine(t, nil)
	overlay := netip.MustParseAddr("10.0.0.9")
	_, key := newTestKeys(t)
	require.NoError(t, e.SetPeer(Peer{
		PublicKey:  key,
		Endpoint:   netip.MustParseAddrPort("192.0.2.9:9"),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(overlay, 32)},
	}))
	p := e.peer(key)
	defer p.end()
	for range cap(e.initiations) {
		e.initiations <- p
	}
	out := newOutbound(e, 0)
	out.batch.Append(datagramTo(overlay, overlay, 1), 0)
	out.process()
	require.Empty(t, wire.messages)
	next, unreachable := p.due(e.now() + int64(rekeyTimeout) + 1)
	require.False(t, unreachable, "nobody was called yet")
	require.NotEqual(t, int64(never), next)
	require.Len(t, wire.messages, 1)
	require.EqualValues(t, typeInitiation, messageType(wire.messages[0].Data))
}

func TestASessionIsConfirmedThoughWhatWaitedCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		p := datagramTo(a.overlay, b.overlay, 1)
		p[9] = packet.ProtocolICMP // of which there are no superpackets
		a.device.toPeers <- []packetBytes{{p, 10}}
		synctest.Wait()
		require.EqualValues(t, 1, a.Stats().Drops[packet.Malformed])
		require.NotNil(t, b.peer(a.public).current.Load())
	})
}
