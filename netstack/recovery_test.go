package netstack

import (
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// After a link was dead for a moment, everything under way is lost at once. With
// cubic and RACK gVisor then crawled at a few per cent of the link for many
// seconds.
func TestAConnectionRecoversFromABurstOfLosses(t *testing.T) {
	t.Parallel()
	const rate = 50e6
	good := testnet.Link{Delay: 10 * time.Millisecond, Rate: rate, Queue: 256 << 10}
	dead := good
	dead.Loss = 1
	a, err := New(Config{Addrs: []netip.Prefix{addrA4}})
	require.NoError(t, err)
	b, err := New(Config{Addrs: []netip.Prefix{addrB4}})
	require.NoError(t, err)
	cable := testnet.NewCable(a.Device(), b.Device(), testnet.CableConfig{AB: good, BA: good})
	t.Cleanup(func() {
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		cable.Close()
	})
	listener, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	var received atomic.Int64
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			received.Add(int64(n))
		}
	}()
	conn, err := a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(addrB4.Addr(), 80).String())
	require.NoError(t, err)
	go io.Copy(conn, zeros{})

	time.Sleep(time.Second)
	cable.SetLinks(dead, good)
	time.Sleep(30 * time.Millisecond)
	cable.SetLinks(good, good)
	before := received.Load()
	const within = 4 * time.Second
	require.Eventually(t, func() bool {
		return received.Load()-before > int64(rate/8*within.Seconds()/4)
	}, within, 10*time.Millisecond, "a quarter of what the link takes")
}
