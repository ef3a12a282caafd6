package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// refusedField fails the test unless err is about a field and says so.
func refusedField(t *testing.T, err error, field string) {
	t.Helper()
	require.ErrorIs(t, err, wire.InvalidRequest)
	e := reply(err)
	require.Equal(t, wire.InvalidRequest, e.Code)
	require.Equal(t, field, e.Field)
	require.True(t, strings.HasPrefix(e.Message, field+": "), e.Message)
	require.Less(t, len(e.Message), 500)
	require.NotContains(t, e.Message, "\n")
}

func TestNamesOfServicesArePrintable(t *testing.T) {
	for _, name := range []string{"web", "a", "Web_1.prod", `"&<>`, "a b", "é", strings.Repeat("x", maxLabel)} {
		require.NoError(t, checkName("service", name, false), name)
	}
	for _, name := range []string{"", " ", "a ", " a", "a/b", "a\nb", "a\u00a0b", "a\u202eb", "\xff", "\x7f", "a\x00", strings.Repeat("x", maxLabel+1)} {
		refusedField(t, checkName("service", name, false), "service")
	}
	require.NoError(t, checkName("deployment", "", true))
}

func TestNetworksAreOneOfAFamilyAtMost(t *testing.T) {
	for text, want := range map[string][]netip.Prefix{
		"":                             nil,
		"10.200.0.0/16":                prefixes("10.200.0.0/16"),
		"fd00:200::/48, 10.200.0.0/16": prefixes("10.200.0.0/16", "fd00:200::/48"),
		"10.0.0.0/8":                   prefixes("10.0.0.0/8"),
	} {
		got, err := parseNetworks("cluster_cidr", text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		" ", ",", "banana", "10.200.0.0", "10.200.0.0/33", "10.200.0.1/16", "10.200.0.0/16,", "10.200.0.0/16\n", "\t10.200.0.0/16",
		"10.200.0.0/16,10.200.0.0/16", "10.200.0.0/16,10.201.0.0/16", "fd00::/64,fd01::/64",
		"0.0.0.0/0", "10.0.0.0/7", "::/0", "127.0.0.0/8", "127.1.0.0/16", "169.254.0.0/16", "224.0.0.0/8", "0.0.0.0/8", "240.0.0.0/8",
		"fe80::/64", "ff00::/16", "::/16", "::ffff:10.0.0.0/104",
		strings.Repeat("10.200.0.0/16,", 100_000),
	} {
		_, err := parseNetworks("cluster_cidr", text)
		refusedField(t, err, "cluster_cidr")
	}
}

func prefixes(text ...string) (all []netip.Prefix) {
	for _, s := range text {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

const aKey = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="

func TestPeersAreReadAsTheContractHasThem(t *testing.T) {
	p, err := parsePeer("", wire.PeerSpec{PublicKey: aKey, Endpoint: "hub.example.net:51420", AllowedIPs: "fd00::/64, 10.200.7.0/28,0.0.0.0/0", Keepalive: 25})
	require.NoError(t, err)
	require.Equal(t, aKey, p.PublicKey.String())
	require.Equal(t, prefixes("0.0.0.0/0", "10.200.7.0/28", "fd00::/64"), p.AllowedIPs)
	require.Equal(t, wire.PeerSpec{PublicKey: aKey, Endpoint: "hub.example.net:51420", AllowedIPs: "0.0.0.0/0,10.200.7.0/28,fd00::/64", Keepalive: 25}, specOf(p))

	good := wire.PeerSpec{PublicKey: aKey, Endpoint: "192.0.2.1:51420", AllowedIPs: "10.200.7.0/28", Keepalive: 0}
	for name, change := range map[string]func(s *wire.PeerSpec){
		"public_key/no base64":       func(s *wire.PeerSpec) { s.PublicKey = "k" },
		"public_key/in hex":          func(s *wire.PeerSpec) { s.PublicKey = strings.Repeat("02", 32) },
		"public_key/with a line":     func(s *wire.PeerSpec) { s.PublicKey += "\nallowed_ip=0.0.0.0/0" },
		"allowed_ips/no prefix":      func(s *wire.PeerSpec) { s.AllowedIPs = "banana" },
		"allowed_ips/host bits":      func(s *wire.PeerSpec) { s.AllowedIPs = "10.200.7.1/28" },
		"allowed_ips/loopback":       func(s *wire.PeerSpec) { s.AllowedIPs = "127.0.0.1/32" },
		"allowed_ips/multicast":      func(s *wire.PeerSpec) { s.AllowedIPs = "10.200.7.0/28,ff02::/16" },
		"allowed_ips/a line":         func(s *wire.PeerSpec) { s.AllowedIPs += "\nendpoint=192.0.2.2:1" },
		"endpoint/a zone":            func(s *wire.PeerSpec) { s.Endpoint = "[2001:db8::1%eth0]:51420" },
		"persistent_keepalive_secs/": func(s *wire.PeerSpec) { s.Keepalive = 65536 },
	} {
		s := good
		change(&s)
		_, err := parsePeer("peers[3].", s)
		field, _, _ := strings.Cut(name, "/")
		refusedField(t, err, "peers[3]."+field)
	}
	many := make([]string, maxPrefixes+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	}
	s := good
	s.AllowedIPs = strings.Join(many[:maxPrefixes], ",")
	p, err = parsePeer("", s)
	require.NoError(t, err)
	require.Len(t, p.AllowedIPs, maxPrefixes)
	s.AllowedIPs = strings.Join(many, ",")
	_, err = parsePeer("", s)
	refusedField(t, err, "allowed_ips")
}

// FuzzAllowedIPs: whatever is taken is the same when it is written down and read
// again, and nothing is taken that a device would refuse for its form.
func FuzzAllowedIPs(f *testing.F) {
	for _, s := range []string{"", "10.200.0.0/16", "fd00::/8,10.0.0.0/8", "0.0.0.0/0,::/0", "::ffff:0:0/96", "10.0.0.0/8\n", " ,", "1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		all, err := parseAllowed("allowed_ips", list)
		if err != nil {
			require.ErrorIs(t, err, wire.InvalidRequest)
			return
		}
		again, err := parseAllowed("allowed_ips", join(all))
		require.NoError(t, err)
		require.Equal(t, all, again)
		for _, p := range all {
			require.True(t, p.IsValid() && p == p.Masked() && !p.Addr().Is4In6(), "%v", p)
		}
	})
}

func TestAPeersEndpointIsANameOrAnAddress(t *testing.T) {
	for endpoint, name := range map[string]string{
		"hub.example.net:51420": "hub.example.net",
		"192.0.2.1:51420":       "",
		"[2001:db8::1]:51420":   "",
		"":                      "",
		"no port":               "",
	} {
		require.Equal(t, name, hostName(endpoint), endpoint)
	}
	r := newResolver()
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, r.addresses("192.0.2.1:1"))
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, r.addresses("[::ffff:192.0.2.1]:1"))
	require.Empty(t, r.addresses("never.looked.up:1"))
}

func keyOf(n byte) overlay.PublicKey { return overlay.PublicKey{n} }
