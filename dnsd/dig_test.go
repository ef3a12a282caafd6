package dnsd

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDig has an independent client check the answers: dig of BIND.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig (bind9-dnsutils) is not installed")
	}
	z := testZone(t)
	require.NoError(t, z.Update(func(tx *Tx) error {
		for i := range 60 { // 960 bytes of records
			if err := tx.Add(Record{Name: "sixty", Data: Address(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))}); err != nil {
				return err
			}
		}
		return nil
	}))
	up := newUpstream(t, answers(0, "example.com. 60 IN A 192.0.2.1"))
	s := testServer(t, Config{Zones: []*Zone{z}, Forward: &Forward{Upstreams: []Upstream{up.upstream()}}})
	host, port, err := net.SplitHostPort(listen(t, s, "127.0.0.1:0").Addr().String())
	require.NoError(t, err)
	for _, c := range []struct {
		args string
		says []string
		not  string
	}{
		{"web.overlay.internal A", []string{"status: NOERROR", "flags: qr aa rd ra;", "ANSWER: 1,", "10.200.3.4"}, ""},
		{"WEB.overlay.internal AAAA", []string{"status: NOERROR", "WEB.overlay.internal.", "fd00:200::4"}, ""},
		{"www2.overlay.internal A", []string{"ANSWER: 3,", "CNAME", "10.200.3.4"}, ""},
		{"_http._tcp.overlay.internal SRV", []string{"1 2 80 web.overlay.internal."}, ""},
		{"web.overlay.internal TXT", []string{`"hello" "world"`, "\t5\tIN"}, ""},
		{"x.y.wild.overlay.internal A", []string{"10.200.9.9"}, ""},
		{"-x 10.200.3.4", []string{"4.3.200.10.in-addr.arpa.", "web.overlay.internal."}, ""},
		{"-x fd00:200::4", []string{"ip6.arpa.", "web.overlay.internal."}, ""},
		{"v4.overlay.internal AAAA", []string{"status: NOERROR", "ANSWER: 0,", "AUTHORITY: 1,", "SOA"}, ""},
		{"nope.overlay.internal A", []string{"status: NXDOMAIN", "AUTHORITY: 1,", "SOA"}, ""},
		{"overlay.internal SOA", []string{"ns1.overlay.internal. hostmaster.overlay.internal."}, ""},
		{"overlay.internal NS", []string{"ns1.overlay.internal.", "ns2.overlay.internal."}, ""},
		{"overlay.internal AXFR", []string{"Transfer failed"}, ""},
		{"example.com A", []string{"flags: qr rd ra;", "192.0.2.1"}, ""},
		{"+norecurse example.com A", []string{"status: REFUSED"}, ""},
		{"+edns=0 +bufsize=4096 sixty.overlay.internal A", []string{"ANSWER: 60,", "version: 0", "udp: 1232"}, "Truncated"},
		{"+edns=0 +bufsize=1232 sixty.overlay.internal A", []string{"ANSWER: 60,"}, "Truncated"},
		{"+edns=0 +bufsize=600 +ignore sixty.overlay.internal A", []string{"flags: qr aa tc rd ra;", "ANSWER: 0,"}, ""},
		{"+edns=0 +bufsize=600 sixty.overlay.internal A", []string{"ANSWER: 60,", "retrying in TCP mode"}, ""},
		{"+noedns sixty.overlay.internal A", []string{"ANSWER: 60,", "retrying in TCP mode"}, "EDNS:"},
		{"+noedns +ignore sixty.overlay.internal A", []string{"flags: qr aa tc rd ra;", "ANSWER: 0,"}, ""},
		{"+edns=1 +noednsneg web.overlay.internal A", []string{"status: BADVERS"}, ""},
		{"+dnssec web.overlay.internal A", []string{"flags: do;", "10.200.3.4"}, ""},
		{"+nsid +cookie +subnet=10.0.0.0/8 web.overlay.internal A", []string{"10.200.3.4"}, ""},
		{"+opcode=2 web.overlay.internal A", []string{"status: NOTIMP"}, ""},
		{"web.overlay.internal CH A", []string{"status: REFUSED"}, ""},
		{"+header-only web.overlay.internal", []string{"status: FORMERR"}, ""},
	} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			if transport == "+tcp" && (strings.Contains(c.args, "+ignore") || len(c.says) > 1 && strings.HasPrefix(c.says[1], "retrying")) {
				continue // about UDP
			}
			t.Run(c.args+" "+transport, func(t *testing.T) {
				args := append([]string{"@" + host, "-p", port, "+tries=1", "+time=5", transport}, strings.Fields(c.args)...)
				out, err := exec.Command(dig, args...).CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.NotContains(t, string(out), "Warning")
				require.NotContains(t, string(out), "malformed")
				for _, says := range c.says {
					require.Contains(t, string(out), says)
				}
				if c.not != "" {
					require.NotContains(t, string(out), c.not)
				}
			})
		}
	}
	t.Run("+keepopen, many queries on a connection", func(t *testing.T) {
		args := []string{"@" + host, "-p", port, "+tcp", "+keepopen", "+short"}
		for i := range 60 {
			args = append(args, "-x", fmt.Sprint("10.9.0.", i))
		}
		out, err := exec.Command(dig, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, 60, strings.Count(string(out), "sixty.overlay.internal."))
	})
}
