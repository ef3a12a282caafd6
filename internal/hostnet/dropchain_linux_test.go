package hostnet_test

import (
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestChainsThatDropWhatIsForwardedAreFound(t *testing.T) {
	const docker = `table ip filter {
		chain DOCKER-USER { }
		chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
	}; `
	found := []hostnet.DropChain{{Family: "ip", Table: "filter", Name: "FORWARD", UserChain: "DOCKER-USER"}}
	for name, c := range map[string]struct {
		rules string
		want  []hostnet.DropChain
	}{
		"there are no rules":             {"", nil},
		"what is forwarded is accepted":  {"table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }", nil},
		"another hook drops":             {"table ip filter { chain INPUT { type filter hook input priority 0; policy drop; }; }", nil},
		"Docker drops":                   {docker, found},
		"two drop, one of them IPv6":     {docker + "table ip6 f { chain other { type filter hook forward priority 0; policy drop; }; }", append(found[:1:1], hostnet.DropChain{Family: "ip6", Table: "f", Name: "other"})},
		"both directions are accepted":   {docker + `add rule ip filter DOCKER-USER iifname "ovl-*" accept; add rule ip filter DOCKER-USER oifname "ovl-*" counter accept`, nil},
		"only one direction is":          {docker + `add rule ip filter DOCKER-USER iifname "ovl-*" accept`, found},
		"other links are accepted":       {docker + `add rule ip filter FORWARD iifname "docker0" accept; add rule ip filter FORWARD oifname "docker0" accept`, found},
		"ours are dropped":               {docker + `add rule ip filter FORWARD iifname "ovl-*" drop; add rule ip filter FORWARD oifname "ovl-*" drop`, found},
		"all but ours are accepted":      {docker + `add rule ip filter FORWARD iifname != "ovl-*" accept; add rule ip filter FORWARD oifname != "ovl-*" accept`, found},
		"links in sets are accepted":     {docker + `add rule ip filter FORWARD iifname { "ovl-a-b", "eth0" } accept; add rule ip filter FORWARD oifname { "ovl-a-b", "eth0" } accept`, nil},
		"a chain that is not led to is":  {docker + `add chain ip filter x; add rule ip filter x iifname "ovl-*" accept; add rule ip filter x oifname "ovl-*" accept`, found},
		"chains that lead to each other": {docker + `add chain ip filter x; add rule ip filter DOCKER-USER jump x; add chain ip filter y; add rule ip filter DOCKER-USER jump y; add rule ip filter x jump y; add rule ip filter y return`, found},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testnet.NewNamespace(t)
			h := openIn(t, ns)
			defer h.Close()
			if c.rules != "" {
				run(t, ns, "nft", c.rules)
			}
			got, err := h.DropChains("ovl-")
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}
