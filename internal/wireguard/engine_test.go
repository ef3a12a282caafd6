package wireguard

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestTwoNodesExchangePackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		for i := range uint32(10) {
			a.device.send(datagramTo(a.overlay, b.overlay, i))
		}
		synctest.Wait()
		require.Equal(t, []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, numbers(b.device.received()),
			"what waited for the handshake is delivered in order")
		b.device.send(datagramTo(b.overlay, a.overlay, 77))
		synctest.Wait()
		require.Equal(t, []uint32{77}, numbers(a.device.received()))
		require.EqualValues(t, 10, a.Stats().TxPackets)
		require.EqualValues(t, 10, b.Stats().RxPackets)
		require.Equal(t, a.Peers()[0].TxBytes, b.Peers()[0].RxBytes)
	})
}

func TestBothBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration {
			return []time.Duration{50 * time.Millisecond}
		})
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		time.Sleep(time.Second)
		require.Equal(t, []uint32{1}, numbers(b.device.received()))
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		b.device.send(datagramTo(b.overlay, a.overlay, 4))
		time.Sleep(time.Second)
		require.Equal(t, []uint32{3}, numbers(b.device.received()))
		require.Equal(t, []uint32{4}, numbers(a.device.received()))
	})
}

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
			case 0, 1:
				return nil
			case 2:
				return []time.Duration{delay(), delay(), delay()}
			default:
				return []time.Duration{delay()}
			}
		})
		for round := range uint32(40) {
			a.device.send(datagramTo(a.overlay, b.overlay, round))
			deadline := time.Now().Add(rekeyAttemptTime)
			var got []uint32
			for len(got) == 0 && time.Now().Before(deadline) {
				time.Sleep(100 * time.Millisecond)
				got = numbers(b.device.received())
			}
			require.Equal(t, []uint32{round}, got)
			time.Sleep(4 * time.Minute) // the session ends
		}
	})
}

// A session of three simulated days, with traffic in both directions now and
// then and in bursts, loses nothing and rekeys as often as it should.
func TestDaysOfTrafficLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		ofA, ofB := n.watch(a.transport, typeInitiation), n.watch(b.transport, typeInitiation)
		random := rand.New(rand.NewPCG(3, 4))
		var number uint32
		begin := time.Now()
		for time.Since(begin) < 72*time.Hour {
			from, to := a, b
			if random.IntN(2) == 0 {
				from, to = b, a
			}
			var want []uint32
			for range 1 + random.IntN(5) {
				number++
				want = append(want, number)
				from.device.send(datagramTo(from.overlay, to.overlay, number))
			}
			time.Sleep(100 * time.Millisecond)
			require.Equal(t, want, numbers(to.device.received()), "after %v", time.Since(begin))
			time.Sleep(time.Duration(random.ExpFloat64() * float64(30*time.Second)))
		}
		rekeys := int(72 * time.Hour / rekeyAfterTime)
		initiations := ofA.count() + ofB.count()
		require.Less(t, initiations, rekeys*3/2)
		require.Greater(t, initiations, rekeys/3)
	})
}

func TestRekeyUnderLoadLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration {
			return []time.Duration{20 * time.Millisecond}
		})
		var got, want []uint32
		for i := range uint32(10 * 60 * 20) { // ten minutes, twenty packets a second
			a.device.send(datagramTo(a.overlay, b.overlay, i))
			want = append(want, i)
			time.Sleep(50 * time.Millisecond)
			got = append(got, numbers(b.device.received())...)
		}
		time.Sleep(time.Second)
		got = append(got, numbers(b.device.received())...)
		slices.Sort(got)
		require.Equal(t, want, got)
	})
}

func TestPassiveKeepaliveAnswersDataAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		keepalives := n.watch(b.transport, typeTransport)
		begin := time.Now()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(time.Minute)
		require.Equal(t, 1, keepalives.count())
		keepalive, at := keepalives.at(0)
		require.Len(t, keepalive, sizeTransportMin)
		require.InDelta(t, keepaliveTimeout.Seconds(), at.Sub(begin).Seconds(), 0.1)
	})
}

func TestSilenceAfterSendingBeginsANewHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(30 * time.Second) // the passive keepalive came
		b.transport.Close()          // b falls silent
		initiations := n.watch(a.transport, typeInitiation)
		begin := time.Now()
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		time.Sleep(3 * time.Minute)
		require.Equal(t, maxHandshakeAttempts+2, initiations.count(), "as many attempts as wireguard-go makes")
		_, first := initiations.at(0)
		require.InDelta(t, 15, first.Sub(begin).Seconds(), 0.4)
	})
}

func TestPersistentKeepaliveKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		cfg := b.peerOf()
		cfg.Keepalive = 25 * time.Second
		require.NoError(t, a.SetPeer(cfg))
		keepalives := n.watch(a.transport, typeTransport)
		time.Sleep(10*time.Minute + time.Second)
		require.InDelta(t, 24, keepalives.count(), 6, "one each 25 s, save where a handshake took its place")
		cfg.Keepalive = 0
		require.NoError(t, a.SetPeer(cfg))
		time.Sleep(time.Minute)
		before := keepalives.count()
		time.Sleep(10 * time.Minute)
		require.Equal(t, before, keepalives.count())
	})
}

func TestRoamingOfEitherSideInMidTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		exchange := func(i uint32) {
			a.device.send(datagramTo(a.overlay, b.overlay, i))
			synctest.Wait()
			b.device.send(datagramTo(b.overlay, a.overlay, i))
			synctest.Wait()
			require.Equal(t, []uint32{i}, numbers(b.device.received()))
			require.Equal(t, []uint32{i}, numbers(a.device.received()))
		}
		exchange(1)
		handshake := a.Peers()[0].LastHandshake
		a.transport.move("198.51.100.1:1111")
		exchange(2)
		require.Equal(t, "198.51.100.1:1111", b.Peers()[0].Endpoint.String())
		b.transport.move("[2001:db8::2]:2222")
		b.device.send(datagramTo(b.overlay, a.overlay, 9)) // the one who moved speaks first
		synctest.Wait()
		require.Equal(t, []uint32{9}, numbers(a.device.received()))
		exchange(3)
		require.Equal(t, "[2001:db8::2]:2222", a.Peers()[0].Endpoint.String())
		require.Equal(t, handshake, a.Peers()[0].LastHandshake, "roaming needs no handshake")
	})
}

func TestAnUpdateNeverDropsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		before := a.Peers()[0]

		time.Sleep(time.Second)
		cfg := b.peerOf()
		cfg.AllowedIPs = append(cfg.AllowedIPs, netip.MustParsePrefix("10.9.0.0/16"))
		cfg.Endpoint = netip.AddrPort{}
		require.NoError(t, a.SetPeer(cfg))
		require.NoError(t, a.SetPeers([]Peer{cfg}))
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		after := a.Peers()[0]
		require.Equal(t, before.LastHandshake, after.LastHandshake)
		require.Equal(t, before.Endpoint, after.Endpoint)
		require.Len(t, after.AllowedIPs, 2)

		require.True(t, a.RemovePeer(b.public))
		require.False(t, a.RemovePeer(b.public))
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		synctest.Wait()
		require.Empty(t, b.device.received())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoPeer])
	})
}

func TestHostileDatagramsAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		captured := n.watch(a.transport, typeTransport)
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		answers := n.watch(b.transport, 0)
		good, _ := captured.at(captured.count() - 1)
		stranger := netip.MustParseAddrPort("203.0.113.9:9")
		count := func(why packet.Reason, what string, datagram []byte) {
			before := b.Stats().Drops[why]
			n.deliver(append([]byte(nil), datagram...), stranger, b.transport.address(), 0)
			synctest.Wait()
			require.Equal(t, before+1, b.Stats().Drops[why], what)
			require.Empty(t, b.device.received(), what)
			require.Equal(t, a.transport.address(), b.Peers()[0].Endpoint, what)
		}
		edit := func(change func(d []byte) []byte) []byte { return change(append([]byte(nil), good...)) }

		count(packet.Replayed, "replayed", good)
		count(packet.Unauthentic, "truncated", edit(func(d []byte) []byte { return d[:len(d)-1] }))
		count(packet.Unauthentic, "oversized", edit(func(d []byte) []byte { return append(d, make([]byte, 3000)...) }))
		count(packet.Unauthentic, "its last bit flipped", edit(func(d []byte) []byte { d[len(d)-1] ^= 1; return d }))
		count(packet.Unauthentic, "another counter", edit(func(d []byte) []byte { d[8]++; return d }))
		count(packet.UnknownIndex, "another index", edit(func(d []byte) []byte { d[4] ^= 1; return d }))
		count(packet.Malformed, "another type", edit(func(d []byte) []byte { d[0] = 9; return d }))
		count(packet.Malformed, "a reserved byte", edit(func(d []byte) []byte { d[1] = 9; return d }))
		count(packet.Malformed, "shorter than any message", good[:10])
		count(packet.Unauthentic, "an initiation of noise", append([]byte{typeInitiation, 0, 0, 0}, make([]byte, sizeInitiation-4)...))
		count(packet.Malformed, "an initiation of the wrong size", append([]byte{typeInitiation, 0, 0, 0}, make([]byte, sizeInitiation)...))
		require.Zero(t, answers.count(), "strangers are met with silence")

		time.Sleep(rejectAfterTime + time.Second)
		count(packet.Expired, "stale", edit(func(d []byte) []byte { d[8] += 100; return d }))
	})
}

func TestSourcesOutsideAllowedIPsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(netip.MustParseAddr("10.0.0.66"), b.overlay, 1))
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Equal(t, []uint32{2}, numbers(b.device.received()))
		require.EqualValues(t, 1, b.Stats().Drops[packet.NotAllowed])
		require.EqualValues(t, 1, b.Stats().RxPackets)
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

func TestKeysAreForgottenAfterNineMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		p := a.peer(b.public)
		s := p.current.Load()
		require.NotNil(t, s)
		s.sending.RLock()
		send := s.send
		s.sending.RUnlock()
		b.close()
		time.Sleep(forgetKeysAfter + time.Minute)
		synctest.Wait()
		require.Nil(t, p.current.Load())
		s.sending.RLock()
		require.Nil(t, s.send)
		s.sending.RUnlock()
		zero, err := newSession(p, &transportKeys{}, 1, 2, true, 0)
		require.NoError(t, err)
		nonce := make([]byte, 12)
		require.Equal(t, zero.send.Seal(nil, nonce, []byte("x"), nil), send.Seal(nil, nonce, []byte("x"), nil),
			"the cipher's key is all zero")
		require.Nil(t, a.sessions.session(s.local))
	})
}

func TestCountersAtTheirEndReplaceTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(10 * time.Second)
		require.Len(t, b.device.received(), 1)
		first := a.peer(b.public).current.Load()
		first.counter.Store(rekeyAfterMessages + 1)
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		second := a.peer(b.public).current.Load()
		require.NotSame(t, first, second)

		time.Sleep(10 * time.Second)
		second.counter.Store(rejectAfterMessages)
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		synctest.Wait()
		require.Equal(t, []uint32{3}, numbers(b.device.received()), "it waited for a new session")
		require.NotSame(t, second, a.peer(b.public).current.Load())
	})
}

func TestCongestionMarksCrossTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		speaks := datagramTo(a.overlay, b.overlay, 1)
		speaks[1] = 2 // ECT(0)
		updateChecksum(speaks[10:12], 0x4500, 0x4502)
		a.device.send(datagramTo(a.overlay, b.overlay, 0))
		synctest.Wait()
		b.device.received()
		sent := n.watch(a.transport, typeTransport)
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil })
		mark := func(p []byte) [][]byte {
			a.device.send(p)
			synctest.Wait()
			last, _ := sent.at(sent.count() - 1)
			n.deliver(last, a.transport.address(), b.transport.address(), congestionExperienced)
			synctest.Wait()
			return b.device.received()
		}
		got := mark(speaks)
		require.Len(t, got, 1)
		require.EqualValues(t, congestionExperienced, got[0][1]&3)
		require.Zero(t, headerSum(got[0][:20]))
		require.Empty(t, mark(datagramTo(a.overlay, b.overlay, 2)), "who does not speak ECN sees a loss (RFC 6040)")
		require.EqualValues(t, 1, b.Stats().Drops[packet.Congested])
	})
}

func headerSum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
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

func TestPacketsNobodyTakesAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		nowhere := netip.MustParseAddr("10.0.0.99")
		refusals := func() (count int) {
			synctest.Wait()
			for _, answer := range a.device.received() {
				var p packet.Packet
				p.Set(answer, 0)
				require.EqualValues(t, packet.ProtocolICMP, p.Protocol())
				require.Equal(t, []byte{3, 1}, p.Transport()[:2], "host unreachable")
				require.Equal(t, nowhere, p.SrcAddr())
				require.Equal(t, a.overlay, p.DstAddr())
				require.True(t, p.ChecksumOK())
				count++
			}
			return count
		}
		a.device.send(datagramTo(a.overlay, nowhere, 1))
		require.Equal(t, 1, refusals())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoPeer])

		time.Sleep(time.Second)
		for i := range uint32(500) {
			a.device.send(datagramTo(a.overlay, nowhere, i))
		}
		require.Equal(t, 50, refusals(), "no more in one moment")

		_, key := newTestKeys(t)
		require.NoError(t, a.SetPeer(Peer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(nowhere, 32)}}))
		time.Sleep(time.Second)
		a.device.send(datagramTo(a.overlay, nowhere, 1))
		require.Equal(t, 1, refusals())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoEndpoint])
	})
}
