package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func option(t *testing.T, s *Socket, level, name int) (value int) {
	t.Helper()
	var err error
	require.NoError(t, s.t.(*batch).raw.Control(func(fd uintptr) {
		value, err = unix.GetsockoptInt(int(fd), level, name)
	}))
	require.NoError(t, err)
	return value
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

func TestAThousandOpeningsLeakNoDescriptor(t *testing.T) {
	c := start(t, Config{}, openBatch) // what the runtime opens for good is open now
	before := descriptors(t)
	for i := range 1000 {
		switch {
		case i%10 == 0: // a failure leaks none either
			_, err := Listen(Config{Port: c.Port(), Lanes: 2})
			require.ErrorIs(t, err, unix.EADDRINUSE)
		default:
			c, err := Listen(Config{Lanes: 1 + i%2})
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
	}
	require.LessOrEqual(t, descriptors(t), before)
}

func TestLanesShareThePortAndEachFlowStaysOnOne(t *testing.T) {
	const lanes, flows = 3, 60
	c := start(t, Config{Lanes: lanes}, openBatch)
	require.Len(t, c.lanes, lanes)
	local := netip.MustParseAddr("127.0.0.1")

	type arrival struct {
		lane int
		from netip.AddrPort
	}
	arrivals := make(chan arrival, 2*flows)
	var running sync.WaitGroup
	seen := map[int]int{}
	for _, s := range c.Sockets() {
		require.Equal(t, c.Port(), s.t.port())
		seen[s.Lane()]++
		running.Go(func() {
			ms := make([]Message, 8)
			for {
				n, err := s.Receive(ms)
				if err != nil {
					return
				}
				for _, m := range ms[:n] {
					arrivals <- arrival{s.Lane(), m.Endpoint.Addr}
				}
			}
		})
	}
	families := len(c.Sockets()) / lanes
	require.Equal(t, map[int]int{0: families, 1: families, 2: families}, seen)

	laneOf := map[netip.AddrPort]int{}
	used := map[int]bool{}
	var senders []*net.UDPConn
	for range flows {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: local.AsSlice()})
		require.NoError(t, err)
		defer u.Close()
		senders = append(senders, u)
	}
	for range 2 {
		for _, u := range senders {
			_, err := u.WriteToUDPAddrPort(datagrams(32, 32), netip.AddrPortFrom(local, c.Port()))
			require.NoError(t, err)
		}
	}
	for range 2 * flows {
		select {
		case a := <-arrivals:
			used[a.lane] = true
			if lane, ok := laneOf[a.from]; ok {
				require.Equal(t, lane, a.lane)
			}
			laneOf[a.from] = a.lane
		case <-time.After(30 * time.Second):
			t.Fatal("datagrams are lost")
		}
	}
	require.Len(t, laneOf, flows)
	require.Len(t, used, lanes)
	require.NoError(t, c.Close())
	running.Wait()
}

func TestTheMarkIsSetOnEverySocket(t *testing.T) {
	c, err := Listen(Config{FwMark: 0xCAFE, Lanes: 2})
	if os.Geteuid() != 0 && errors.Is(err, unix.EPERM) {
		require.ErrorContains(t, err, "0xcafe")
		require.ErrorContains(t, err, "CAP_NET_ADMIN")
		t.Skip("marks need CAP_NET_ADMIN")
	}
	require.NoError(t, err)
	defer c.Close()
	for _, mark := range []uint32{0xCAFE, 0xFFFFFFFF, 0} {
		require.NoError(t, c.SetFwMark(mark))
		for _, s := range c.Sockets() {
			require.Equal(t, mark, uint32(option(t, s, unix.SOL_SOCKET, unix.SO_MARK)))
		}
	}
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.SetFwMark(1), net.ErrClosed)
}

func TestWithoutMarksOnlyZeroIsAccepted(t *testing.T) {
	c := start(t, Config{}, openPlain)
	require.NoError(t, c.SetFwMark(0))
	require.ErrorIs(t, c.SetFwMark(1), errors.ErrUnsupported)
	_, err := listen(Config{FwMark: 1}, openPlain)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestSocketsAskForLargeBuffers(t *testing.T) {
	c := start(t, Config{}, openBatch)
	want := 2 * socketBuffer // the kernel doubles it, for its own bookkeeping (socket(7))
	for _, s := range c.Sockets() {
		for _, name := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			got := option(t, s, unix.SOL_SOCKET, name)
			if os.Geteuid() == 0 {
				require.Equal(t, want, got)
			} else {
				require.Positive(t, got) // up to net.core.{r,w}mem_max
			}
		}
	}
}
