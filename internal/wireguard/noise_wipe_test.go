package wireguard

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

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
