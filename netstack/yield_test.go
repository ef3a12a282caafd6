package netstack

import (
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestAReaderOfUDPKeepsUpWithADeviceThatNeverPauses(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // whoever runs, nobody else does
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	conn := listenPacket(t, s, "udp", ":7000")
	var got atomic.Int64
	go func() {
		buf := make([]byte, 2000)
		for {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				return
			}
			got.Add(1)
		}
	}()
	datagram := testnet.UDP(netip.AddrPortFrom(addrB4.Addr(), 7000), netip.AddrPortFrom(addrA4.Addr(), 7000), make([]byte, 1200))
	const batches, each = 64, 32 // nine times what the socket's buffer holds
	batch := packet.NewBatch(0)
	for range batches {
		batch.Reset()
		for range each {
			batch.Append(append(make([]byte, 0, 1500+packet.Slack), datagram...), 0)
		}
		require.NoError(t, s.Device().WriteBatch(batch))
	}
	require.Eventually(t, func() bool { return got.Load() > batches*each*3/4 }, 30*time.Second, time.Millisecond)
}
