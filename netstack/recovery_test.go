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
// seconds. How much the link takes on this machine, another connection tells, over
// one that never was dead.
func TestAConnectionRecoversFromABurstOfLosses(t *testing.T) {
	t.Parallel()
	const rate = 50e6
	good := testnet.Link{Delay: 10 * time.Millisecond, Rate: rate, Queue: 256 << 10}
	dead := good
	dead.Loss = 1
	cable, received := stream(t, good)
	_, other := stream(t, good)

	time.Sleep(time.Second)
	cable.SetLinks(dead, good)
	time.Sleep(30 * time.Millisecond)
	cable.SetLinks(good, good)
	before, otherBefore := received.Load(), other.Load()
	const enough = int64(rate / 8 * 4) // bytes, in four seconds if nothing else is slower
	require.Eventually(t, func() bool { return other.Load()-otherBefore > enough }, time.Minute, time.Millisecond)
	require.Greater(t, received.Load()-before, enough/4, "of %d", enough)
}

// stream sends all that a cable takes, and counts what is received.
func stream(t *testing.T, link testnet.Link) (*testnet.Cable, *atomic.Int64) {
	a, err := New(Config{Addrs: []netip.Prefix{addrA4}})
	require.NoError(t, err)
	b, err := New(Config{Addrs: []netip.Prefix{addrB4}})
	require.NoError(t, err)
	cable := testnet.NewCable(a.Device(), b.Device(), testnet.CableConfig{AB: link, BA: link})
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
	return cable, &received
}
