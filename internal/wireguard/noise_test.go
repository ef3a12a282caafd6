package wireguard

import (
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/tai64n"
)

var (
	noPSK   [sizeKey]byte
	testPSK = [sizeKey]byte{0: 'p', 15: 's', 31: 'k'}
)

// Low-order points of Curve25519, and encodings of them, from
// https://cr.yp.to/ecdh.html#validate.
var lowOrder = [][sizeKey]byte{
	{},
	{1},
	unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
	unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}

func unhex(s string) [sizeKey]byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return [sizeKey]byte(b)
}

func randomKey() (key [sizeKey]byte) {
	rand.Read(key[:])
	return key
}

func newTestIdentity(t testing.TB) *identity {
	t.Helper()
	id, err := newIdentity(randomKey())
	require.NoError(t, err)
	return id
}

// began is a handshake whose initiation and response have been made, and wait to
// be consumed.
type began struct {
	a, b       *identity // a began
	initiator  *initiator
	initiation [sizeInitiation]byte
	response   [sizeResponse]byte
	keys       transportKeys // b's
}

const testIndexA, testIndexB = 0xa0000001, 0xb0000002

func begin(t testing.TB, psk [sizeKey]byte) *began {
	t.Helper()
	var err error
	h := &began{a: newTestIdentity(t), b: newTestIdentity(t)}
	h.initiation, h.initiator, err = h.a.initiate(h.b.public(), psk, testIndexA, tai64n.Now())
	require.NoError(t, err)
	newCookieJar(h.b.public()).addMACs(h.initiation[:])
	responder, err := h.b.receive(h.initiation[:])
	require.NoError(t, err)
	h.response, h.keys, err = responder.respond(psk, testIndexB)
	require.NoError(t, err)
	newCookieJar(h.a.public()).addMACs(h.response[:])
	return h
}

// requireFinishes consumes the true response.
func (h *began) requireFinishes(t testing.TB) {
	t.Helper()
	keys, index, err := h.initiator.finish(h.response[:])
	require.NoError(t, err)
	require.EqualValues(t, testIndexB, index)
	require.Equal(t, h.keys.send, keys.receive)
	require.Equal(t, h.keys.receive, keys.send)
	require.NotEqual(t, keys.send, keys.receive)
	require.NotZero(t, keys.send)
	require.NotZero(t, keys.receive)
}

func TestHandshakeBetweenTwoOfUs(t *testing.T) {
	for _, test := range []struct {
		name string
		psk  [sizeKey]byte
		know bool
	}{
		{"without a preshared key", noPSK, false},
		{"with a preshared key", testPSK, false},
		{"of peers who know each other", testPSK, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := newTestIdentity(t), newTestIdentity(t)
			if test.know {
				require.NoError(t, a.know(b.public()))
				require.NoError(t, b.know(a.public()))
			}
			timestamp := tai64n.Now()
			initiation, initiator, err := a.initiate(b.public(), test.psk, testIndexA, timestamp)
			require.NoError(t, err)
			require.EqualValues(t, typeInitiation, messageType(initiation[:]))
			require.EqualValues(t, testIndexA, senderIndex(initiation[:]))

			responder, err := b.receive(initiation[:])
			require.NoError(t, err)
			require.Equal(t, a.public(), responder.peer)
			require.Equal(t, timestamp, responder.timestamp)
			require.EqualValues(t, testIndexA, responder.remoteIndex)

			response, keysB, err := responder.respond(test.psk, testIndexB)
			require.NoError(t, err)
			require.EqualValues(t, typeResponse, messageType(response[:]))
			require.EqualValues(t, testIndexB, senderIndex(response[:]))
			require.EqualValues(t, testIndexA, receiverIndex(response[:]))

			h := &began{initiator: initiator, response: response, keys: keysB}
			h.requireFinishes(t)

			_, _, err = initiator.finish(response[:])
			require.ErrorIs(t, err, errSpent)
			_, _, err = responder.respond(test.psk, testIndexB)
			require.ErrorIs(t, err, errSpent)
		})
	}
}

