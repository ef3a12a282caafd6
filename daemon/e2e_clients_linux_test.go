package daemon_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

func TestE2EBadClientsNeitherStallNorGrowTheDaemon(t *testing.T) {
	h := startHost(t)
	everything(t, h)
	before := h.usage()
	var conns []net.Conn
	open := func() net.Conn {
		conn, err := net.Dial("unix", h.order.Endpoint)
		if err != nil {
			return nil
		}
		conns = append(conns, conn)
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		return conn
	}
	// Some announce the largest body and send a byte of it, some half a length, some
	// nothing, some what is no frame.
	prefix := binary.LittleEndian.AppendUint32(nil, wire.MaxFrame)
	noise := make([]byte, 4096)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(noise)
	for range 25 {
		for _, what := range [][]byte{append(slices.Clone(prefix), '{'), prefix[:2], nil, noise} {
			if conn := open(); conn != nil {
				conn.Write(what)
			}
		}
	}
	// Some subscribe and ask, and never read.
	var floods sync.WaitGroup
	subscribe := `{"frame":"request","id":1,"request":{"op":"subscribe_events"}}`
	list := `{"frame":"request","id":2,"request":{"op":"list_leases"}}`
	var flood []byte
	for _, body := range append([]string{subscribe}, slices.Repeat([]string{list}, 2000)...) {
		flood = append(binary.LittleEndian.AppendUint32(flood, uint32(len(body))), body...)
	}
	for range 4 {
		if conn := open(); conn != nil {
			floods.Go(func() { conn.Write(flood) }) // until the daemon no longer reads, or hangs up
		}
	}

	asked := askStatus(t, h)
	c := newContainer(t, "c")
	for range 5 {
		h.attach(c, "web", true)
		h.detach(c)
	}
	status := asked()
	slices.Sort(status)
	during := h.usage()
	t.Logf("with %d bad connections: status p50 %v, p99 %v of %d; RSS %.1f MB instead of %.1f", len(conns),
		status[len(status)/2], status[len(status)*99/100], len(status), float64(during.rss)/1e6, float64(before.rss)/1e6)
	require.Less(t, status[len(status)-1], 10*time.Second, "the time that a client has to end a frame, and to read")
	if !raced() {
		require.Less(t, float64(during.rss-before.rss), 50e6, "what bad clients made the daemon grow by")
	}

	for _, conn := range conns {
		conn.Close()
	}
	floods.Wait()
	requireNoMore(t, h, before)
}

func TestE2ETheLargestFrameIsReadAndALargerOneIsNot(t *testing.T) {
	h := startHost(t)
	conn := h.plain()
	head, tail := `{"frame":"request","id":1,"request":{"op":"status","padding":"`, `"}}`
	conn.send(head + strings.Repeat("x", wire.MaxFrame-len(head)-len(tail)) + tail)
	require.IsType(t, wire.Status{}, conn.receive().Response)

	_, err := conn.Write(binary.LittleEndian.AppendUint32(nil, wire.MaxFrame+1))
	require.NoError(t, err)
	answer := conn.receive()
	require.Zero(t, answer.ID)
	e, ok := answer.Response.(wire.Err)
	require.True(t, ok)
	require.Equal(t, wire.FrameTooLarge, e.Code)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "the connection is closed")
	require.NoError(t, h.dial())
}
