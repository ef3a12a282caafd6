package wireguard

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"slices"
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

// secretsIn returns the bytes of the fields at the paths, themselves, each of
// them set: a path that has moved fails here.
func secretsIn(t *testing.T, of any, paths [][]string) (secrets [][]byte) {
	t.Helper()
	for _, path := range paths {
		b := field(of, path)
		require.Len(t, b, sizeKey, "%T %v", of, path)
		require.NotEqual(t, make([]byte, sizeKey), b, "%T %v", of, path)
		secrets = append(secrets, b)
	}
	return secrets
}

func requireWiped(t *testing.T, secrets [][]byte) {
	t.Helper()
	require.NotEmpty(t, secrets)
	for _, b := range secrets {
		require.Equal(t, make([]byte, sizeKey), b)
	}
}

func TestSecretsAreWiped(t *testing.T) {
	agreed := func(c *curve) (secrets [][]byte) {
		for _, a := range c.agreed {
			secrets = append(secrets, a.secret)
		}
		return secrets
	}
	t.Run("when an initiator gives up", func(t *testing.T) {
		h := begin(t, testPSK)
		secrets := agreed(h.initiator.curve)
		require.Len(t, secrets, 2)
		forged := h.response
		forged[len(forged)-sizeMACs-1] ^= 1
		_, _, err := h.initiator.finish(forged[:])
		require.ErrorIs(t, err, errUnauthentic)
		requireWiped(t, secrets)

		secrets = secretsIn(t, h.initiator.state, handshakeSecrets)
		secrets = append(secrets, secretsIn(t, h.initiator.curve.ephemeral, privateKeySecrets)...)
		h.initiator.wipe()
		requireWiped(t, secrets)
		require.Nil(t, h.initiator.curve.ephemeral)
		_, _, err = h.initiator.finish(h.response[:])
		require.ErrorIs(t, err, errSpent)
		h.initiator.wipe()
	})
	t.Run("when an initiator is answered", func(t *testing.T) {
		h := begin(t, testPSK)
		secrets := secretsIn(t, h.initiator.state, [][]string{{"psk"}, {"ss", "ck"}})
		secrets = append(secrets, agreed(h.initiator.curve)...)
		secrets = append(secrets, secretsIn(t, h.initiator.curve.ephemeral, privateKeySecrets)...)
		h.requireFinishes(t)
		requireWiped(t, secrets)
		require.Nil(t, h.initiator.state)
	})
	t.Run("when a responder gives up", func(t *testing.T) {
		h := begin(t, testPSK)
		responder, err := h.b.receive(h.initiation[:])
		require.NoError(t, err)
		paths := slices.DeleteFunc(slices.Clone(handshakeSecrets), func(path []string) bool { return path[0] == "psk" })
		secrets := append(secretsIn(t, responder.state, paths), agreed(responder.curve)...)
		responder.wipe()
		requireWiped(t, secrets)
		require.Equal(t, h.a.public(), responder.peer)
		_, _, err = responder.respond(testPSK, 1)
		require.ErrorIs(t, err, errSpent)
	})
	t.Run("when a responder has answered", func(t *testing.T) {
		h := begin(t, testPSK)
		responder, err := h.b.receive(h.initiation[:])
		require.NoError(t, err)
		secrets := append(secretsIn(t, responder.state, [][]string{{"ss", "ck"}}), agreed(responder.curve)...)
		_, _, err = responder.respond(testPSK, 1)
		require.NoError(t, err)
		requireWiped(t, secrets)
		require.Nil(t, responder.state)
		require.Nil(t, responder.curve.ephemeral)
	})
	t.Run("when an identity ends or forgets a peer", func(t *testing.T) {
		id, peer, other := newTestIdentity(t), newTestIdentity(t).public(), newTestIdentity(t).public()
		require.NoError(t, id.know(peer))
		require.NoError(t, id.know(other))
		forgotten, kept := id.shared[peer], id.shared[other]
		id.forget(peer)
		require.Zero(t, *forgotten)
		require.Nil(t, id.known(peer))
		require.NotZero(t, *kept)
		secrets := secretsIn(t, id.private, privateKeySecrets)
		id.wipe()
		requireWiped(t, secrets)
		require.Zero(t, *kept)
		require.Empty(t, id.shared)
	})
	t.Run("when noise has given up the transport keys", func(t *testing.T) {
		h := begin(t, testPSK)
		_, send, receive, err := h.initiator.state.ReadMessage(nil, responseNoise(h.response[:]))
		require.NoError(t, err)
		secrets := append(secretsIn(t, send, cipherSecrets), secretsIn(t, receive, cipherSecrets)...)
		var keys transportKeys
		keys.take(send, receive)
		requireWiped(t, secrets)
		require.Equal(t, h.keys, transportKeys{send: keys.receive, receive: keys.send})
		keys.wipe()
		require.Zero(t, keys)
	})
}

