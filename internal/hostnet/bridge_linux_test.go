package hostnet_test

import (
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
)

func TestABridgeIsMadeOnceAndThenTaken(t *testing.T) {
	h := newHost(t)
	first := newBridge(t, h)
	listing := h.listing(t)
	again, made, err := h.EnsureBridge(testBridge)
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, first, again)
	same(t, listing, h.listing(t))

	show := ip(t, h.Namespace, "-details", "link", "show", "dev", "ovl-b")[0]
	require.EqualValues(t, mtu, show["mtu"])
	require.Equal(t, testBridge.Alias, show["ifalias"])
	data := show["linkinfo"].(map[string]any)["info_data"].(map[string]any)
	require.EqualValues(t, 0, data["stp_state"])
	require.EqualValues(t, 0, data["forward_delay"])
	require.EqualValues(t, 0, data["mcast_snooping"])
	for _, addr := range []string{"10.200.1.1", "fd00:200:0:1::1"} {
		run(t, h.Namespace, once(addr)...)
	}
}

func TestABridgeKeepsItsMTUAndItsHardwareAddress(t *testing.T) {
	for _, size := range []int{1280, 1420, 1500} {
		h := newHost(t)
		want := testBridge
		want.MTU = size
		bridge, _, err := h.EnsureBridge(want)
		require.NoError(t, err)
		run(t, h.Namespace, "sh", "-ec", "ip link add port address 02:00:00:00:00:01 mtu 1290 type veth; ip link set port master ovl-b up")
		now, err := h.Link(bridge.Index)
		require.NoError(t, err)
		require.Equal(t, bridge, now)
		run(t, h.Namespace, "ip", "link", "del", "port")
		now, err = h.Link(bridge.Index)
		require.NoError(t, err)
		require.Equal(t, bridge, now)
	}
}

func TestABridgeBecomesWhatItIsToBe(t *testing.T) {
	for name, before := range map[string]string{
		"ours that was changed":         "ip link add ovl-b mtu 1300 type bridge stp_state 1; ip link set ovl-b alias overlayd:test:bridge:web; ip addr add 10.200.1.9/22 dev ovl-b; ip addr add 10.200.1.1/22 dev ovl-b; ip addr add 192.0.2.1/24 dev ovl-b; ip link set ovl-b up",
		"one that was just being made":  "ip link add ovl-b type bridge",
		"with an address of our prefix": "ip link add ovl-b type bridge; ip addr add 10.200.1.1/28 dev ovl-b; ip -6 addr add fd00:200:0:1::1/64 dev ovl-b",
		"with IPv6 turned off":          "ip link add ovl-b type bridge; sysctl -qw net.ipv6.conf.ovl-b.disable_ipv6=1",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			run(t, h.Namespace, "sh", "-ec", before)
			link, made, err := h.EnsureBridge(testBridge)
			require.NoError(t, err)
			require.False(t, made)
			require.True(t, link.Up)
			require.Equal(t, mtu, link.MTU)
			require.Equal(t, testBridge.Alias, link.Alias)
			var has []string
			for _, a := range ip(t, h.Namespace, "addr", "show", "dev", "ovl-b", "scope", "global")[0]["addr_info"].([]any) {
				if a := a.(map[string]any); a["local"] != nil {
					has = append(has, a["local"].(string))
					require.NotContains(t, a, "tentative")
				}
			}
			require.ElementsMatch(t, []string{"10.200.1.1", "fd00:200:0:1::1"}, has)
			c := startContainer(t)
			_, err = h.AddVeth(eth0(link, c, 0))
			require.NoError(t, err)
			c.run(once("10.200.1.1")...)
			c.run(once("fd00:200:0:1::1")...)
		})
	}
}

func TestABridgeOfOthersIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct{ before, says string }{
		"another kind of link":           {"ip link add ovl-b type veth peer name other; ip link set ovl-b alias overlayd:test:bridge:web", "a veth"},
		"another alias":                  {"ip link add ovl-b type bridge; ip link set ovl-b alias overlayd:test:bridge:db", `"overlayd:test:bridge:db"`},
		"no alias, but a port":           {"ip link add ovl-b type bridge; ip link add dev p type veth; ip link set p master ovl-b", "with p as its port"},
		"another's alias, without ports": {"ip link add ovl-b type bridge; ip link set ovl-b alias lan", `"lan"`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			run(t, h.Namespace, "sh", "-ec", c.before)
			before := h.listing(t)
			_, made, err := h.EnsureBridge(testBridge)
			require.ErrorIs(t, err, hostnet.ErrForeign)
			require.ErrorContains(t, err, c.says)
			require.False(t, made)
			same(t, before, h.listing(t))
		})
	}
}

func TestNothingIsLeftOfABridgeThatCannotBe(t *testing.T) {
	h := newHost(t)
	before := h.listing(t)
	for name, change := range map[string]func(b *hostnet.Bridge){
		"an MTU out of range":   func(b *hostnet.Bridge) { b.MTU = 1 << 20 },
		"an address of a group": func(b *hostnet.Bridge) { b.Addrs = prefixes("10.200.1.1/22", "ff02::1/64") },
		"an alias too long":     func(b *hostnet.Bridge) { b.Alias = string(make([]byte, 300)) },
		"a name too long":       func(b *hostnet.Bridge) { b.Name = "ovl-0123456789ab" },
	} {
		b := testBridge
		change(&b)
		_, _, err := h.EnsureBridge(b)
		require.Error(t, err, name)
		same(t, before, h.listing(t))
	}
}
