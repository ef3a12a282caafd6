package netstack

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func testDeadline(t testing.TB) time.Time {
	d, _ := testContext(t).Deadline()
	return d
}

func TestAThousandStacksOpenAndClose(t *testing.T) {
	cycles := 1000
	if raceDetector() {
		cycles = 300
	}
	for range cycles {
		s, err := New(Config{Addrs: []netip.Prefix{addrA4, addrA6}})
		require.NoError(t, err)
		l, err := s.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := s.DialContext(testContext(t), "tcp", addrPort(addrA4, "80"))
		require.NoError(t, err)
		accepted, err := l.Accept()
		require.NoError(t, err)
		_, err = accepted.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

// Everything that waits is woken by Close, and everything later fails.
func TestCloseEndsWhateverWaits(t *testing.T) {
	s, err := New(Config{Addrs: []netip.Prefix{addrA4}})
	require.NoError(t, err)
	l, err := s.Listen("tcp", ":80")
	require.NoError(t, err)
	pc, err := s.ListenPacket("udp", ":80")
	require.NoError(t, err)
	c, err := s.DialContext(testContext(t), "tcp", ":80")
	require.NoError(t, err)
	silent, err := l.Accept()
	require.NoError(t, err)
	defer silent.Close()
	var calls sync.WaitGroup
	for name, call := range map[string]func() error{
		"Accept":    func() error { _, err := l.Accept(); return err },
		"ReadFrom":  func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err },
		"Read":      func() error { _, err := c.Read(make([]byte, 1)); return err },
		"Write":     func() error { _, err := c.Write(make([]byte, 64<<20)); return err },
		"Dial":      func() error { _, err := s.DialContext(t.Context(), "tcp", "10.200.9.9:80"); return err },
		"Ping":      func() error { _, err := s.Ping(t.Context(), addrB4.Addr()); return err },
		"ReadBatch": func() error { return readUntilClosed(s.Device()) },
	} {
		calls.Go(func() {
			if err := call(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v is not net.ErrClosed", name, err)
			}
		})
	}
	time.Sleep(10 * time.Millisecond) // so that they do wait; they may as well come late
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() { s.Close() })
	}
	closers.Wait()
	calls.Wait()
	_, err = s.Listen("tcp", ":81")
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = s.ListenPacket("udp", ":81")
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
}

func readUntilClosed(d packet.Device) error {
	b := packet.NewBatch(0)
	for {
		if err := d.ReadBatch(b); err != nil {
			return err
		}
	}
}

func TestCloseUnderTraffic(t *testing.T) {
	rounds := 12
	if raceDetector() {
		rounds = 6
	}
	for range rounds {
		a, err := New(Config{Addrs: []netip.Prefix{addrA4}})
		require.NoError(t, err)
		b, err := New(Config{Addrs: []netip.Prefix{addrB4}})
		require.NoError(t, err)
		wait := join(a.Device(), b.Device(), whole, cut)
		l, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		var users sync.WaitGroup
		users.Go(func() { // accepts for as long as there is something
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				users.Go(func() {
					defer c.Close()
					io.Copy(c, c)
				})
			}
		})
		for range 4 { // bulk both ways
			users.Go(func() {
				c, err := a.DialContext(testContext(t), "tcp", addrPort(addrB4, "80"))
				if err != nil {
					return
				}
				defer c.Close()
				users.Go(func() { io.Copy(io.Discard, c) })
				buf := make([]byte, 100<<10)
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			})
		}
		users.Go(func() { // connections that come and go
			for {
				c, err := a.DialContext(testContext(t), "tcp", addrPort(addrB4, "80"))
				if err != nil {
					return
				}
				c.Write([]byte("x"))
				c.Close()
			}
		})
		users.Go(func() { // datagrams
			pc, err := a.ListenPacket("udp", ":0")
			if err != nil {
				return
			}
			for {
				if _, err := pc.WriteTo(make([]byte, 3000), &net.UDPAddr{IP: addrB4.Addr().AsSlice(), Port: 9}); err != nil {
					return
				}
			}
		})
		users.Go(func() { // and changes
			for a.SetAddrs([]netip.Prefix{addrA4, addrA6}) == nil && a.SetAddrs([]netip.Prefix{addrA4}) == nil {
			}
		})
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // traffic of varied age
		first, second := a, b
		if rand.IntN(2) == 0 {
			first, second = b, a
		}
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
		wait()
		users.Wait()
	}
}

