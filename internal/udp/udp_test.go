package udp

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modes are the ways a system can move datagrams; each must pass the same tests.
var modes = map[string]opener{"system": systemOpener(), "plain": openPlain}

// eachMode runs a test in every mode and family.
func eachMode(t *testing.T, f func(t *testing.T, open opener, local netip.Addr)) {
	for name, open := range modes {
		for _, local := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			t.Run(fmt.Sprintf("%s to %s", name, local), func(t *testing.T) {
				f(t, open, local)
			})
		}
	}
}

func start(t testing.TB, cfg Config, open opener) *Conn {
	t.Helper()
	c, err := listen(cfg, open)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// socketFor is the socket of lane 0 that datagrams to local reach.
func socketFor(t testing.TB, c *Conn, local netip.Addr) *Socket {
	t.Helper()
	if probe, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))); err != nil {
		t.Skipf("the host has no address %v: %v", local, err)
	} else {
		probe.Close()
	}
	for _, s := range c.Sockets() {
		if s.t == c.lanes[0].of(local.Is6()) {
			return s
		}
	}
	t.Skipf("the host has no socket for %v", local)
	return nil
}

// datagrams makes a run of WireGuard-shaped datagrams with total bytes, each
// numbered.
func datagrams(total, seg int) []byte {
	b := make([]byte, total)
	for at, i := 0, 0; at < total; at, i = at+seg, i+1 {
		copy(b[at:], []byte{4, 0, 0, 0, byte(i), byte(i >> 8), 0xAA, 0xBB})
	}
	return b
}

// collect receives until it has n datagrams, and returns a copy of each and the
// last endpoint.
func collect(t testing.TB, s *Socket, n int) (got [][]byte, from Endpoint) {
	t.Helper()
	late := time.AfterFunc(30*time.Second, func() { s.conn.Close() })
	defer late.Stop()
	ms := make([]Message, 16)
	for len(got) < n {
		k, err := s.Receive(ms)
		require.NoError(t, err, "%d of %d datagrams came", len(got), n)
		for _, m := range ms[:k] {
			require.Positive(t, m.Seg)
			require.NoError(t, m.Err)
			for data := m.Data; len(data) > 0; {
				size := min(m.Seg, len(data))
				got = append(got, append([]byte(nil), data[:size]...))
				data = data[size:]
			}
			from = m.Endpoint
		}
	}
	return got, from
}

func TestRunsArriveAsTheyWereSent(t *testing.T) {
	type run struct{ total, seg int }
	tests := map[string]run{
		"one datagram":                     {148, 0},
		"one datagram with its own length": {148, 148},
		"a segment longer than the data":   {92, 1000},
		"two equal":                        {64, 32},
		"a short tail":                     {1452*10 + 33, 1452},
		"64 segments":                      {64 * 100, 100},
		"65 segments":                      {65 * 100, 100},
		"200 small segments":               {200*32 - 5, 32},
		"more than 64 KiB":                 {1452*100 + 700, 1452},
		"a tail of four after a full part": {1452*45 + 4, 1452},
	}
	if sendsLargest {
		maps.Copy(tests, map[string]run{
			"segments of over half the maximum":   {40000 * 3, 40000},
			"the largest datagram":                {65507, 0},
			"segments of the largest datagram":    {65507 * 2, 65507},
			"two that only IPv6 takes in one run": {32763 * 2, 32763},
		})
	}
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				a, b := start(t, Config{}, open), start(t, Config{}, open)
				s := socketFor(t, b, local)
				data := datagrams(test.total, max(test.seg, 1))
				if test.seg == 0 {
					data = datagrams(test.total, test.total)
				}
				ms := []Message{{Data: data, Seg: test.seg, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}}
				sent, err := a.Send(0, ms)
				require.NoError(t, err)
				require.Equal(t, 1, sent)

				seg := test.seg
				if seg == 0 || seg > test.total {
					seg = test.total
				}
				n := (test.total + seg - 1) / seg
				got, from := collect(t, s, n)
				require.Len(t, got, n)
				require.Equal(t, netip.AddrPortFrom(local, a.Port()), from.Addr)
				for i, d := range got {
					want := data[i*seg : min((i+1)*seg, len(data))]
					require.Equal(t, want, d, "datagram %d", i)
				}
			})
		}
	})
}

