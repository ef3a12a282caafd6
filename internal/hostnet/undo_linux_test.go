package hostnet_test

import (
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
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

func TestAPartOfTheRulesIsRemovedToo(t *testing.T) {
	for name, damage := range map[string]string{
		"without the main table": "nft delete table inet overlayd",
		"without its sets":       "nft delete table inet overlayd; nft add table inet overlayd",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			bridge := newBridge(t, h)
			require.NoError(t, h.SetFirewall(hostnet.Firewall{Bridges: []string{bridge.Name}, Cluster: prefixes("10.200.0.0/16"), MTU: mtu}))
			run(t, h.Namespace, "sh", "-ec", damage)
			require.NoError(t, h.RemoveFirewall())
			require.Empty(t, run(t, h.Namespace, "nft", "list", "ruleset"))
		})
	}
}
