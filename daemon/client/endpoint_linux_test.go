package client

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheDefaultEndpointDependsOnTheUser(t *testing.T) {
	if os.Geteuid() == 0 {
		endpoint, err := DefaultEndpoint()
		require.NoError(t, err)
		require.Equal(t, "/var/run/overlayd.sock", endpoint)
		return
	}
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	endpoint, err := DefaultEndpoint()
	require.NoError(t, err)
	require.Equal(t, "/run/user/1000/overlayd.sock", endpoint)
	for _, dir := range []string{"", "run/user/1000"} {
		t.Setenv("XDG_RUNTIME_DIR", dir)
		_, err = DefaultEndpoint()
		require.ErrorContains(t, err, "XDG_RUNTIME_DIR is not set")
	}
	t.Setenv("XDG_RUNTIME_DIR", "/"+strings.Repeat("x", 100))
	_, err = DefaultEndpoint()
	require.ErrorContains(t, err, "at most 103")
}