func TestEveryHandshakeHasItsOwnKeys(t *testing.T) {
	a, b := newTestIdentity(t), newTestIdentity(t)
	seen := make(map[[sizeKey]byte]bool)
	for range 8 {
		initiation, _, err := a.initiate(b.public(), noPSK, testIndexA, tai64n.Now())
		require.NoError(t, err)
		responder, err := b.receive(initiation[:])
		require.NoError(t, err)
		_, keys, err := responder.respond(noPSK, testIndexB)
		require.NoError(t, err)
		require.False(t, seen[keys.send] || seen[keys.receive])
		seen[keys.send], seen[keys.receive] = true, true
	}
}

func TestIdentityClampsItsPrivateKey(t *testing.T) {
	loose := randomKey()
	loose[0] |= 7
	loose[31] |= 0x80
	clamped := loose
	clamped[0] &= 248
	clamped[31] = clamped[31]&127 | 64
	a, err := newIdentity(loose)
	require.NoError(t, err)
	b, err := newIdentity(clamped)
	require.NoError(t, err)
	require.Equal(t, b.public(), a.public())

	_, err = newIdentity([sizeKey]byte{})
	require.ErrorIs(t, err, errNoPrivateKey)
}

func TestAnyBitFlippedInAnInitiationIsRefused(t *testing.T) {
	h := begin(t, testPSK)
	checker := newCookieChecker(h.b.public())
	require.True(t, checker.checkMAC1(h.initiation[:]))
	for bit := range 8 * (sizeInitiation - sizeMAC) { // MAC2 is not looked at without load
		msg := h.initiation
		msg[bit/8] ^= 1 << (bit % 8)
		require.False(t, checker.checkMAC1(msg[:]), "bit %d", bit)
		if at := bit / 8; at < 4 || at >= sizeInitiationHeader && at < sizeInitiation-sizeMACs {
			_, err := h.b.receive(msg[:])
			require.Error(t, err, "bit %d", bit)
		}
	}
}

func TestAnyBitFlippedInAResponseIsRefused(t *testing.T) {
	h := begin(t, testPSK)
	checker := newCookieChecker(h.a.public())
	require.True(t, checker.checkMAC1(h.response[:]))
	for bit := range 8 * (sizeResponse - sizeMAC) {
		msg := h.response
		msg[bit/8] ^= 1 << (bit % 8)
		require.False(t, checker.checkMAC1(msg[:]), "bit %d", bit)
		if at := bit / 8; at < 4 || at >= 8 && at < sizeResponse-sizeMACs {
			_, _, err := h.initiator.finish(msg[:])
			require.Error(t, err, "bit %d", bit)
		}
	}
	h.requireFinishes(t)
}

func TestMessagesOfAnotherLengthAreRefused(t *testing.T) {
	h := begin(t, noPSK)
	long := append(h.initiation[:], make([]byte, 64)...)
	for n := range len(long) + 1 {
		if n != sizeInitiation {
			_, err := h.b.receive(long[:n])
			require.ErrorIs(t, err, errMalformed, "%d bytes", n)
		}
	}
	long = append(h.response[:], make([]byte, 64)...)
	for n := range len(long) + 1 {
		if n != sizeResponse {
			_, _, err := h.initiator.finish(long[:n])
			require.ErrorIs(t, err, errMalformed, "%d bytes", n)
		}
	}
	h.requireFinishes(t)
}

func TestAForgedResponseDoesNotEndTheHandshake(t *testing.T) {
	forgeries := map[string]func(h *began) []byte{
		"one of noise": func(h *began) []byte {
			msg := h.response
			rand.Read(responseNoise(msg[:]))
			return msg[:]
		},
		"one of an attacker who does not have our peer's key": func(h *began) []byte {
			mallory := newTestIdentity(t)
			initiation, _, err := h.a.initiate(mallory.public(), testPSK, testIndexA, tai64n.Now())
			require.NoError(t, err)
			responder, err := mallory.receive(initiation[:])
			require.NoError(t, err)
			msg, _, err := responder.respond(testPSK, 666)
			require.NoError(t, err)
			return msg[:]
		},
		"one to another handshake": func(h *began) []byte {
			msg := h.response
			putResponseHeader(msg[:], testIndexB, testIndexA+1)
			return msg[:]
		},
		"an initiation": func(h *began) []byte { return h.initiation[:] },
	}
	for i, point := range lowOrder {
		forgeries["one with low-order key "+string(rune('0'+i))] = func(h *began) []byte {
			msg := h.response
			copy(responseNoise(msg[:]), point[:])
			return msg[:]
		}
	}
	for name, forge := range forgeries {
		t.Run(name, func(t *testing.T) {
			h := begin(t, testPSK)
			forged := forge(h)
			for range 3 {
				keys, _, err := h.initiator.finish(forged)
				require.Error(t, err)
				require.Zero(t, keys)
			}
			h.requireFinishes(t)
		})
	}
}