func TestPortInUseIsNamed(t *testing.T) {
	for name, open := range modes {
		for _, lanes := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s with %d lanes", name, lanes), func(t *testing.T) {
				a := start(t, Config{Lanes: lanes}, open)
				_, err := listen(Config{Port: a.Port(), Lanes: lanes}, open)
				var taken *PortError
				require.ErrorAs(t, err, &taken)
				require.Equal(t, a.Port(), taken.Port)
				require.ErrorIs(t, err, syscall.EADDRINUSE)
				require.ErrorContains(t, err, fmt.Sprint(a.Port()))
			})
		}
	}
}

func TestPortZeroIsTheSameInBothFamilies(t *testing.T) {
	for name, open := range modes {
		t.Run(name, func(t *testing.T) {
			c := start(t, Config{}, open)
			require.NotZero(t, c.Port())
			require.NotEmpty(t, c.Sockets())
			for _, s := range c.Sockets() {
				require.Equal(t, c.Port(), s.t.port())
				require.Zero(t, s.Lane())
			}
		})
	}
}

func TestCloseFreesThePort(t *testing.T) {
	for name, open := range modes {
		t.Run(name, func(t *testing.T) {
			c := start(t, Config{}, open)
			require.NoError(t, c.Close())
			again := start(t, Config{Port: c.Port()}, open)
			require.Equal(t, c.Port(), again.Port())
		})
	}
}

func TestStrangersWithinARunGoToTheHook(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		stun := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 12)...)
		var hooked [][]byte
		var from netip.AddrPort
		a := start(t, Config{}, open)
		b := start(t, Config{Hook: func(d []byte, f netip.AddrPort) bool {
			hooked, from = append(hooked, bytes.Clone(d)), f
			return true
		}}, open)
		s := socketFor(t, b, local)
		data := slices.Concat(datagrams(40, 20), stun, datagrams(60, 20), stun, stun, datagrams(13, 20))
		sent, err := a.Send(0, []Message{{Data: data, Seg: 20, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}})
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		got, _ := collect(t, s, 6)
		same(t, [][]byte{data[:20], data[20:40], data[60:80], data[80:100], data[100:120], data[160:]}, got)
		same(t, [][]byte{stun, stun, stun}, hooked)
		require.Equal(t, netip.AddrPortFrom(local, a.Port()), from)
		require.Equal(t, Stats{}, b.Stats())
	})
}

func TestPortZeroIsTriedAgainWhenOneFamilyHasItTaken(t *testing.T) {
	tries := 0
	c := start(t, Config{}, func(p place) (transport, error) {
		if p.v6 {
			if tries++; tries < 3 {
				return nil, errPortInUse
			}
		}
		return openPlain(p)
	})
	require.Equal(t, 3, tries)
	require.NotZero(t, c.Port())

	_, err := listen(Config{}, func(p place) (transport, error) {
		if p.v6 {
			return nil, errPortInUse
		}
		return openPlain(p)
	})
	require.ErrorContains(t, err, "no port is free")
}

func TestAMissingFamilyIsLeftOut(t *testing.T) {
	for _, missing := range []bool{false, true} {
		t.Run(place{v6: missing}.network(), func(t *testing.T) {
			c := start(t, Config{}, func(p place) (transport, error) {
				if p.v6 == missing {
					return nil, fmt.Errorf("open: %w", errFamilyMissing)
				}
				return openPlain(p)
			})
			require.Len(t, c.Sockets(), 1)

			to := netip.MustParseAddrPort("127.0.0.1:9")
			if missing {
				to = netip.MustParseAddrPort("[::1]:9")
			}
			ms := []Message{{Data: datagrams(32, 32), Endpoint: Endpoint{Addr: to}}}
			sent, err := c.Send(0, ms)
			require.Zero(t, sent)
			require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
			require.ErrorIs(t, ms[0].Err, syscall.EAFNOSUPPORT)
		})
	}
	_, err := listen(Config{}, func(place) (transport, error) { return nil, errFamilyMissing })
	require.ErrorIs(t, err, errFamilyMissing)
}

