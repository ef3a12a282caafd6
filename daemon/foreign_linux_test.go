package daemon

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
)

func TestRulesOfOthersThatDropAreToldOf(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const docker = "table %s filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }"
	d := newRuled(t)
	sh(t, "nft", strings.Replace(docker, "%s", "ip", 1))
	d.checkForeignRules()
	require.Empty(t, d.degraded(), "there is nothing of ours to drop")
	require.NoError(t, d.updateFirewall(func(f *hostnet.Firewall) {
		inside(f)
		f.Inside, f.Cluster = f.Inside[:1], []netip.Prefix{f.Cluster[0]}
	}))
	before := sh(t, "nft", "list", "ruleset")
	d.checkForeignRules()
	said := d.degraded()[partForeignRules]
	require.Contains(t, said, "FORWARD of the nftables table ip filter")
	require.Contains(t, strings.Join(d.warnings(), "\n"), said, "in the status")
	require.Equal(t, before, sh(t, "nft", "list", "ruleset"), "they are not ours")

	// What it says to do helps, as it stands there.
	for _, command := range strings.Split(said, "`") {
		if strings.HasPrefix(command, "nft ") {
			out, err := exec.Command("sh", "-c", command).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	d.checkForeignRules()
	require.Empty(t, d.degraded())
	require.Contains(t, sh(t, "nft", "list", "chain", "ip", "filter", "DOCKER-USER"), `oifname "ovl-*" accept`)

	sh(t, "nft", strings.Replace(docker, "%s", "ip6", 1))
	d.checkForeignRules()
	require.Empty(t, d.degraded(), "there is no IPv6")
	require.NoError(t, d.updateFirewall(inside))
	d.checkForeignRules()
	require.Contains(t, d.degraded()[partForeignRules], "table ip6 filter")
	require.NoError(t, d.updateFirewall(nothing))
	d.checkForeignRules()
	require.Empty(t, d.degraded())
}
