package dnsd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// testZone has something of everything a zone can hold.
func testZone(tb testing.TB) *Zone {
	z, err := NewZone(ZoneConfig{
		Origin:      "overlay.internal",
		Nameservers: []string{"ns1", "ns2"},
		Reverse:     []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("fd00:200::/48")},
	})
	require.NoError(tb, err)
	require.NoError(tb, z.Update(func(tx *Tx) error {
		var many TXT
		for range 5 {
			many = append(many, strings.Repeat("x", 255))
		}
		for _, r := range []Record{
			{Name: "web", Data: Address(netip.MustParseAddr("10.200.3.4"))},
			{Name: "web", Data: Address(netip.MustParseAddr("fd00:200::4"))},
			{Name: "web", TTL: 5e9, Data: TXT{"hello", "world"}},
			{Name: "v4", Data: Address(netip.MustParseAddr("10.200.3.5"))},
			{Name: "pool", Data: Address(netip.MustParseAddr("10.200.4.1"))},
			{Name: "pool", Data: Address(netip.MustParseAddr("10.200.4.2"))},
			{Name: "pool", Data: Address(netip.MustParseAddr("10.200.4.3"))},
			{Name: "www", Data: CNAME("web")},
			{Name: "www2", Data: CNAME("www")},
			{Name: "dangling", Data: CNAME("nowhere")},
			{Name: "away", Data: CNAME("example.com.")},
			{Name: "loop1", Data: CNAME("loop2")},
			{Name: "loop2", Data: CNAME("loop1")},
			{Name: "_http._tcp", Data: SRV{Priority: 1, Weight: 2, Port: 80, Target: "web"}},
			{Name: "deep.empty", Data: TXT{"here"}},
			{Name: "*.wild", Data: Address(netip.MustParseAddr("10.200.9.9"))},
			{Name: "exact.wild", Data: TXT{"I stand in the way"}},
			{Name: "below.ent.wild", Data: TXT{"so does the name above me"}},
			{Name: "*.alias", Data: CNAME("web")},
			{Name: "big", Data: many},
			{Name: "outside", Data: Address(netip.MustParseAddr("192.0.2.7"))},
			{Name: "UPPER", Data: CNAME("WeB")},
		} {
			if err := tx.Add(r); err != nil {
				return err
			}
		}
		return nil
	}))
	return z
}

func testServer(tb testing.TB, cfg Config) *Server {
	s, err := New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

var local = client{addr: netip.MustParseAddrPort("127.0.0.1:5000")}

// inPlace asks the in-place path; nil when it leaves the query to the other.
func inPlace(tb testing.TB, s *Server, query []byte, from client) []byte {
	w := worker{server: s, now: s.clock()}
	buf := make([]byte, maxQuery)
	n, v := w.receive(buf, copy(buf, query), &from)
	w.tally.flush(&s.counters)
	if v != answered {
		return nil
	}
	require.LessOrEqual(tb, n, len(buf))
	return buf[:n]
}

// ask asks both paths and requires that they say the same.
func ask(tb testing.TB, s *Server, m *dns.Msg, from client) *dns.Msg {
	query, err := m.Pack()
	require.NoError(tb, err)
	from.recurse = s.forward != nil && s.recurse.hold(from.addr.Addr())
	resp := new(dns.Msg)
	require.NoError(tb, resp.Unpack(s.handle(tb.Context(), query, from)))
	if fast := inPlace(tb, s, query, from); fast != nil {
		other := new(dns.Msg)
		require.NoError(tb, other.Unpack(fast))
		require.Equal(tb, text(resp), text(other), "the two paths differ")
	}
	return resp
}

// text is a message with its records in order, so that rotation does not show,
// and a zone's name, which may be in the question's case or its own, in one case.
func text(m *dns.Msg) string {
	m = m.Copy()
	for _, rr := range m.Ns {
		rr.Header().Name = strings.ToLower(rr.Header().Name)
	}
	byText := func(a, b dns.RR) int { return strings.Compare(a.String(), b.String()) }
	slices.SortFunc(m.Answer, byText)
	slices.SortFunc(m.Ns, byText)
	return m.String()
}

func question1(name string, recordType uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, recordType)
	m.Id = 4711
	return m
}

// lines are records as text, without the serial number of an SOA record.
func lines(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if soa, ok := rr.(*dns.SOA); ok {
			out = append(out, strings.ReplaceAll(strings.Replace(
				soa.String(), strconv.Itoa(int(soa.Serial)), "SERIAL", 1), "\t", " "))
			continue
		}
		out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	slices.Sort(out)
	return out
}

