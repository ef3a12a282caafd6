package overlay

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func tunPrefixes(text ...string) (list []netip.Prefix) {
	for _, s := range text {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func TestTUNConfigDefaults(t *testing.T) {
	c, err := TUNConfig{}.checked()
	require.NoError(t, err)
	require.Equal(t, "ovl%d", c.Name)
	require.Equal(t, 1420, c.MTU)
	require.Equal(t, 1, c.Lanes)
}

func TestATUNConfigThatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		config TUNConfig
		field  string
		says   string
	}{
		"a name longer than the kernel takes":    {TUNConfig{Name: "sixteen-bytes-16"}, "Name", "longer than 15 bytes"},
		"a name with a slash":                    {TUNConfig{Name: "a/b"}, "Name", "printable"},
		"a name with a colon":                    {TUNConfig{Name: "ovl0:1"}, "Name", "printable"},
		"a name with a space":                    {TUNConfig{Name: "ovl 0"}, "Name", "printable"},
		"a name with a zero byte":                {TUNConfig{Name: "ovl\x00"}, "Name", "printable"},
		"a name that is not ASCII":               {TUNConfig{Name: "övl"}, "Name", "printable"},
		"a name that is not UTF-8":               {TUNConfig{Name: "ovl\xff"}, "Name", "printable"},
		"a name with another verb":               {TUNConfig{Name: "ovl%s"}, "Name", "%d"},
		"a name with two numbers":                {TUNConfig{Name: "o%dl%d"}, "Name", "%d"},
		"a name that is a folder":                {TUNConfig{Name: ".."}, "Name", "reserved"},
		"a name that sysctl has a meaning for":   {TUNConfig{Name: "all"}, "Name", "reserved"},
		"an MTU below what IPv4 hosts take":      {TUNConfig{MTU: 575}, "MTU", "from 576"},
		"an MTU below zero":                      {TUNConfig{MTU: -1}, "MTU", "from 576"},
		"an MTU that WireGuard cannot carry":     {TUNConfig{MTU: 65476}, "MTU", "65475"},
		"an MTU too small for an IPv6 address":   {TUNConfig{MTU: 1279, Addrs: tunPrefixes("fd00::1/64")}, "MTU", "from 1280"},
		"an MTU too small for an IPv6 route":     {TUNConfig{MTU: 1279, Routes: tunPrefixes("fd00::/64")}, "MTU", "from 1280"},
		"no address":                             {TUNConfig{Addrs: make([]netip.Prefix, 1)}, "Addrs", "no prefix"},
		"an IPv4 address in an IPv6 one":         {TUNConfig{Addrs: tunPrefixes("::ffff:10.0.0.1/120")}, "Addrs", "use 10.0.0.1"},
		"the unspecified address":                {TUNConfig{Addrs: tunPrefixes("0.0.0.0/8")}, "Addrs", "no address an interface can have"},
		"a multicast address":                    {TUNConfig{Addrs: tunPrefixes("ff02::1/64")}, "Addrs", "no address an interface can have"},
		"an address twice":                       {TUNConfig{Addrs: tunPrefixes("10.0.0.1/24", "10.0.0.1/24")}, "Addrs", "twice"},
		"an address twice in different networks": {TUNConfig{Addrs: tunPrefixes("10.0.0.1/24", "10.0.0.1/16")}, "Addrs", "twice"},
		"no route":                               {TUNConfig{Routes: make([]netip.Prefix, 1)}, "Routes", "no prefix"},
		"a route to an address in a network":     {TUNConfig{Routes: tunPrefixes("10.0.0.1/24")}, "Routes", "10.0.0.0/24 would do"},
		"a route twice":                          {TUNConfig{Routes: tunPrefixes("10.0.0.0/24", "::/0", "10.0.0.0/24")}, "Routes", "twice"},
		"fewer lanes than one":                   {TUNConfig{Lanes: -1}, "Lanes", "from 1 to 256"},
		"more lanes than the kernel has":         {TUNConfig{Lanes: 257}, "Lanes", "from 1 to 256"},
	} {
		t.Run(name, func(t *testing.T) {
			dev, err := OpenTUN(c.config)
			require.Nil(t, dev)
			refused, ok := errors.AsType[*ConfigError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.field, refused.Field)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestATUNConfigThatCanBeIsTaken(t *testing.T) {
	for name, c := range map[string]TUNConfig{
		"the longest name":             {Name: "fifteen-bytes-1"},
		"a number within the name":     {Name: "ovl%d-web"},
		"the smallest MTU":             {MTU: 576, Addrs: tunPrefixes("10.0.0.1/32")},
		"the smallest MTU with IPv6":   {MTU: 1280, Addrs: tunPrefixes("fd00::1/128")},
		"the largest MTU":              {MTU: 65475},
		"default routes":               {Routes: tunPrefixes("0.0.0.0/0", "::/0")},
		"several addresses in one net": {Addrs: tunPrefixes("10.0.0.1/24", "10.0.0.2/24")},
	} {
		_, err := c.checked()
		require.NoError(t, err, name)
	}
}

func TestOpenTUNKeepsNothingOfItsConfig(t *testing.T) {
	mine := TUNConfig{Addrs: tunPrefixes("10.0.0.1/24"), Routes: tunPrefixes("10.1.0.0/16")}
	checked, err := mine.checked()
	require.NoError(t, err)
	checked.Addrs[0], checked.Routes[0] = netip.Prefix{}, netip.Prefix{}
	require.Equal(t, TUNConfig{Addrs: tunPrefixes("10.0.0.1/24"), Routes: tunPrefixes("10.1.0.0/16")}, mine)
}
