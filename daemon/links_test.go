package daemon

import (
	"strings"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func TestALinkIsNamedAfterWhatItIsOf(t *testing.T) {
	for _, c := range []struct {
		suffix string
		parts  []string
		want   string
	}{
		{suffixGlobal, []string{"prod", "42"}, "ovl-prod-42-g"},
		{suffixBridge, []string{"", "", "web"}, "ovl-web-b"},
		{suffixBridge, []string{"a", "", "web"}, "ovl-a-web-b"},
		{suffixGlobal, []string{"", ""}, "ovl-g"},
		{suffixBridge, []string{"a", "1", "w.eb"}, "ovl-a-1-w.eb-b"},
		// What is too long for a link, or hard to read, is hashed.
		{suffixGlobal, []string{"production", "424242"}, "ovl-917241f41-g"},
		{suffixBridge, []string{"production", "424242", "web"}, "ovl-82d73f22a-b"},
		{suffixDedicated, []string{"production", "424242", "web"}, "ovl-82dd3f22a-d"},
		// And so is what might be a-1's web.
		{suffixBridge, []string{"", "", "a-1-web"}, "ovl-6f3bd2bfc-b"},
		{suffixBridge, []string{"", "", "Web"}, "ovl-8855d23d3-b"},
	} {
		require.Equal(t, c.want, linkName(c.suffix, c.parts...), "%v", c.parts)
	}
}

func TestNamesOfLinksAreShortAndDiffer(t *testing.T) {
	long := strings.Repeat("x", maxLabel)
	seen := make(map[string]bool)
	for _, parts := range [][]string{{long}, {long, ""}, {"", long}, {long + "y"}, {"a b"}, {"a", " b"}, {"é"}, {"", "", ""}, {"%d"}, {":"}} {
		for _, suffix := range []string{suffixGlobal, suffixBridge, suffixDedicated} {
			name := linkName(suffix, parts...)
			require.LessOrEqual(t, len(name), maxLinkName)
			require.False(t, strings.ContainsFunc(name, unusual), name)
			require.True(t, strings.HasPrefix(name, "ovl-") && strings.HasSuffix(name, "-"+suffix), name)
			require.False(t, seen[name], "%q of %q", name, parts)
			seen[name] = true
		}
	}
}

func TestALinkIsOursByItsAlias(t *testing.T) {
	var key overlay.PublicKey
	copy(key[:], "\x01\x02\x03\x04\x05")
	d := &Daemon{installation: installation(key)}
	alias := d.alias(kindBridge, "a:b")
	require.Equal(t, "overlayd:01020304:bridge:a:b", alias)
	kind, owner, ours := d.owned(hostnet.Link{Name: "whatever", Alias: alias})
	require.True(t, ours)
	require.Equal(t, kindBridge, kind)
	require.Equal(t, "a:b", owner)

	for _, foreign := range []string{"", "overlayd:", "overlayd:01020305:bridge:web", "docker0", "x" + alias} {
		_, _, ours := d.owned(hostnet.Link{Name: linkName(suffixBridge, "web"), Alias: foreign})
		require.False(t, ours, foreign)
	}
	require.LessOrEqual(t, len(d.alias(kindDedicated, strings.Repeat("x", maxLabel))), 255, "what a link takes (IFALIASZ of linux/if.h)")
}
