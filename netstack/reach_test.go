package netstack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestBuffersMayGrowFurtherOverALongPath(t *testing.T) {
	const long = farRTT / 2
	for name, test := range map[string]struct {
		delay      time.Duration // one way
		config     TCP
		set        int // by SetReadBuffer and SetWriteBuffer; 0: not
		recv, send int64
	}{
		"a long path":                     {delay: long, recv: farBuffer, send: farBuffer},
		"a short path":                    {recv: initialTCPBuffer, send: initialTCPBuffer},
		"a long path, a buffer to read":   {delay: long, config: TCP{RecvBuffer: defaultRecvBuffer}, recv: initialTCPBuffer, send: farBuffer},
		"a long path, a buffer to write":  {delay: long, config: TCP{SendBuffer: defaultSendBuffer}, recv: farBuffer, send: initialTCPBuffer},
		"a long path, sizes that are set": {delay: long, set: 3 << 20, recv: 3 << 20, send: 3 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dialed, accepted := connectOver(t, testnet.Link{Delay: test.delay}, test.config)
			for _, c := range []*tcpConn{dialed, accepted} {
				var info tcpip.TCPInfoOption
				require.Nil(t, c.ep.GetSockOpt(&info))
				if test.delay == 0 && info.RTT >= farRTT {
					t.Skipf("this machine took %v to shake hands with itself", info.RTT)
				}
				options := c.ep.SocketOptions()
				require.EqualValues(t, initialTCPBuffer, options.GetReceiveBufferSize(), "before anything is read")
				if test.set != 0 {
					require.NoError(t, c.SetReadBuffer(test.set))
					require.NoError(t, c.SetWriteBuffer(test.set))
				}
				c.moderate(1 << 40) // in the time since the epoch
				c.buffer.gauge.since = time.Now().Add(-gaugedTrips * time.Second)
				c.moderate(1 << 40)
				require.Equal(t, test.recv, options.GetReceiveBufferSize())
				require.Equal(t, test.send, options.GetSendBufferSize())
			}
		})
	}
}

func TestAGaugeTellsAWindowFromALink(t *testing.T) {
	const rtt = 66 * time.Millisecond
	for name, test := range map[string]struct {
		read int // every millisecond
		full bool
	}{
		"a window every round trip":         {read: defaultRecvBuffer / 2 * 98 / 100 / 66, full: true},
		"a link that takes 0.8 of a window": {read: defaultRecvBuffer / 2 * 80 / 100 / 66},
		"next to nothing":                   {read: 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := gauge{rtt: rtt}
			full := 0
			for i := range 1000 {
				if g.full(time.Unix(0, int64(i)*int64(time.Millisecond)), test.read) {
					full++
				}
			}
			if test.full {
				require.Equal(t, 3, full, "in 15 round trips")
			} else {
				require.Zero(t, full)
			}
		})
	}
}

// connectOver makes a connection over a link that is the same both ways.
func connectOver(t *testing.T, link testnet.Link, config TCP) (dialed, accepted *tcpConn) {
	a, err := New(Config{Addrs: []netip.Prefix{addrA4}, TCP: config})
	require.NoError(t, err)
	b, err := New(Config{Addrs: []netip.Prefix{addrB4}, TCP: config})
	require.NoError(t, err)
	cable := testnet.NewCable(a.Device(), b.Device(), testnet.CableConfig{AB: link, BA: link})
	t.Cleanup(func() {
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		cable.Close()
	})
	c1, c2 := connect(t, a, b, "tcp4", addrB4.Addr().String())
	return c1.(*tcpConn), c2.(*tcpConn)
}
