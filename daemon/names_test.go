package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

func openNamed(t testing.TB) *Daemon {
	t.Helper()
	d := newParts(t)
	require.NoError(t, d.openNames(nil))
	t.Cleanup(d.closeNames)
	return d
}

func register(t testing.TB, d *Daemon, name, ip string, mode wire.DNSMode) {
	t.Helper()
	require.NoError(t, d.registerDNS(context.Background(), wire.RegisterDNS{Name: name, IP: netip.MustParseAddr(ip), Mode: mode}))
}

// addresses is what a name resolves to, as text; nil if it is not there.
func addresses(t testing.TB, d *Daemon, name string) []string {
	t.Helper()
	r, err := d.resolve(wire.Resolve{Name: name})
	if err != nil {
		require.ErrorIs(t, err, wire.NotFound)
		return nil
	}
	var list []string
	for _, ip := range r.IPs {
		list = append(list, ip.String())
	}
	return list
}

func TestARegisteredAddressReplacesThatOfItsFamily(t *testing.T) {
	d := openNamed(t)
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	register(t, d, "WEB.overlay.internal", "fd00:200::1", wire.DNSReplace)
	require.Equal(t, []string{"10.200.1.1", "fd00:200::1"}, addresses(t, d, "web"))
	register(t, d, "web.overlay.internal.", "10.200.1.2", wire.DNSReplace)
	require.Equal(t, []string{"10.200.1.2", "fd00:200::1"}, addresses(t, d, "web"))
	register(t, d, "web", "10.200.1.1", wire.DNSAdd)
	register(t, d, "web", "10.200.1.1", wire.DNSAdd)
	require.Equal(t, []string{"10.200.1.1", "10.200.1.2", "fd00:200::1"}, addresses(t, d, "Web"))
	register(t, d, "web", "::ffff:10.200.1.3", wire.DNSReplace)
	require.Equal(t, []string{"10.200.1.3", "fd00:200::1"}, addresses(t, d, "web"))

	r, err := d.resolve(wire.Resolve{Name: "Web"})
	require.NoError(t, err)
	require.Equal(t, "web.overlay.internal", r.Name)
	require.EqualValues(t, 30, r.TTL)
}

func TestAnUnregisteredNameIsGoneAtOnce(t *testing.T) {
	d := openNamed(t)
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	register(t, d, "web", "fd00:200::1", wire.DNSReplace)
	for range 2 { // an unknown one is no error
		require.NoError(t, d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: "web"}))
		require.Nil(t, addresses(t, d, "web"))
	}
	require.Zero(t, d.names.count)
	require.Zero(t, d.names.size)
	require.Zero(t, d.dnsStatus().Names)
}

func TestNamesAreThereAfterARestart(t *testing.T) {
	d := openNamed(t)
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	register(t, d, "web", "10.200.1.2", wire.DNSAdd)
	register(t, d, "db.prod", "10.200.1.3", wire.DNSReplace)
	register(t, d, "gone", "10.200.1.4", wire.DNSReplace)
	require.NoError(t, d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: "gone"}))
	before, err := d.listDNS()
	require.NoError(t, err)

	d, recorded := reopen(t, d)
	require.NoError(t, d.openNames(recorded.Records))
	defer d.closeNames()
	after, err := d.listDNS()
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, wire.DNS{Zone: "overlay.internal", Records: []wire.DNSRecord{
		{Name: "db.prod", IP: netip.MustParseAddr("10.200.1.3"), TTL: 30},
		{Name: "web", IP: netip.MustParseAddr("10.200.1.1"), TTL: 30},
		{Name: "web", IP: netip.MustParseAddr("10.200.1.2"), TTL: 30},
	}}, after)
}

