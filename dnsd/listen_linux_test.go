package dnsd

import (
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSocketsShareAPort(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	conns, err := listenPackets("127.0.0.1:0")
	require.NoError(t, err)
	require.Len(t, conns, 2)
	addr := conns[0].LocalAddr().String()
	require.Equal(t, addr, conns[1].LocalAddr().String())
	for _, c := range conns {
		defer c.Close()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
	}
	// Flows are spread by their ports: of many, some come to each socket.
	for range 64 {
		client, err := net.Dial("udp", addr)
		require.NoError(t, err)
		_, err = client.Write([]byte("x"))
		require.NoError(t, err)
		client.Close()
	}
	for _, c := range conns {
		_, _, err := c.ReadFrom(make([]byte, 1))
		require.NoError(t, err)
	}
	_, err = testServer(t, Config{}).Listen(addr)
	require.Error(t, err, "and no other server may take part")
}
