package testnet_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	src = netip.MustParseAddrPort("10.0.0.1:1000")
	dst = netip.MustParseAddrPort("10.0.0.2:2000")
)

// numbered is a packet that says which one it is.
func numbered(n int) []byte {
	return testnet.UDP(src, dst, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

func number(t *testing.T, d testnet.Datum) int {
	require.Len(t, d.Data, 32)
	return int(binary.BigEndian.Uint32(d.Data[28:]))
}

// inCable runs a test in a bubble with two devices joined by a cable.
func inCable(t *testing.T, config testnet.CableConfig, test func(t *testing.T, a, b *testnet.Device, c *testnet.Cable)) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testnet.NewDevice("a", 1420, 1), testnet.NewDevice("b", 1420, 1)
		c := testnet.NewCable(a, b, config)
		defer func() { require.NoError(t, c.Close()) }()
		test(t, a, b, c)
	})
}

func TestACableHasItsDelayEachWay(t *testing.T) {
	config := testnet.CableConfig{
		AB: testnet.Link{Delay: 30 * time.Millisecond},
		BA: testnet.Link{Delay: 50 * time.Millisecond},
	}
	inCable(t, config, func(t *testing.T, a, b *testnet.Device, _ *testnet.Cable) {
		start := time.Now()
		require.True(t, a.Put(0, numbered(1), 0))
		d, err := b.Take(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, number(t, d))
		require.Equal(t, 30*time.Millisecond, time.Since(start))

		require.True(t, b.Put(0, numbered(2), 0))
		d, err = a.Take(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, number(t, d))
		require.Equal(t, 80*time.Millisecond, time.Since(start))
	})
}

func TestACableHasItsRate(t *testing.T) {
	config := testnet.CableConfig{AB: testnet.Link{Rate: 32 * 8 * 1000}} // a thousand of numbered in a second
	inCable(t, config, func(t *testing.T, a, b *testnet.Device, _ *testnet.Cable) {
		start := time.Now()
		for i := range 500 {
			require.True(t, a.Put(0, numbered(i), 0))
		}
		for i := range 500 {
			d, err := b.Take(t.Context())
			require.NoError(t, err)
			require.Equal(t, i, number(t, d))
		}
		require.Equal(t, 500*time.Millisecond, time.Since(start))
	})
}

// through sends n packets, a millisecond apart, and returns the order in which
// they arrive.
func through(t *testing.T, link testnet.Link, n int) (order []int, stats testnet.LinkStats) {
	inCable(t, testnet.CableConfig{AB: link}, func(t *testing.T, a, b *testnet.Device, c *testnet.Cable) {
		for i := range n {
			require.True(t, a.Put(0, numbered(i), 0))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		for range b.Taken() {
			d, err := b.Take(t.Context())
			require.NoError(t, err)
			order = append(order, number(t, d))
		}
		stats, _ = c.Stats()
	})
	return order, stats
}

func TestACableLosesDoublesAndReorders(t *testing.T) {
	const n = 1000
	for _, test := range []struct {
		name string
		link testnet.Link
		want func(t *testing.T, order []int, stats testnet.LinkStats)
	}{
		{"nothing, and then all arrive in order", testnet.Link{Delay: time.Second, Jitter: time.Second},
			func(t *testing.T, order []int, stats testnet.LinkStats) {
				require.Len(t, order, n)
				require.IsIncreasing(t, order)
			}},
		{"a tenth is lost", testnet.Link{Loss: 0.1},
			func(t *testing.T, order []int, stats testnet.LinkStats) {
				require.IsIncreasing(t, order)
				require.EqualValues(t, n-len(order), stats.Lost)
				require.InDelta(t, n/10, stats.Lost, n/25)
			}},
		{"all are lost", testnet.Link{Loss: 1},
			func(t *testing.T, order []int, _ testnet.LinkStats) { require.Empty(t, order) }},
		{"all arrive twice", testnet.Link{Duplicate: 1},
			func(t *testing.T, order []int, _ testnet.LinkStats) {
				require.Len(t, order, 2*n)
				for i, got := range order {
					require.Equal(t, i/2, got)
				}
			}},
		{"a tenth is overtaken", testnet.Link{Reorder: 0.1, HoldBack: 3500 * time.Microsecond},
			func(t *testing.T, order []int, stats testnet.LinkStats) {
				require.Len(t, order, n)
				late := uint64(0)
				most := -1
				for _, got := range order {
					if got < most {
						late++
						require.LessOrEqual(t, most-got, 3)
					}
					most = max(most, got)
				}
				require.NotZero(t, late)
				require.LessOrEqual(t, late, stats.Reordered)
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			order, stats := through(t, test.link, n)
			require.EqualValues(t, n, stats.Packets)
			test.want(t, order, stats)
			again, _ := through(t, test.link, n)
			require.Equal(t, order, again, "the same once more")
		})
	}
}

func TestLinksCanChange(t *testing.T) {
	inCable(t, testnet.CableConfig{}, func(t *testing.T, a, b *testnet.Device, c *testnet.Cable) {
		c.SetLinks(testnet.Link{Loss: 1}, testnet.Link{})
		require.True(t, a.Put(0, numbered(1), 0))
		synctest.Wait()
		c.SetLinks(testnet.Link{}, testnet.Link{})
		require.True(t, a.Put(0, numbered(2), 0))
		d, err := b.Take(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, number(t, d))
	})
}

func TestSuperpacketsAreCutAndMerged(t *testing.T) {
	for _, merge := range []bool{false, true} {
		t.Run(fmt.Sprintf("merge=%v", merge), func(t *testing.T) {
			config := testnet.CableConfig{AB: testnet.Link{Delay: time.Millisecond}, Merge: merge}
			inCable(t, config, func(t *testing.T, a, b *testnet.Device, c *testnet.Cable) {
				payload := make([]byte, 10_000)
				for i := range payload {
					payload[i] = byte(i)
				}
				whole := testnet.TCP(src, dst, 1, payload)
				require.True(t, a.Put(0, whole, 1000))
				time.Sleep(2 * time.Millisecond)
				stats, _ := c.Stats()
				require.EqualValues(t, 10, stats.Packets, "each segment is a packet to the link")

				segments := b.Taken()
				var got []byte
				for range segments {
					d, err := b.Take(t.Context())
					require.NoError(t, err)
					got = append(got, d.Data[40:]...)
					if merge {
						require.EqualValues(t, 1000, d.Seg)
					} else {
						require.Zero(t, d.Seg)
						require.Len(t, d.Data, 1040)
					}
				}
				require.Equal(t, payload, got)
				require.Equal(t, map[bool]int{false: 10, true: 1}[merge], segments)
			})
		})
	}
}

func TestEveryLaneIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testnet.NewDevice("a", 1420, 3), testnet.NewDevice("b", 1420, 1)
		c := testnet.NewCable(a, b, testnet.CableConfig{})
		for lane := range 3 {
			require.True(t, a.Put(lane, numbered(lane), 0))
		}
		synctest.Wait()
		require.Equal(t, 3, b.Taken())
		require.NoError(t, c.Close())
	})
}

func TestClosingACableClosesItsDevices(t *testing.T) {
	inCable(t, testnet.CableConfig{AB: testnet.Link{Delay: time.Hour}}, func(t *testing.T, a, b *testnet.Device, c *testnet.Cable) {
		require.True(t, a.Put(0, numbered(1), 0)) // is on its way when the cable goes
		synctest.Wait()
		require.NoError(t, c.Close())
		require.True(t, a.Closed())
		require.True(t, b.Closed())
		_, err := b.Take(context.Background())
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