func TestAuthoritativeAnswersFollowTheRFCs(t *testing.T) {
	z := testZone(t)
	s := testServer(t, Config{Zones: []*Zone{z}})
	soa := "overlay.internal. 5 IN SOA ns1.overlay.internal. hostmaster.overlay.internal. SERIAL 1200 180 1209600 5"
	for _, c := range []struct {
		does       string
		name       string
		recordType uint16
		rcode      int
		answer     []string
		authority  []string
	}{
		{"RFC 1035 3.4.1: an A record", "web.overlay.internal.", dns.TypeA, 0,
			[]string{"web.overlay.internal. 30 IN A 10.200.3.4"}, nil},
		{"RFC 3596 2.1: an AAAA record", "web.overlay.internal.", dns.TypeAAAA, 0,
			[]string{"web.overlay.internal. 30 IN AAAA fd00:200::4"}, nil},
		{"RFC 1035 3.3.14: a TXT record, with a TTL of its own", "web.overlay.internal.", dns.TypeTXT, 0,
			[]string{`web.overlay.internal. 5 IN TXT "hello" "world"`}, nil},
		{"RFC 2782: an SRV record", "_http._tcp.overlay.internal.", dns.TypeSRV, 0,
			[]string{"_http._tcp.overlay.internal. 30 IN SRV 1 2 80 web.overlay.internal."}, nil},
		{"RFC 1035 3.3.13: the SOA record", "overlay.internal.", dns.TypeSOA, 0,
			[]string{strings.Replace(soa, " 5 IN", " 30 IN", 1)}, nil},
		{"RFC 1035 3.3.11: the NS records", "overlay.internal.", dns.TypeNS, 0, []string{
			"overlay.internal. 30 IN NS ns1.overlay.internal.", "overlay.internal. 30 IN NS ns2.overlay.internal."}, nil},
		{"RFC 1035 3.5: the PTR record of an IPv4 address", "4.3.200.10.in-addr.arpa.", dns.TypePTR, 0,
			[]string{"4.3.200.10.in-addr.arpa. 30 IN PTR web.overlay.internal."}, nil},
		{"RFC 3596 2.5: the PTR record of an IPv6 address",
			"4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa.", dns.TypePTR, 0,
			[]string{"4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa. 30 IN PTR web.overlay.internal."}, nil},
		{"RFC 4343: letters match in either case, and keep that of the question", "wEb.OVERLAY.internal.", dns.TypeA, 0,
			[]string{"wEb.OVERLAY.internal. 30 IN A 10.200.3.4"}, nil},
		{"RFC 1034 3.6.2: an alias, and what it leads to", "www.overlay.internal.", dns.TypeA, 0, []string{
			"web.overlay.internal. 30 IN A 10.200.3.4", "www.overlay.internal. 30 IN CNAME web.overlay.internal."}, nil},
		{"RFC 1034 3.6.2: an alias of an alias", "www2.overlay.internal.", dns.TypeA, 0, []string{
			"web.overlay.internal. 30 IN A 10.200.3.4", "www.overlay.internal. 30 IN CNAME web.overlay.internal.",
			"www2.overlay.internal. 30 IN CNAME www.overlay.internal."}, nil},
		{"RFC 1034 3.6.2: the alias itself", "www.overlay.internal.", dns.TypeCNAME, 0,
			[]string{"www.overlay.internal. 30 IN CNAME web.overlay.internal."}, nil},
		{"RFC 1034 3.6.2: aliases in a circle are an error", "loop1.overlay.internal.", dns.TypeA, dns.RcodeServerFailure, nil, nil},
		{"RFC 6604 3: the code is that of the last name", "dangling.overlay.internal.", dns.TypeA, dns.RcodeNameError,
			[]string{"dangling.overlay.internal. 30 IN CNAME nowhere.overlay.internal."}, []string{soa}},
		{"RFC 1034 3.6.2: an alias that leads away", "away.overlay.internal.", dns.TypeA, 0,
			[]string{"away.overlay.internal. 30 IN CNAME example.com."}, nil},
		{"RFC 2308 2.2: NODATA, with SOA", "v4.overlay.internal.", dns.TypeAAAA, 0, nil, []string{soa}},
		{"RFC 2308 2.1: NXDOMAIN, with SOA", "nope.overlay.internal.", dns.TypeA, dns.RcodeNameError, nil, []string{soa}},
		{"RFC 2308 3: the SOA record's TTL is the MINIMUM", "nope.nope.overlay.internal.", dns.TypeA, dns.RcodeNameError, nil, []string{soa}},
		{"RFC 4592 2.2.2: an empty non-terminal exists", "empty.overlay.internal.", dns.TypeA, 0, nil, []string{soa}},
		{"RFC 8020: below an empty non-terminal there is nothing else", "other.empty.overlay.internal.", dns.TypeA, dns.RcodeNameError, nil, []string{soa}},
		{"RFC 4592 3.3.1: a wildcard answers", "any.wild.overlay.internal.", dns.TypeA, 0,
			[]string{"any.wild.overlay.internal. 30 IN A 10.200.9.9"}, nil},
		{"RFC 4592 3.3.1: a wildcard answers at any depth", "a.b.c.wild.overlay.internal.", dns.TypeA, 0,
			[]string{"a.b.c.wild.overlay.internal. 30 IN A 10.200.9.9"}, nil},
		{"RFC 4592 2.2.1: a wildcard without the type is NODATA", "any.wild.overlay.internal.", dns.TypeAAAA, 0, nil, []string{soa}},
		{"RFC 4592 2.2.1: a name that exists blocks the wildcard", "exact.wild.overlay.internal.", dns.TypeA, 0, nil, []string{soa}},
		{"RFC 4592 2.2.1: and blocks it for all below", "x.exact.wild.overlay.internal.", dns.TypeA, dns.RcodeNameError, nil, []string{soa}},
		{"RFC 4592 2.2.2: an empty non-terminal blocks the wildcard", "ent.wild.overlay.internal.", dns.TypeA, 0, nil, []string{soa}},
		{"RFC 4592 2.3: the wildcard may be asked for itself", "*.wild.overlay.internal.", dns.TypeA, 0,
			[]string{"*.wild.overlay.internal. 30 IN A 10.200.9.9"}, nil},
		{"RFC 4592 3.3.1: a wildcard is not its own parent", "wild.overlay.internal.", dns.TypeA, 0, nil, []string{soa}},
		{"RFC 4592 4.3: a wildcard may be an alias", "x.alias.overlay.internal.", dns.TypeA, 0, []string{
			"web.overlay.internal. 30 IN A 10.200.3.4", "x.alias.overlay.internal. 30 IN CNAME web.overlay.internal."}, nil},
		{"RFC 8482 4.1: ANY gets one set", "web.overlay.internal.", dns.TypeANY, 0,
			[]string{"web.overlay.internal. 30 IN A 10.200.3.4"}, nil},
		{"RFC 8482 4: ANY for what does not exist", "nope.overlay.internal.", dns.TypeANY, dns.RcodeNameError, nil, []string{soa}},
		{"RFC 5936 2.2.1: transfers are refused", "overlay.internal.", dns.TypeAXFR, dns.RcodeRefused, nil, nil},
		{"RFC 3597: a type nobody knows is NODATA", "web.overlay.internal.", 65280, 0, nil, []string{soa}},
		{"RFC 1034 4.3.1: what is not ours is refused", "example.com.", dns.TypeA, dns.RcodeRefused, nil, nil},
		{"RFC 1034 4.3.1: what is above our zone is not ours", "internal.", dns.TypeNS, dns.RcodeRefused, nil, nil},
		{"RFC 1035 3.5: an address of the zone's prefix without a name", "9.9.200.10.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil,
			[]string{strings.Replace(soa, "overlay.internal.", "200.10.in-addr.arpa.", 1)}},
		{"RFC 4592 2.2.2: reverse names between the zone and an address", "3.200.10.in-addr.arpa.", dns.TypePTR, 0, nil,
			[]string{strings.Replace(soa, "overlay.internal.", "200.10.in-addr.arpa.", 1)}},
		{"RFC 1035 3.5: an address outside the prefixes has a zone of its own", "7.2.0.192.in-addr.arpa.", dns.TypePTR, 0,
			[]string{"7.2.0.192.in-addr.arpa. 30 IN PTR outside.overlay.internal."}, nil},
		{"RFC 2308 2.2: and NODATA in it", "7.2.0.192.in-addr.arpa.", dns.TypeA, 0, nil,
			[]string{strings.Replace(soa, "overlay.internal.", "7.2.0.192.in-addr.arpa.", 1)}},
		{"RFC 1034 4.3.1: its neighbours are not ours", "8.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeRefused, nil, nil},
		{"RFC 4343: the case of data is kept", "upper.overlay.internal.", dns.TypeCNAME, 0,
			[]string{"upper.overlay.internal. 30 IN CNAME WeB.overlay.internal."}, nil},
	} {
		t.Run(c.does, func(t *testing.T) {
			m := question1(c.name, c.recordType)
			resp := ask(t, s, m, local)
			require.Equal(t, c.rcode, resp.Rcode)
			require.Equal(t, c.answer, lines(resp.Answer))
			require.Equal(t, c.authority, lines(resp.Ns))
			require.Equal(t, uint16(4711), resp.Id)
			require.True(t, resp.Response)
			require.False(t, resp.RecursionAvailable)
			require.True(t, resp.RecursionDesired)
			require.Equal(t, c.rcode != dns.RcodeRefused, resp.Authoritative)
			require.Equal(t, m.Question, resp.Question)
		})
	}
}