func TestPublicKeysOfLowOrderAreRefused(t *testing.T) {
	a, b := newTestIdentity(t), newTestIdentity(t)
	for _, point := range lowOrder {
		require.ErrorIs(t, a.know(point), errLowOrder)
		msg, hs, err := a.initiate(point, noPSK, 1, tai64n.Now())
		require.ErrorIs(t, err, errLowOrder)
		require.Nil(t, hs)
		require.Zero(t, msg)

		initiation, _, err := a.initiate(b.public(), noPSK, 1, tai64n.Now())
		require.NoError(t, err)
		copy(initiationNoise(initiation[:]), point[:])
		_, err = b.receive(initiation[:])
		require.ErrorIs(t, err, errLowOrder)
	}
}

func TestAnotherPresharedKeyIsRefused(t *testing.T) {
	a, b := newTestIdentity(t), newTestIdentity(t)
	initiation, initiator, err := a.initiate(b.public(), testPSK, testIndexA, tai64n.Now())
	require.NoError(t, err)
	for _, psk := range [][sizeKey]byte{noPSK, randomKey()} {
		responder, err := b.receive(initiation[:])
		require.NoError(t, err)
		response, _, err := responder.respond(psk, testIndexB)
		require.NoError(t, err)
		_, _, err = initiator.finish(response[:])
		require.ErrorIs(t, err, errUnauthentic)
	}
}

func TestAnInitiationForSomeoneElseIsRefused(t *testing.T) {
	h := begin(t, noPSK)
	_, err := newTestIdentity(t).receive(h.initiation[:])
	require.ErrorIs(t, err, errUnauthentic)
	_, err = h.a.receive(h.initiation[:])
	require.ErrorIs(t, err, errUnauthentic)
}

func TestAReplayedInitiationShowsItsTimestamp(t *testing.T) {
	a, b := newTestIdentity(t), newTestIdentity(t)
	first := tai64n.Now()
	later := first
	later[7]++ // the last byte of the seconds
	older, _, err := a.initiate(b.public(), noPSK, 1, first)
	require.NoError(t, err)
	newer, _, err := a.initiate(b.public(), noPSK, 2, later)
	require.NoError(t, err)

	hs, err := b.receive(newer[:])
	require.NoError(t, err)
	replay, err := b.receive(older[:])
	require.NoError(t, err)
	require.True(t, hs.timestamp.After(replay.timestamp))
	again, err := b.receive(newer[:])
	require.NoError(t, err)
	require.False(t, again.timestamp.After(hs.timestamp))
}

func TestHandshakesAtOnceDoNotMeet(t *testing.T) {
	a, b := newTestIdentity(t), newTestIdentity(t)
	done := make(chan error)
	go func() {
		var err error
		for range 8 {
			if e := a.know(b.public()); e != nil {
				err = e
			}
			a.forget(b.public())
		}
		done <- err
	}()
	for range 4 {
		go func() {
			initiation, initiator, err := a.initiate(b.public(), testPSK, testIndexA, tai64n.Now())
			if err == nil {
				var responder *responder
				if responder, err = b.receive(initiation[:]); err == nil {
					var response [sizeResponse]byte
					if response, _, err = responder.respond(testPSK, testIndexB); err == nil {
						_, _, err = initiator.finish(response[:])
					}
				}
			}
			done <- err
		}()
	}
	for range 5 {
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(30 * time.Second):
			t.Fatal("a handshake hangs")
		}
	}
}
