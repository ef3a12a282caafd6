package wireguard

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPassiveKeepaliveAnswersDataAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		keepalives := n.watch(b.transport, typeTransport)
		begin := time.Now()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(time.Minute)
		require.Equal(t, 1, keepalives.count())
		keepalive, at := keepalives.at(0)
		require.Len(t, keepalive, sizeTransportMin)
		require.InDelta(t, keepaliveTimeout.Seconds(), at.Sub(begin).Seconds(), 0.1)
	})
}

// Otherwise the sender would take the link for broken, and call again and again.
func TestDataThatIsRefusedIsAnsweredTheSame(t *testing.T) {
	for name, refused := range map[string]func(from, to netip.Addr) []byte{
		"a source that is not the peer's": func(_, to netip.Addr) []byte {
			return datagramTo(netip.MustParseAddr("10.0.0.66"), to, 1)
		},
		"a length that is wrong": func(from, to netip.Addr) []byte {
			d := datagramTo(from, to, 1)
			d[2] = 0xff
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b := newPair(t)
				defer a.close()
				defer b.close()
				calls, keepalives := n.watch(a.transport, typeInitiation), n.watch(b.transport, typeTransport)
				a.device.send(refused(a.overlay, b.overlay))
				time.Sleep(time.Minute)
				require.Empty(t, b.device.received())
				require.Equal(t, 1, keepalives.count())
				require.Equal(t, 1, calls.count())
			})
		})
	}
}

func TestSilenceAfterSendingBeginsANewHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(30 * time.Second) // the passive keepalive came
		b.transport.Close()          // b falls silent
		initiations := n.watch(a.transport, typeInitiation)
		begin := time.Now()
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		time.Sleep(3 * time.Minute)
		require.Equal(t, maxHandshakeAttempts+2, initiations.count(), "as many attempts as wireguard-go makes")
		_, first := initiations.at(0)
		require.InDelta(t, 15, first.Sub(begin).Seconds(), 0.4)
	})
}

func TestTwoWhoLoseEachOtherDoNotCallInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		time.Sleep(30 * time.Second)
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil })
		ofA, ofB := n.watch(a.transport, typeInitiation), n.watch(b.transport, typeInitiation)
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		b.device.send(datagramTo(b.overlay, a.overlay, 3))
		time.Sleep(20 * time.Second)
		_, first := ofA.at(0)
		_, second := ofB.at(0)
		require.NotEqual(t, first, second)
	})
}

func TestPersistentKeepaliveKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		cfg := b.peerOf()
		cfg.Keepalive = 25 * time.Second
		require.NoError(t, a.SetPeer(cfg))
		keepalives := n.watch(a.transport, typeTransport)
		time.Sleep(10*time.Minute + time.Second)
		require.InDelta(t, 24, keepalives.count(), 6, "one each 25 s, save where a handshake took its place")
		cfg.Keepalive = 0
		require.NoError(t, a.SetPeer(cfg))
		time.Sleep(time.Minute)
		before := keepalives.count()
		time.Sleep(10 * time.Minute)
		require.Equal(t, before, keepalives.count())
	})
}

func TestKeysAreForgottenAfterNineMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		p := a.peer(b.public)
		s := p.current.Load()
		require.NotNil(t, s)
		s.sending.RLock()
		send := s.send
		s.sending.RUnlock()
		b.close()
		time.Sleep(forgetKeysAfter + time.Minute)
		synctest.Wait()
		require.Nil(t, p.current.Load())
		s.sending.RLock()
		require.Nil(t, s.send)
		s.sending.RUnlock()
		zero, err := newSession(p, &transportKeys{}, 1, 2, true, 0)
		require.NoError(t, err)
		nonce := make([]byte, 12)
		text := make([]byte, 1420) // long enough for every copy there is of the key
		require.Equal(t, zero.send.Seal(nil, nonce, text, nil), send.Seal(nil, nonce, text, nil),
			"the cipher's key is all zero")
		require.Nil(t, a.sessions.session(s.local))
	})
}