func TestAFailedListenLeavesNothingOpen(t *testing.T) {
	var port uint16
	_, err := listen(Config{}, func(p place) (transport, error) {
		if p.v6 {
			return nil, errors.New("refused")
		}
		tr, err := openPlain(p)
		port = tr.port()
		return tr, err
	})
	require.ErrorContains(t, err, "refused")
	tr, err := openPlain(place{port: port})
	require.NoError(t, err, "the IPv4 socket is still open")
	require.NoError(t, tr.close())
}

func TestLanesWithoutSharedPortsSendThroughTheFirst(t *testing.T) {
	c := start(t, Config{Lanes: 3}, openPlain)
	for _, s := range c.Sockets() {
		require.Zero(t, s.Lane())
	}
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	to := start(t, Config{}, openPlain)
	for lane := range 3 {
		data := datagrams(100, 100)
		sent, err := c.Send(lane, []Message{{Data: data, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, to.Port())}}})
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		got, from := collect(t, socketFor(t, to, local), 1)
		require.Equal(t, data, got[0])
		require.Equal(t, c.Port(), from.Addr.Port())
	}
}

func TestSendSkipsWhatCannotBeSent(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		a, b := start(t, Config{}, open), start(t, Config{}, open)
		s := socketFor(t, b, local)
		to := Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}
		huge := bytes.Repeat([]byte{4}, 70000)
		good := datagrams(100, 100)
		ms := []Message{
			{Data: good, Endpoint: to, Err: errors.New("of an earlier use")},
			{Data: huge, Endpoint: to},
			{Data: good, Endpoint: Endpoint{}},
			{Data: good, Endpoint: to},
			{Data: huge, Seg: 66000, Endpoint: to},
			{Data: good, Endpoint: to},
		}
		sent, err := a.Send(0, ms)
		require.Equal(t, 3, sent)
		require.True(t, isTooLong(err), "%v", err)
		for i, want := range []string{"sent", "too long", "no address", "sent", "too long", "sent"} {
			switch want {
			case "sent":
				require.NoError(t, ms[i].Err, i)
			case "too long":
				require.True(t, isTooLong(ms[i].Err), "%d: %v", i, ms[i].Err)
			case "no address":
				require.ErrorIs(t, ms[i].Err, syscall.EDESTADDRREQ, i)
			}
		}
		for _, d := range must(collect(t, s, 3)) {
			require.Equal(t, good, d[:len(good)])
		}
	})
}

func must(got [][]byte, _ Endpoint) [][]byte { return got }

func TestOneSendServesBothFamilies(t *testing.T) {
	for name, open := range modes {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, Config{}, open), start(t, Config{}, open)
			v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
			s4, s6 := socketFor(t, b, v4), socketFor(t, b, v6)
			mapped := netip.AddrFrom16(v4.As16()) // taken for what it is
			var ms []Message
			for i, to := range []netip.Addr{v4, v6, v6, mapped, v6} {
				data := datagrams(40, 40)
				data[8] = byte(i)
				ms = append(ms, Message{Data: data, Endpoint: Endpoint{Addr: netip.AddrPortFrom(to, b.Port())}})
			}
			sent, err := a.Send(0, ms)
			require.NoError(t, err)
			require.Equal(t, len(ms), sent)
			for s, want := range map[*Socket][]byte{s4: {0, 3}, s6: {1, 2, 4}} {
				got, from := collect(t, s, len(want))
				for i := range want {
					require.Equal(t, want[i], got[i][8])
				}
				require.False(t, from.Addr.Addr().Is4In6())
			}
		})
	}
}

