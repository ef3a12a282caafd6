package daemon

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatLiesOnThisNodeIsNoPeers(t *testing.T) {
	var p plan
	require.NoError(t, p.settle(`service "web"`, prefixes("10.200.46.224/28")))
	require.NoError(t, p.settle("this node", prefixes("10.200.7.0/28", "10.200.7.1/32")))

	for _, taken := range []string{"10.200.46.224/28", "10.200.46.226/32", "10.200.7.0/28", "10.200.7.1/32"} {
		err := p.claim("", nil, owners(keyOf(1), prefixes("10.200.99.0/24", taken)))
		require.ErrorContains(t, err, taken)
		require.Error(t, err)
	}
	require.NoError(t, p.claim("", nil, owners(keyOf(2), prefixes("10.200.99.0/24"))), "what was refused left nothing behind")
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.0.0/16", "0.0.0.0/0"))), "a hub may have what is around it")

	p.leave(prefixes("10.200.46.224/28"))
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.46.224/28"))))
	require.ErrorContains(t, p.settle(`service "web"`, prefixes("10.200.46.0/24")), "of peer")
	require.NoError(t, p.claim("", owners(keyOf(1), prefixes("10.200.46.224/28")), nil))
	require.NoError(t, p.settle(`service "web"`, prefixes("10.200.46.0/24")))
}

func TestAPrefixIsOnePeersOfAllDevices(t *testing.T) {
	var p plan
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.74.0/24"))))
	err := p.claim("web", nil, owners(keyOf(2), prefixes("10.200.74.0/24")))
	require.ErrorContains(t, err, "of peer "+keyOf(1).String())
	// A more specific one is another way to a part of it.
	require.NoError(t, p.claim("web", nil, owners(keyOf(2), prefixes("10.200.74.16/28"))))
	require.ErrorContains(t, p.claim("", nil, owners(keyOf(3), prefixes("10.200.74.16/28"))), `of service "web"`)
	// From one peer of a device to another it may go in one change.
	require.NoError(t, p.claim("web", owners(keyOf(2), prefixes("10.200.74.16/28")), owners(keyOf(4), prefixes("10.200.74.16/28"))))
}

func TestAPeerKeepsAPrefixThatAnotherOfItsDeviceIsRefused(t *testing.T) {
	var p plan
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.74.0/24"))))
	err := p.claim("", owners(keyOf(2), prefixes("10.200.75.0/24")), owners(keyOf(2), prefixes("10.200.74.0/24")))
	require.ErrorContains(t, err, "of peer "+keyOf(1).String())
	require.ErrorContains(t, p.settle(`service "web"`, prefixes("10.200.74.0/28", "10.200.74.0/24")), "of peer "+keyOf(1).String())
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.74.0/24"))), "its own once more")
}

func TestServicesKeepAwayFromPeersButNotFromHubs(t *testing.T) {
	var p plan
	require.NoError(t, p.claim("", nil, owners(keyOf(1), prefixes("10.200.74.16/28", "10.200.0.0/16", "0.0.0.0/0", "10.0.0.0/8"))))
	require.Equal(t, prefixes("10.200.74.16/28"), p.elsewhere(prefixes("10.200.0.0/16")))
}
