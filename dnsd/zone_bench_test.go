package dnsd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// bigZone has n names, each with an address of its own and so a PTR record.
func bigZone(tb testing.TB, n int) *Zone {
	z, err := NewZone(ZoneConfig{
		Origin:  "overlay.internal",
		Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	require.NoError(tb, err)
	require.NoError(tb, z.Update(func(tx *Tx) error {
		for i := range n {
			if err := tx.Add(Record{Name: fmt.Sprintf("host-%d", i), Data: Address(tenNet(i))}); err != nil {
				return err
			}
		}
		return nil
	}))
	return z
}

func tenNet(i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24+uint32(i))
	return netip.AddrFrom4(a)
}

// BenchmarkZoneChange is one transaction that moves a name to another address,
// in a zone that is being read all the while.
func BenchmarkZoneChange(b *testing.B) {
	for _, names := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			z := bigZone(b, names)
			runtime.GC()
			runtime.ReadMemStats(&after)

			asked := make([][]byte, 1000)
			for i := range asked {
				wire, err := packName(fmt.Sprintf("host-%d", i*7919%names), z.origin)
				require.NoError(b, err)
				asked[i] = []byte(wire)
			}
			var stop atomic.Bool
			reads := 0
			done := make(chan struct{})
			go func() {
				defer close(done)
				var n name
				for ; !stop.Load(); reads++ {
					n.read(asked[reads%len(asked)])
					if o, _ := z.now.Load().match(&n); o == nil {
						panic("a name is gone")
					}
				}
			}()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				err := z.SetAddresses(fmt.Sprintf("host-%d", i*7919%names), tenNet(names+i%names))
				if err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			stop.Store(true)
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
			b.ReportMetric(float64(reads)/b.Elapsed().Seconds(), "reads/s")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(names), "B/name")
		})
	}
}
