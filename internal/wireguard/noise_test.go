package wireguard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/tai64n"
)

func TestHandshakeBetweenTwoOfUs(t *testing.T) {
	a, err := newIdentity([32]byte{1})
	require.NoError(t, err)
	b, err := newIdentity([32]byte{2})
	require.NoError(t, err)
	msg, hs, err := a.initiate(b.public(), [32]byte{}, 7, tai64n.Now())
	require.NoError(t, err)
	r, err := b.receive(msg[:])
	require.NoError(t, err)
	require.Equal(t, a.public(), r.peer)
	resp, kb, err := r.respond([32]byte{}, 9)
	require.NoError(t, err)
	ka, idx, err := hs.finish(resp[:])
	require.NoError(t, err)
	require.EqualValues(t, 9, idx)
	require.Equal(t, ka.send, kb.receive)
	require.Equal(t, ka.receive, kb.send)
}
