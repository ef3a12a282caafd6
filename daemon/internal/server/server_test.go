package server

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	b := start(t, nil)
	c := b.dial()
	require.NoError(t, c.NATTick(t.Context()))
}
