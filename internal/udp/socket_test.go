package udp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// script is a transport whose receives are laid down, one for each call; after
// the last it is closed.
type script struct {
	steps []func(ms []Message) (int, error)
}

func (s *script) receive(ms []Message) (int, error) {
	if len(s.steps) == 0 {
		return 0, net.ErrClosed
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	return step(ms)
}

func (s *script) send(ms []Message) (int, error) { return len(ms), nil }
func (s *script) setMark(uint32) error           { return nil }
func (s *script) capabilities() Capabilities     { return Capabilities{} }
func (s *script) port() uint16                   { return 51820 }
func (s *script) close() error                   { return nil }

func (s *script) then(step func(ms []Message) (int, error)) { s.steps = append(s.steps, step) }

func (s *script) deliver(runs ...Message) {
	s.then(func(ms []Message) (int, error) { return copy(ms, runs), nil })
}

// scripted is a Conn with one socket over s.
func scripted(t testing.TB, s *script, hook func([]byte, netip.AddrPort) bool) (*Conn, *Socket) {
	c, err := listen(Config{Hook: hook}, func(p place) (transport, error) {
		if p.v6 {
			return nil, errFamilyMissing
		}
		return s, nil
	})
	require.NoError(t, err)
	return c, c.Sockets()[0]
}

var peer = Endpoint{Addr: netip.MustParseAddrPort("192.0.2.1:3478"), Src: netip.MustParseAddr("192.0.2.9"), Interface: 3}

func TestOnlyWireGuardReachesTheReceiver(t *testing.T) {
	tests := map[string]struct {
		datagram []byte
		ours     bool
	}{
		"handshake initiation":        {[]byte{1, 0, 0, 0, 9}, true},
		"handshake response":          {[]byte{2, 0, 0, 0, 9}, true},
		"cookie reply":                {[]byte{3, 0, 0, 0, 9}, true},
		"transport data":              {[]byte{4, 0, 0, 0, 9}, true},
		"a bare type":                 {[]byte{4, 0, 0, 0}, true},
		"type 0":                      {[]byte{0, 0, 0, 0, 9}, false},
		"type 5":                      {[]byte{5, 0, 0, 0, 9}, false},
		"a reserved byte set":         {[]byte{4, 0, 1, 0, 9}, false},
		"STUN binding request":        {[]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, false},
		"STUN binding success":        {[]byte{1, 1, 0, 12, 0x21, 0x12, 0xA4, 0x42}, false},
		"TURN channel data":           {[]byte{0x40, 0, 0, 1, 9}, false},
		"a NAT keepalive of one byte": {[]byte{0xFF}, false},
		"three bytes":                 {[]byte{4, 0, 0}, false},
		"an empty datagram":           {[]byte{}, false},
		"text":                        {[]byte("hello, world"), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, takes := range []bool{true, false} {
				var s script
				s.deliver(Message{Data: bytes.Clone(test.datagram), Seg: len(test.datagram), Endpoint: peer})
				var hooked [][]byte
				c, socket := scripted(t, &s, func(d []byte, from netip.AddrPort) bool {
					require.Equal(t, peer.Addr, from)
					hooked = append(hooked, bytes.Clone(d))
					return takes
				})
				ms := make([]Message, 4)
				n, err := socket.Receive(ms)
				if test.ours {
					require.NoError(t, err)
					require.Equal(t, 1, n)
					require.Equal(t, Message{Data: test.datagram, Seg: len(test.datagram), Endpoint: peer}, ms[0])
					require.Empty(t, hooked)
					require.Equal(t, Stats{}, c.Stats())
					continue
				}
				require.Equal(t, net.ErrClosed, err)
				require.Len(t, hooked, 1)
				require.True(t, bytes.Equal(test.datagram, hooked[0]))
				if takes {
					require.Equal(t, Stats{}, c.Stats())
				} else {
					require.Equal(t, Stats{Foreign: 1}, c.Stats())
				}
			}
		})
	}
}

func TestWithoutAHookStrangersAreCounted(t *testing.T) {
	var s script
	s.deliver(Message{Data: []byte("abcabcab"), Seg: 3, Endpoint: peer})
	c, socket := scripted(t, &s, nil)
	_, err := socket.Receive(make([]Message, 1))
	require.Equal(t, net.ErrClosed, err)
	require.Equal(t, Stats{Foreign: 3}, c.Stats())
}

func TestATruncatedRunIsDroppedAndCounted(t *testing.T) {
	var s script
	s.deliver(
		Message{Data: datagrams(64, 32), Seg: 32, Endpoint: peer, Err: errTruncated},
		Message{Data: datagrams(96, 32), Seg: 32, Endpoint: peer},
	)
	c, socket := scripted(t, &s, nil)
	ms := make([]Message, 4)
	n, err := socket.Receive(ms)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Len(t, ms[0].Data, 96)
	require.Equal(t, Stats{Truncated: 1}, c.Stats())
}

