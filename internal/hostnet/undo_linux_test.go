package hostnet_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestALinkThatCannotBeLookedUpIsNotLeftBehind(t *testing.T) {
	h, elsewhere := newHost(t), newHost(t)
	bridge := newBridge(t, h)
	c := startContainer(t)
	fresh, inside := h.listing(t), c.run("ip", "link")
	h.LookElsewhere(elsewhere.Handle)

	other := testBridge
	other.Name, other.Alias, other.Addrs = "ovl-c", "overlayd:test:bridge:db", prefixes("10.200.9.1/24")
	_, made, err := h.EnsureBridge(other)
	require.ErrorIs(t, err, unix.ENODEV)
	require.ErrorContains(t, err, "bridge ovl-c: look up link ovl-c")
	require.False(t, made)

	_, err = h.AddVeth(eth0(bridge, c, 0))
	require.ErrorIs(t, err, unix.ENODEV)
	require.ErrorContains(t, err, "look up link ovl-0-s")

	same(t, fresh, h.listing(t))
	require.Equal(t, inside, c.run("ip", "link"))
}
