package netstack

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestBuffersGrowFurtherOverALongPath(t *testing.T) {
	for name, test := range map[string]struct {
		delay      time.Duration // one way
		config     TCP
		set        int // by SetReadBuffer and SetWriteBuffer; 0: not
		recv, send int64
	}{
		"a long path":                     {delay: farRTT / 2, recv: farBuffer, send: farBuffer},
		"a short path":                    {delay: 0},
		"a long path, a buffer to read":   {delay: farRTT / 2, config: TCP{RecvBuffer: defaultRecvBuffer}, send: farBuffer},
		"a long path, a buffer to write":  {delay: farRTT / 2, config: TCP{SendBuffer: defaultSendBuffer}, recv: farBuffer},
		"a long path, sizes that are set": {delay: farRTT / 2, set: 3 << 20, recv: 3 << 20, send: 3 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dialed, accepted := connectOver(t, testnet.Link{Delay: test.delay}, test.config)
			if test.delay == 0 {
				for _, c := range []*tcpConn{dialed, accepted} {
					var info tcpip.TCPInfoOption
					require.Nil(t, c.ep.GetSockOpt(&info))
					if info.RTT >= farRTT {
						t.Skipf("this machine took %v to shake hands with itself", info.RTT)
					}
				}
			}
			for _, c := range []*tcpConn{dialed, accepted} {
				if test.set != 0 {
					require.NoError(t, c.SetReadBuffer(test.set))
					require.NoError(t, c.SetWriteBuffer(test.set))
				}
				options := c.ep.SocketOptions()
				if test.send != 0 {
					require.Equal(t, test.send, options.GetSendBufferSize())
				}
				if test.recv == farBuffer {
					require.EqualValues(t, initialTCPBuffer, options.GetReceiveBufferSize(), "before anything is read")
				}
			}
			transfer(t, dialed, accepted)
			transfer(t, accepted, dialed)
			for _, c := range []*tcpConn{dialed, accepted} {
				options := c.ep.SocketOptions()
				if test.recv != 0 {
					require.Equal(t, test.recv, options.GetReceiveBufferSize())
				} else {
					require.LessOrEqual(t, options.GetReceiveBufferSize(), int64(defaultRecvBuffer))
				}
				if test.send == 0 {
					require.LessOrEqual(t, options.GetSendBufferSize(), int64(defaultSendBuffer))
				}
			}
		})
	}
}

// transfer sends what lets a receive buffer grow, and a little more.
func transfer(t *testing.T, from, to *tcpConn) {
	const size = farRead + 64<<10
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(from, zeros{}, size)
		sent <- err
	}()
	_, err := io.CopyN(io.Discard, to, size)
	require.NoError(t, err)
	require.NoError(t, <-sent)
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