// A closed connection has timers of its own for each state it lingers in.
func TestAClosedConnectionIsNotProbed(t *testing.T) {
	const (
		fin, pure = header.TCPFlagFin, header.TCPFlagAck
		idle      = time.Millisecond
	)
	var last, probes atomic.Uint32 // last is the number of the FIN
	watching := func() func(from *packet.Batch, to packet.Device) error {
		return func(from *packet.Batch, to packet.Device) error {
			for i := range from.Packets {
				switch h := header.TCP(from.Packets[i].Transport()); {
				case h.Flags()&fin != 0:
					last.Store(h.SequenceNumber() + uint32(len(h.Payload())))
				case h.Flags() == pure && h.SequenceNumber() == last.Load():
					probes.Add(1)
				}
			}
			return to.WriteBatch(from)
		}
	}
	a, b := newPairOver(t, Config{}, watching, whole)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	require.NoError(t, client.(*tcpConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: idle, Count: 1 << 20}))
	_, err := client.Write([]byte("the last"))
	require.NoError(t, err)
	require.NoError(t, client.Close())
	_, err = io.ReadAll(server)
	require.NoError(t, err)
	time.Sleep(50 * idle) // what is tested is that time does nothing: until the peer ends,
	require.NoError(t, server.Close())
	time.Sleep(50 * idle) // and in TIME-WAIT
	require.NotZero(t, last.Load())
	require.Zero(t, probes.Load())
}

func TestClosedConnectionsThatLingerAreBounded(t *testing.T) {
	const most, wait, more = 128, 64, 32
	for name, test := range map[string]struct {
		peerCloses bool
		linger     int
		resets     int64
	}{
		"in TIME-WAIT, no more begin to":          {peerCloses: true, linger: wait, resets: 0},
		"for the peer's end, the oldest is reset": {peerCloses: false, linger: most, resets: more},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The reset of a connection that is given up; one that answers a packet for
			// what is no more acknowledges nothing (RFC 9293 section 3.10.7.1).
			const reset = header.TCPFlagRst | header.TCPFlagAck
			var resets atomic.Int64
			counting := func() func(from *packet.Batch, to packet.Device) error {
				return func(from *packet.Batch, to packet.Device) error {
					for i := range from.Packets {
						if header.TCP(from.Packets[i].Transport()).Flags()&reset == reset {
							resets.Add(1)
						}
					}
					return to.WriteBatch(from)
				}
			}
			a, b := newPairOver(t, Config{}, counting, whole)
			a.orphans.most, b.orphans.most = most, most
			a.orphans.wait, b.orphans.wait = wait, wait
			l, err := b.Listen("tcp", ":80")
			require.NoError(t, err)
			defer l.Close()
			lingering := func(s *Stack) int {
				s.orphans.mu.Lock()
				defer s.orphans.mu.Unlock()
				return s.orphans.list.Len()
			}
			settles := func(s *Stack, n int) {
				t.Helper()
				require.Eventually(t, func() bool { return lingering(s) == n }, 30*time.Second, time.Millisecond)
			}
			for i := range most + more {
				client, err := a.DialContext(testContext(t), "tcp", addrPort(addrB4, "80"))
				require.NoError(t, err)
				server, err := l.Accept()
				require.NoError(t, err)
				_, err = client.Write([]byte("the last"))
				require.NoError(t, err)
				require.NoError(t, client.Close())
				got, err := io.ReadAll(server)
				require.NoError(t, err)
				require.Equal(t, "the last", string(got))
				if test.peerCloses {
					require.NoError(t, server.Close())
					settles(b, 0) // those that ended by themselves are forgotten
				}
				settles(a, min(i+1, test.linger))
			}
			require.Eventually(t, func() bool { return resets.Load() == test.resets }, 30*time.Second, time.Millisecond)
		})
	}
}