func TestANameThatCannotBeRecordedIsNotServed(t *testing.T) {
	d := openNamed(t)
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	require.NoError(t, d.store.Close())
	err := d.registerDNS(context.Background(), wire.RegisterDNS{Name: "web", IP: netip.MustParseAddr("10.200.1.2")})
	require.ErrorContains(t, err, `record name "web"`)
	require.Error(t, d.registerDNS(context.Background(), wire.RegisterDNS{Name: "new", IP: netip.MustParseAddr("10.200.1.2")}))
	require.Equal(t, []string{"10.200.1.1"}, addresses(t, d, "web"))
	require.Nil(t, addresses(t, d, "new"))
	require.Equal(t, 1, d.names.count)
	records, err := d.names.server.zone.Lookup("new")
	require.NoError(t, err)
	require.Empty(t, records)
	require.Error(t, d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: "web"}))
	require.Equal(t, []string{"10.200.1.1"}, addresses(t, d, "web"))
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	d := openNamed(t)
	label := strings.Repeat("a", 63)
	for what, name := range map[string]string{
		"an empty name":                   "",
		"a dot":                           ".",
		"the zone itself":                 "overlay.internal",
		"the zone itself, in full":        "Overlay.Internal.",
		"the origin's sign":               "@",
		"a name in full outside the zone": "web.example.com.",
		"a wildcard":                      "*",
		"a wildcard below a name":         "*.web",
		"two dots":                        "web..db",
		"a dot at the beginning":          ".web",
		"two dots at the end":             "web..",
		"a space":                         "we b",
		"a slash":                         "../../etc/passwd",
		"a line break":                    "web\nweb2",
		"a zero byte":                     "web\x00",
		"an escape":                       `we\046b`,
		"a letter that is none of ASCII":  "wéb",
		"a letter that looks like one":    "\u212aube", // the Kelvin sign, whose lower case is k
		"broken UTF-8":                    "web\xff",
		"a hyphen at the beginning":       "-web",
		"a hyphen at the end":             "web-.db",
		"a label of 64 bytes":             label + "a",
		"254 bytes with the zone":         strings.Join([]string{label, label, label, strings.Repeat("b", 45)}, "."),
		"a name with the zone twice":      "web.overlay.internal.overlay.internal",
		"the zone below itself":           "overlay.internal.overlay.internal",
		"a mebibyte":                      strings.Repeat("a", 1<<20),
		"a mebibyte of dots":              strings.Repeat("a.", 1<<19),
	} {
		for op, err := range map[string]error{
			"register":   d.registerDNS(context.Background(), wire.RegisterDNS{Name: name, IP: netip.MustParseAddr("10.200.1.1")}),
			"unregister": d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: name}),
			"resolve":    func() error { _, err := d.resolve(wire.Resolve{Name: name}); return err }(),
		} {
			require.ErrorIs(t, err, wire.InvalidRequest, "%s: %s", what, op)
			require.Equal(t, "name", err.(*Error).Field, what)
			require.Less(t, len(err.Error()), 1024, what)
			require.NotContains(t, err.Error(), "\n", what)
		}
	}
	require.Empty(t, d.names.records)
	require.NoError(t, d.unregisterDNS(context.Background(), wire.UnregisterDNS{Name: strings.Join([]string{label, label, label, strings.Repeat("b", 44)}, ".")}))

	for _, ip := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(),
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1"),
		netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fd00::1%eth0")} {
		err := d.registerDNS(context.Background(), wire.RegisterDNS{Name: "web", IP: ip})
		require.ErrorIs(t, err, wire.InvalidRequest, "%v", ip)
		require.Equal(t, "ip", err.(*Error).Field)
	}
	require.Empty(t, d.names.records)
}

func TestNamesAreBounded(t *testing.T) {
	d := openNamed(t)
	n := &d.names
	for i := range maxNameAddrs {
		require.NoError(t, n.set("web", append(n.addrs("web"), netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}))))
	}
	err := d.registerDNS(context.Background(), wire.RegisterDNS{Name: "web", IP: netip.MustParseAddr("10.200.9.9"), Mode: wire.DNSAdd})
	require.ErrorIs(t, err, wire.Exhausted)

	n.count = maxRecords
	err = d.registerDNS(context.Background(), wire.RegisterDNS{Name: "db", IP: netip.MustParseAddr("10.200.9.9")})
	require.ErrorIs(t, err, wire.Exhausted)
	require.ErrorContains(t, err, fmt.Sprint(maxRecords))
	register(t, d, "web", "10.200.1.1", wire.DNSReplace) // to have less is no more
	n.count = 1

	n.size = maxNameList
	err = d.registerDNS(context.Background(), wire.RegisterDNS{Name: "db", IP: netip.MustParseAddr("10.200.9.9")})
	require.ErrorIs(t, err, wire.Exhausted)
	require.Nil(t, addresses(t, d, "db"))
}

// The list of as many names as there may be, each as long as it may be, is a frame
// that can be sent.
func TestTheListOfNamesFitsAFrame(t *testing.T) {
	d := openNamed(t)
	n := &d.names
	ip := netip.MustParseAddr("fd00:200:ffff:ffff:ffff:ffff:ffff:ffff")
	label := strings.Repeat("a", 63)
	for i := 0; ; i++ {
		if err := n.set(fmt.Sprintf("%s.%s.%s.%d", label, label, label, i), []netip.Addr{ip}); err != nil {
			require.ErrorIs(t, err, wire.Exhausted)
			require.Greater(t, i, 20_000)
			break
		}
	}
	list, err := d.listDNS()
	require.NoError(t, err)
	frame, err := wire.AppendFrame(nil, wire.ResponseFrame{ID: 1<<64 - 1, Response: list})
	require.NoError(t, err)
	require.Less(t, len(frame), wire.MaxFrame)
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"web", "web.overlay.internal", "web.overlay.internal.", "*.a", "..", "a-b_c.d", "\xff", "@", "K\u212a"} {
		f.Add(seed)
	}
	d := openNamed(f)
	n := &d.names
	ip := netip.MustParseAddr("10.200.1.1")
	f.Fuzz(func(t *testing.T, text string) {
		name, err := n.relative("name", text)
		if err != nil {
			require.ErrorIs(t, err, wire.InvalidRequest)
			return
		}
		// A name that is taken can be served, found in every form, and removed.
		require.NoError(t, n.set(name, []netip.Addr{ip}))
		for _, form := range []string{text, name, strings.ToUpper(name), name + "." + n.zone, name + "." + n.zone + "."} {
			again, err := n.relative("name", form)
			require.NoError(t, err, "%q", form)
			require.Equal(t, name, again, "%q", form)
		}
		records, err := n.server.zone.Lookup(name)
		require.NoError(t, err)
		require.Len(t, records, 1)
		require.NoError(t, n.set(name, nil))
		require.Zero(t, n.server.zone.Len())
		require.Zero(t, n.count)
		require.Zero(t, n.size)
	})
}
