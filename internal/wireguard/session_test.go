package wireguard

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// A lossyLink loses, delays, reorders and doubles datagrams, and remembers which
// packets it lost: those of each side, one after another in the order sent, carry
// the numbers from 0 on.
type lossyLink struct {
	random *rand.Rand
	begin  time.Time
	sent   map[netip.AddrPort]uint32
	lost   map[netip.AddrPort][]uint32
}

func (l *lossyLink) fate(d []byte, from, _ netip.AddrPort) []time.Duration {
	var delays []time.Duration
	for range []int{1, 1, 1, 1, 1, 1, 1, 1, 2, 0}[l.random.IntN(10)] {
		delays = append(delays, time.Duration(1+l.random.IntN(80))*time.Millisecond)
	}
	if delays == nil && messageType(d) != typeTransport && time.Since(l.begin) < time.Second {
		delays = append(delays, 0) // more would come until the second attempt than can wait
	}
	if messageType(d) == typeTransport && len(d) > sizeTransportMin {
		if delays == nil {
			l.lost[from] = append(l.lost[from], l.sent[from])
		}
		l.sent[from]++
	}
	return delays
}

// Traffic in both directions goes on while keys change, on a bad link: what the
// link did not lose arrives, once.
func TestRekeyUnderLoadLosesNoMoreThanTheLink(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) { requireNoLossButTheLinks(t, seed) })
	}
}

func requireNoLossButTheLinks(t *testing.T, seed uint64) {
	n, a, b := newPair(t)
	defer a.close()
	defer b.close()
	l := lossyLink{
		random: rand.New(rand.NewPCG(5, seed)),
		begin:  time.Now(),
		sent:   make(map[netip.AddrPort]uint32),
		lost:   make(map[netip.AddrPort][]uint32),
	}
	n.setFate(l.fate)
	const seconds, rate = 260, 25
	var atA, atB []uint32
	for i := range uint32(seconds * rate) {
		a.device.send(datagramTo(a.overlay, b.overlay, i))
		b.device.send(datagramTo(b.overlay, a.overlay, i))
		time.Sleep(time.Second / rate)
		atA = append(atA, numbers(a.device.received())...)
		atB = append(atB, numbers(b.device.received())...)
	}
	time.Sleep(time.Second)
	atA = append(atA, numbers(a.device.received())...)
	atB = append(atB, numbers(b.device.received())...)
	for _, side := range []struct {
		from *testNode
		at   []uint32
	}{{a, atB}, {b, atA}} {
		lost := l.lost[side.from.transport.address()]
		require.EqualValues(t, seconds*rate, l.sent[side.from.transport.address()])
		require.Greater(t, len(lost), seconds*rate/20)
		all := append(side.at, lost...)
		slices.Sort(all)
		require.Equal(t, seconds*rate, len(all), "seed %d", seed)
		require.Equal(t, seconds*rate, len(slices.Compact(all)))
		handshake := side.from.Peers()[0].LastHandshake
		require.Less(t, time.Since(handshake), rekeyAfterTime+4*rekeyTimeout)

		drops := side.from.Stats().Drops
		drops[packet.Replayed] = 0    // the second of two copies
		drops[packet.Unauthentic] = 0 // of a handshake message
		require.Zero(t, drops)
	}
}

// While keys change there are several sessions at once. A packet arrives if it was
// sealed with the next, the current or one of the two before it; with an older one
// it does not.
func TestPacketsArriveOnAnyOfFourSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		late := func(from *testNode, to *testNode, i uint32) (deliver func()) {
			kept := n.watch(from.transport, typeTransport)
			n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil })
			from.device.send(datagramTo(from.overlay, to.overlay, i))
			synctest.Wait()
			n.setFate(nil)
			require.Equal(t, 1, kept.count())
			d, _ := kept.at(0)
			return func() {
				n.deliver(bytes.Clone(d), from.transport.address(), to.transport.address(), 0)
				synctest.Wait()
			}
		}
		rekey := func(by, with *testNode, confirmed bool) {
			time.Sleep(rekeyTimeout)
			n.setFate(func(d []byte, _, _ netip.AddrPort) []time.Duration {
				if messageType(d) == typeTransport && !confirmed {
					return nil
				}
				return []time.Duration{0}
			})
			p := by.peer(with.public)
			before := p.current.Load()
			p.requestInitiation(by.now())
			synctest.Wait()
			n.setFate(nil)
			require.NotSame(t, before, p.current.Load())
		}
		arrives := func(at *testNode, number uint32, deliver func()) {
			deliver()
			require.Equal(t, []uint32{number}, numbers(at.device.received()))
		}
		a.device.send(datagramTo(a.overlay, b.overlay, 0))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)

		// The first session, then a second by a, then a third by a, which b may not
		// use yet.
		fromA1, fromA1Again, fromB1 := late(a, b, 10), late(a, b, 11), late(b, a, 10)
		rekey(a, b, true)
		fromA2, fromA2Again, fromB2 := late(a, b, 20), late(a, b, 21), late(b, a, 20)
		rekey(a, b, false)
		fromB2Again := late(b, a, 21) // still
		fromA3, fromA3Again := late(a, b, 30), late(a, b, 31)
		p := b.peer(a.public)
		require.NotNil(t, p.next.Load())
		arrives(b, 20, fromA2)
		arrives(b, 10, fromA1)
		require.NotNil(t, p.next.Load())
		arrives(b, 30, fromA3)
		require.Nil(t, p.next.Load(), "which confirms the third")
		arrives(a, 20, fromB2)
		arrives(a, 10, fromB1)

		// Then a fourth, by b.
		fromB3 := late(b, a, 30)
		rekey(b, a, true)
		arrives(a, 30, fromB3)
		arrives(a, 21, fromB2Again)
		arrives(b, 31, fromA3Again)
		arrives(b, 21, fromA2Again)
		fromA1Again()
		require.Empty(t, b.device.received())
		require.EqualValues(t, 1, b.Stats().Drops[packet.UnknownIndex])
	})
}

// A peer that starts anew right after a handshake is reached as soon as it has made
// its own, whichever of the two keys is larger.
func TestAPeerThatStartsAnewIsReached(t *testing.T) {
	for range 4 { // two random keys each
		synctest.Test(t, func(t *testing.T) {
			n, a, b := newPair(t)
			defer a.close()
			a.device.send(datagramTo(a.overlay, b.overlay, 1))
			time.Sleep(300 * time.Millisecond)
			require.Len(t, b.device.received(), 1)
			addr := b.transport.address().String()
			b.close()
			anew := newTestNode(t, n, addr, "10.0.0.2", func(c *Config) { c.PrivateKey = b.private })
			defer anew.close()
			require.NoError(t, anew.SetPeer(a.peerOf()))
			var got []uint32
			for i := uint32(0); len(got) == 0; i++ {
				require.Less(t, i, uint32(10))
				anew.device.send(datagramTo(anew.overlay, a.overlay, i))
				time.Sleep(100 * time.Millisecond)
				require.Equal(t, []uint32{i}, numbers(a.device.received()))
				a.device.send(datagramTo(a.overlay, anew.overlay, i))
				time.Sleep(100 * time.Millisecond)
				got = numbers(anew.device.received())
			}
		})
	}
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
