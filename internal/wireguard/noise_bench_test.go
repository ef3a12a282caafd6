package wireguard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"
)

// BenchmarkHandshake is one handshake, the work of both sides and without MACs,
// between two of us and between two of wireguard-go.
func BenchmarkHandshake(b *testing.B) {
	b.Run("engine=ours", func(b *testing.B) {
		us, them := newTestIdentity(b), newTestIdentity(b)
		require.NoError(b, us.know(them.public()))
		require.NoError(b, them.know(us.public()))
		b.ReportAllocs()
		for b.Loop() {
			initiation, initiator, err := us.initiate(them.public(), noPSK, testIndexA, tai64n.Now())
			require.NoError(b, err)
			responder, err := them.receive(initiation[:])
			require.NoError(b, err)
			response, _, err := responder.respond(noPSK, testIndexB)
			require.NoError(b, err)
			_, _, err = initiator.finish(response[:])
			require.NoError(b, err)
		}
	})
	b.Run("engine=wireguard-go", func(b *testing.B) {
		ours, theirs := randomKey(), randomKey()
		us, err := newIdentity(ours)
		require.NoError(b, err)
		them, err := newIdentity(theirs)
		require.NoError(b, err)
		ourJudge := newJudge(b, ours, them.public(), noPSK)
		theirJudge := newJudge(b, theirs, us.public(), noPSK)
		b.ReportAllocs()
		for b.Loop() {
			// It takes one initiation in 20 ms from a peer, so each gets a new peer.
			b.StopTimer()
			theirJudge.dev.RemovePeer(device.NoisePublicKey(us.public()))
			theirJudge.peer, err = theirJudge.dev.NewPeer(device.NoisePublicKey(us.public()))
			require.NoError(b, err)
			theirJudge.peer.Start()
			b.StartTimer()

			initiation, err := ourJudge.dev.CreateMessageInitiation(ourJudge.peer)
			require.NoError(b, err)
			require.NotNil(b, theirJudge.dev.ConsumeMessageInitiation(initiation))
			response, err := theirJudge.dev.CreateMessageResponse(theirJudge.peer)
			require.NoError(b, err)
			require.NoError(b, theirJudge.peer.BeginSymmetricSession())
			require.NotNil(b, ourJudge.dev.ConsumeMessageResponse(response))
			require.NoError(b, ourJudge.peer.BeginSymmetricSession())
		}
	})
}

// BenchmarkFlood is what a datagram costs that is refused: at its MAC1 when its
// sender does not know us, at its decryption when it does.
func BenchmarkFlood(b *testing.B) {
	h := begin(b, noPSK)
	checker := newCookieChecker(h.b.public())
	b.Run("stopped-by=mac1", func(b *testing.B) {
		msg := h.initiation
		msg[20] ^= 1
		b.ReportAllocs()
		for b.Loop() {
			if checker.checkMAC1(msg[:]) {
				b.Fatal("a wrong MAC1 is taken")
			}
		}
	})
	b.Run("stopped-by=cookie", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !checker.checkMAC1(h.initiation[:]) || checker.checkMAC2(h.initiation[:], source) {
				b.Fatal("a wrong MAC2 is taken")
			}
			checker.reply(h.initiation[:], testIndexA, source)
		}
	})
	b.Run("stopped-by=noise", func(b *testing.B) {
		msg := h.initiation
		msg[100] ^= 1
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.b.receive(msg[:]); err == nil {
				b.Fatal("a forged initiation is taken")
			}
		}
	})
}
