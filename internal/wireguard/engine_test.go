package wireguard

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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
