package wireguard

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/tai64n"
)

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