// Private keys are the curve's business: noise gets to hold their names.
func TestNoiseHoldsNoPrivateKey(t *testing.T) {
	h := begin(t, noPSK)
	require.Equal(t, []byte("static"), field(h.initiator.state, []string{"s", "Private"}))
	require.Equal(t, []byte("ephemeral"), field(h.initiator.state, []string{"e", "Private"}))
}

func FuzzReceive(f *testing.F) {
	id, err := newIdentity([sizeKey]byte{1})
	require.NoError(f, err)
	peer, err := newIdentity([sizeKey]byte{2})
	require.NoError(f, err)
	peer.random = bytes.NewReader(bytes.Repeat([]byte{3}, sizeKey)) // the same in every fuzzing process
	initiation, _, err := peer.initiate(id.public(), noPSK, testIndexA, tai64n.Timestamp{0x40})
	require.NoError(f, err)
	newCookieJar(id.public()).addMACs(initiation[:])
	checker := newCookieChecker(id.public())

	f.Add(initiation[:])
	f.Add(initiation[:sizeInitiation-1])
	f.Add(make([]byte, sizeInitiation))
	for _, point := range lowOrder {
		msg := initiation
		copy(initiationNoise(msg[:]), point[:])
		f.Add(msg[:])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if checker.checkMAC1(msg) {
			// The key of MAC1 is public, but no fuzzer computes BLAKE2s.
			require.Equal(t, initiation[:sizeInitiation-sizeMAC], msg[:len(msg)-sizeMAC])
		}
		hs, err := id.receive(msg)
		if err != nil {
			require.Nil(t, hs)
			return
		}
		require.Equal(t, initiationNoise(initiation[:]), initiationNoise(msg))
		require.Equal(t, peer.public(), hs.peer)
		require.Equal(t, tai64n.Timestamp{0x40}, hs.timestamp)
	})
}

func FuzzFinish(f *testing.F) {
	id, err := newIdentity([sizeKey]byte{1})
	require.NoError(f, err)
	peer, err := newIdentity([sizeKey]byte{2})
	require.NoError(f, err)
	exchange := func(t testing.TB) (*initiator, [sizeResponse]byte, transportKeys) {
		id.random = bytes.NewReader(bytes.Repeat([]byte{3}, sizeKey))
		peer.random = bytes.NewReader(bytes.Repeat([]byte{4}, sizeKey))
		initiation, initiator, err := id.initiate(peer.public(), testPSK, testIndexA, tai64n.Timestamp{0x40})
		require.NoError(t, err)
		responder, err := peer.receive(initiation[:])
		require.NoError(t, err)
		response, keys, err := responder.respond(testPSK, testIndexB)
		require.NoError(t, err)
		return initiator, response, keys
	}
	_, response, _ := exchange(f)
	f.Add(response[:])
	f.Add(response[:sizeResponse-1])
	f.Add(make([]byte, sizeResponse))
	for _, point := range lowOrder {
		msg := response
		copy(responseNoise(msg[:]), point[:])
		f.Add(msg[:])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		initiator, response, keys := exchange(t)
		got, _, err := initiator.finish(msg)
		if err == nil {
			require.Equal(t, responseNoise(response[:]), responseNoise(msg))
			require.Equal(t, keys.send, got.receive)
			return
		}
		got, index, err := initiator.finish(response[:])
		require.NoError(t, err, "the true response no longer works")
		require.EqualValues(t, testIndexB, index)
		require.Equal(t, keys.send, got.receive)
		require.Equal(t, keys.receive, got.send)
	})
}