func TestAPassingFailureIsEndured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		failure := errors.New("no memory")
		for range receiveAttempts - 1 {
			s.then(func([]Message) (int, error) { return 0, failure })
		}
		s.deliver(Message{Data: datagrams(32, 32), Seg: 32, Endpoint: peer})
		_, socket := scripted(t, &s, nil)
		n, err := socket.Receive(make([]Message, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}

func TestALastingFailureIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		failure := errors.New("no memory")
		for range receiveAttempts {
			s.then(func([]Message) (int, error) { return 0, failure })
		}
		_, socket := scripted(t, &s, nil)
		begin := time.Now()
		_, err := socket.Receive(make([]Message, 1))
		require.ErrorIs(t, err, failure)
		require.ErrorContains(t, err, "port 51820")
		require.InDelta(t, 1.0, time.Since(begin).Seconds(), 0.1)
	})
}

func TestCloseEndsTheWaitForAFailureToPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		for range receiveAttempts - 1 {
			s.then(func([]Message) (int, error) { return 0, errors.New("no memory") })
		}
		c, socket := scripted(t, &s, nil)
		done := make(chan error)
		go func() {
			_, err := socket.Receive(make([]Message, 1))
			done <- err
		}()
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, net.ErrClosed, <-done)
		require.Zero(t, time.Since(begin))
	})
}

func TestReceiveIntoNothingTakesNothing(t *testing.T) {
	_, socket := scripted(t, &script{}, nil)
	n, err := socket.Receive(nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

// FuzzReceive cuts runs as a slow and plain reading of the rules does: the
// receiver gets WireGuard's datagrams and the hook the others, each in order,
// whatever room the receiver gives.
func FuzzReceive(f *testing.F) {
	stun := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 24)...)
	f.Add(datagrams(320, 32), 32, uint8(4), true)
	f.Add(append(datagrams(64, 32), append(stun, datagrams(40, 32)...)...), 32, uint8(1), false)
	f.Add(stun, 3, uint8(2), true)
	f.Add([]byte{4, 0, 0, 0}, 3, uint8(0), true)
	f.Add([]byte{}, 0, uint8(1), false)
	f.Add([]byte{4, 0, 0, 0, 4}, -1, uint8(1), false)
	f.Fuzz(func(t *testing.T, data []byte, seg int, room uint8, takes bool) {
		if seg <= 0 || seg > len(data) { // as every transport gives them
			seg = len(data)
		}
		var ours, others [][]byte
		for rest := data; ; {
			d := rest[:min(seg, len(rest))]
			if rest = rest[len(d):]; len(d) >= 4 && d[0] >= 1 && d[0] <= 4 && d[1] == 0 && d[2] == 0 && d[3] == 0 {
				ours = append(ours, d)
			} else {
				others = append(others, d)
			}
			if len(rest) == 0 {
				break
			}
		}

		var s script
		s.deliver(
			Message{Data: bytes.Clone(data), Seg: seg, Endpoint: peer, ECN: 1},
			Message{Data: bytes.Clone(data), Seg: seg, Endpoint: peer, ECN: 1},
		)
		var hooked [][]byte
		c, socket := scripted(t, &s, func(d []byte, from netip.AddrPort) bool {
			require.Equal(t, peer.Addr, from)
			hooked = append(hooked, bytes.Clone(d))
			return takes
		})
		var got [][]byte
		ms := make([]Message, room%16+1)
		for {
			n, err := socket.Receive(ms)
			if err != nil {
				require.Equal(t, net.ErrClosed, err)
				break
			}
			require.Positive(t, n)
			for _, m := range ms[:n] {
				require.Equal(t, peer, m.Endpoint)
				require.Equal(t, byte(1), m.ECN)
				require.NotEmpty(t, m.Data)
				require.LessOrEqual(t, m.Seg, len(m.Data))
				for rest := m.Data; len(rest) > 0; {
					d := rest[:min(m.Seg, len(rest))]
					rest = rest[len(d):]
					got = append(got, bytes.Clone(d))
				}
			}
		}
		same(t, append(ours, ours...), got)
		same(t, append(others, others...), hooked)
		want := uint64(2 * len(others))
		if takes {
			want = 0
		}
		require.Equal(t, Stats{Foreign: want}, c.Stats())
	})
}

func same(t *testing.T, want, got [][]byte) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, bytes.Equal(want[i], got[i]), "datagram %d", i)
	}
}