func TestSendingAndReceivingAllocateNothing(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		a, b := start(t, Config{}, open), start(t, Config{}, open)
		s := socketFor(t, b, local)
		out := []Message{
			{Data: datagrams(1452*30+100, 1452), Seg: 1452, ECN: 2, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}},
			{Data: datagrams(148, 148), Seg: 148, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}},
		}
		total := len(out[0].Data) + len(out[1].Data)
		in := make([]Message, 64)
		allocs := testing.AllocsPerRun(100, func() {
			if sent, err := a.Send(0, out); sent != 2 || err != nil {
				t.Error(sent, err)
			}
			for left := total; left > 0; {
				n, err := s.Receive(in)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range in[:n] {
					left -= len(m.Data)
				}
			}
		})
		require.Zero(t, allocs)
	})
}

func TestFailedSendsAllocateNothing(t *testing.T) {
	c := start(t, Config{}, systemOpener())
	ms := []Message{
		{Data: make([]byte, 70000), Endpoint: Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:9")}},
		{Data: make([]byte, 100)},
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if sent, err := c.Send(0, ms); sent != 0 || err == nil {
			t.Error(sent, err)
		}
	}))
}

func TestCloseEndsReceive(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		c := start(t, Config{}, open)
		s := socketFor(t, c, local)
		done := make(chan error)
		go func() {
			_, err := s.Receive(make([]Message, 1))
			done <- err
		}()
		require.NoError(t, c.Close())
		require.True(t, errors.Is(<-done, net.ErrClosed))
		_, err := s.Receive(make([]Message, 1))
		require.Equal(t, net.ErrClosed, err)
		ms := []Message{{Data: datagrams(32, 32), Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, 9)}}}
		sent, err := c.Send(0, ms)
		require.Equal(t, net.ErrClosed, err)
		require.Equal(t, net.ErrClosed, ms[0].Err)
		require.Zero(t, sent)
	})
}

func TestCloseEndsAFloodOfSends(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		a, b := start(t, Config{}, open), start(t, Config{}, open)
		socketFor(t, b, local)
		var running sync.WaitGroup
		var sent atomic.Int64
		begun := make(chan struct{}, 3)
		for range 3 {
			running.Go(func() {
				ms := []Message{{Data: datagrams(1452*20, 1452), Seg: 1452, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}}
				for i := 0; ; i++ {
					n, err := a.Send(0, ms)
					sent.Add(int64(n))
					if i == 3 {
						begun <- struct{}{}
					}
					if errors.Is(err, net.ErrClosed) {
						return
					}
				}
			})
		}
		for range 3 {
			<-begun
		}
		require.NoError(t, a.Close())
		running.Wait()
		require.Positive(t, sent.Load())
		require.NoError(t, a.Close(), "closing again")
	})
}

// Several goroutines send, others receive, and every byte is accounted for.
func TestConcurrentSendsKeepRunsWhole(t *testing.T) {
	eachMode(t, func(t *testing.T, open opener, local netip.Addr) {
		a, b := start(t, Config{}, open), start(t, Config{}, open)
		s := socketFor(t, b, local)
		const senders, rounds, seg = 4, 5, 200
		var running sync.WaitGroup
		for id := range senders {
			running.Go(func() {
				data := datagrams(seg*7, seg)
				for at := 0; at < len(data); at += seg {
					for i := 8; i < seg; i++ {
						data[at+i] = byte(id)
					}
				}
				for range rounds {
					sent, err := a.Send(0, []Message{{Data: data, Seg: seg, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}})
					if sent != 1 || err != nil {
						t.Error(sent, err)
					}
				}
			})
		}
		got, _ := collect(t, s, senders*rounds*7)
		running.Wait()
		var count [senders]int
		for _, d := range got {
			require.Len(t, d, seg)
			for _, x := range d[8:] {
				require.Equal(t, d[8], x)
			}
			count[d[8]]++
		}
		require.Equal(t, [senders]int{rounds * 7, rounds * 7, rounds * 7, rounds * 7}, count)
	})
}
