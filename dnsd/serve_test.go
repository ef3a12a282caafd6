package dnsd_test

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overlayd/overlayd/dnsd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newZone(t testing.TB, cfg dnsd.ZoneConfig) *dnsd.Zone {
	t.Helper()
	if cfg.Origin == "" {
		cfg.Origin = "overlay.internal"
	}
	z, err := dnsd.NewZone(cfg)
	require.NoError(t, err)
	return z
}

func listen(t testing.TB, cfg dnsd.Config) string {
	t.Helper()
	s, err := dnsd.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	l, err := s.Listen("127.0.0.1:0")
	require.NoError(t, err)
	return l.Addr().String()
}

func TestAZoneIsServedOverUDPAndTCP(t *testing.T) {
	zone := newZone(t, dnsd.ZoneConfig{})
	web := netip.MustParseAddr("10.200.3.4")
	web6 := netip.MustParseAddr("fd00:200::4")
	require.NoError(t, zone.SetAddresses("web", web, web6))
	addr := listen(t, dnsd.Config{Zones: []*dnsd.Zone{zone}})
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network}
		for _, q := range []struct {
			name       string
			recordType uint16
			want       string
		}{
			{"web.overlay.internal.", dns.TypeA, "web.overlay.internal.\t30\tIN\tA\t10.200.3.4"},
			{"WEB.overlay.internal.", dns.TypeAAAA, "WEB.overlay.internal.\t30\tIN\tAAAA\tfd00:200::4"},
			{"4.3.200.10.in-addr.arpa.", dns.TypePTR, "4.3.200.10.in-addr.arpa.\t30\tIN\tPTR\tweb.overlay.internal."},
		} {
			resp, _, err := c.Exchange(new(dns.Msg).SetQuestion(q.name, q.recordType), addr)
			require.NoError(t, err)
			require.True(t, resp.Authoritative)
			require.Len(t, resp.Answer, 1)
			require.Equal(t, q.want, resp.Answer[0].String())
		}
		resp, _, err := c.Exchange(new(dns.Msg).SetQuestion("none.overlay.internal.", dns.TypeA), addr)
		require.NoError(t, err)
		require.Equal(t, dns.RcodeNameError, resp.Rcode)
		require.Len(t, resp.Ns, 1)
	}
}
