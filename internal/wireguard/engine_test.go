package wireguard

import (
	"math/rand/v2"
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
