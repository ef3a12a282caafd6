package dnsd

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func TestWhatIsNoOrdinaryQueryIsAnsweredAsTheRFCsSay(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	query := func(change func(m *dns.Msg)) []byte {
		m := question1("web.overlay.internal.", dns.TypeA)
		change(m)
		packed, err := m.Pack()
		require.NoError(t, err)
		return packed
	}
	edns := func(change func(opt *dns.OPT)) func(m *dns.Msg) {
		return func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			change(m.IsEdns0())
		}
	}
	for _, c := range []struct {
		does  string
		query []byte
		rcode int // -1: no answer
	}{
		{"RFC 1035 4.1.1: an answer is not answered", query(func(m *dns.Msg) { m.Response = true }), -1},
		{"RFC 1035 4.1.1: less than a header is not answered", []byte("hello, you"), -1},
		{"RFC 1035 4.1.1: NOTIFY is not implemented", query(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"RFC 1035 4.1.1: UPDATE is not implemented", query(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"RFC 2136 2.2: whatever it holds", append(query(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate })[:12], 255), dns.RcodeNotImplemented},
		{"RFC 6895 2.2: an opcode nobody knows is not implemented", query(func(m *dns.Msg) { m.Opcode = 15 }), dns.RcodeNotImplemented},
		{"RFC 9619 3: two questions are an error", query(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"RFC 9619 3: no question is an error", query(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		{"RFC 1035 4.1.1: a query with an answer is an error", query(func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA, Class: 1}, A: []byte{1, 2, 3, 4}}}
		}), dns.RcodeFormatError},
		{"RFC 1035 4.1.2: a cut question is an error", query(func(m *dns.Msg) {})[:20], dns.RcodeFormatError},
		{"RFC 1035 3.2.4: class CHAOS is refused", query(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"RFC 1035 3.2.5: class ANY is refused", query(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"RFC 6891 6.1.3: EDNS of another version is BADVERS", query(edns(func(opt *dns.OPT) { opt.SetVersion(1) })), dns.RcodeBadVers},
		{"RFC 6891 6.1.1: two OPT records are an error", query(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.Extra = append(m.Extra, m.Extra[0])
		}), dns.RcodeFormatError},
		{"RFC 6891 6.1.2: options nobody knows are passed over", query(edns(func(opt *dns.OPT) {
			opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")})
		})), dns.RcodeSuccess},
		{"RFC 1035 4.1: bytes behind the message are passed over", append(query(func(m *dns.Msg) {}), 1, 2, 3), dns.RcodeSuccess},
		{"RFC 1035 4.1.4: a compressed question is understood", append(query(func(m *dns.Msg) {})[:12],
			0xc0, 18, 0, 1, 0, 1, 3, 'w', 'e', 'b', 7, 'o', 'v', 'e', 'r', 'l', 'a', 'y', 8, 'i', 'n', 't', 'e', 'r', 'n', 'a', 'l', 0), dns.RcodeSuccess},
		{"RFC 1035 4.1: a signature, for which there is no key, is passed over", query(func(m *dns.Msg) { m.SetTsig("key.", dns.HmacSHA256, 300, 0) }), dns.RcodeSuccess},
	} {
		t.Run(c.does, func(t *testing.T) {
			for _, answer := range [][]byte{s.handle(t.Context(), c.query, local), inPlace(t, s, c.query, local)} {
				if c.rcode < 0 {
					require.Nil(t, answer)
					continue
				}
				if answer == nil {
					continue // left to the general path
				}
				require.LessOrEqual(t, len(answer), 512)
				resp := new(dns.Msg)
				require.NoError(t, resp.Unpack(answer))
				require.Equal(t, c.rcode, resp.Rcode)
				require.True(t, resp.Response)
				require.Equal(t, c.query[:2], answer[:2])
				require.Equal(t, int(c.query[2]>>3&15), resp.Opcode)
			}
		})
	}
	require.NotNil(t, s.handle(t.Context(), query(func(*dns.Msg) {}), local))
}

func TestAnswersOverUDPAreAsLongAsTheClientTakes(t *testing.T) {
	z := testZone(t)
	s := testServer(t, Config{Zones: []*Zone{z}})
	require.NoError(t, z.Update(func(tx *Tx) error {
		for i := range 40 { // 40 A records take 640 bytes, 80 take 1280
			for _, r := range []Record{
				{Name: "forty", Data: Address(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))},
				{Name: "eighty", Data: Address(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))},
				{Name: "eighty", Data: Address(netip.AddrFrom4([4]byte{10, 9, 1, byte(i)}))},
			} {
				if err := tx.Add(r); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	for _, c := range []struct {
		does      string
		name      string
		edns      int // -1: none
		do        bool
		transport transport
		truncated bool
	}{
		{"RFC 1035 4.2.1: 512 bytes without EDNS", "forty", -1, false, overUDP, true},
		{"RFC 6891 6.2.3: what the client takes", "forty", 1232, false, overUDP, false},
		{"RFC 6891 6.2.3: less than 512 is 512", "forty", 0, false, overUDP, true},
		{"RFC 6891 6.2.5: no more than passes every path", "eighty", 65535, false, overUDP, true},
		{"RFC 7766 5: all of it over TCP", "eighty", -1, false, overTCP, false},
		{"RFC 3225 3: DO is copied", "forty", 1232, true, overUDP, false},
		{"RFC 1035 4.2.1: the packet path is UDP", "forty", -1, false, inPath, true},
	} {
		t.Run(c.does, func(t *testing.T) {
			m := question1(c.name+".overlay.internal.", dns.TypeA)
			if c.edns >= 0 {
				m.SetEdns0(uint16(c.edns), c.do)
			}
			from := local
			from.transport = c.transport
			resp := ask(t, s, m, from)
			require.Equal(t, c.truncated, resp.Truncated)
			require.Equal(t, c.truncated, len(resp.Answer) == 0)
			require.Equal(t, dns.RcodeSuccess, resp.Rcode)
			opt := resp.IsEdns0()
			require.Equal(t, c.edns >= 0, opt != nil, "RFC 6891 6.1.1: an OPT record for an OPT record")
			if opt != nil {
				require.Equal(t, c.do, opt.Do())
				require.Equal(t, uint16(1232), opt.UDPSize())
				require.Equal(t, uint8(0), opt.Version())
			}
		})
	}
	require.EqualValues(t, 8, s.Stats().Truncated) // both paths
}

func TestAnswersRotate(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	query, err := question1("pool.overlay.internal.", dns.TypeA).Pack()
	require.NoError(t, err)
	for name, path := range map[string]func() []byte{
		"in place": func() []byte { return inPlace(t, s, query, local) },
		"general":  func() []byte { return s.handle(t.Context(), query, local) },
	} {
		first := make(map[string]int)
		for range 300 {
			m := new(dns.Msg)
			require.NoError(t, m.Unpack(path()))
			require.Len(t, m.Answer, 3)
			first[m.Answer[0].(*dns.A).A.String()]++
		}
		require.Len(t, first, 3, name)
		for _, n := range first {
			require.Greater(t, n, 40, "%s: 100 times each, give or take", name)
		}
	}
}

func TestTheInnermostZoneAnswers(t *testing.T) {
	outer, err := NewZone(ZoneConfig{Origin: "internal", Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	require.NoError(t, err)
	inner := testZone(t)
	require.NoError(t, outer.SetAddresses("web.overlay", netip.MustParseAddr("10.1.1.1")))
	require.NoError(t, outer.SetAddresses("only.overlay", netip.MustParseAddr("10.1.1.2")))
	require.NoError(t, outer.SetAddresses("else", netip.MustParseAddr("10.1.1.3")))
	for _, zones := range [][]*Zone{{outer, inner}, {inner, outer}} {
		s := testServer(t, Config{Zones: zones})
		resp := ask(t, s, question1("web.overlay.internal.", dns.TypeA), local)
		require.Equal(t, []string{"web.overlay.internal. 30 IN A 10.200.3.4"}, lines(resp.Answer))
		resp = ask(t, s, question1("only.overlay.internal.", dns.TypeA), local)
		require.Equal(t, dns.RcodeNameError, resp.Rcode)
		resp = ask(t, s, question1("else.internal.", dns.TypeA), local)
		require.Len(t, resp.Answer, 1)
		resp = ask(t, s, question1("4.3.200.10.in-addr.arpa.", dns.TypePTR), local)
		require.Equal(t, []string{"4.3.200.10.in-addr.arpa. 30 IN PTR web.overlay.internal."}, lines(resp.Answer))
		resp = ask(t, s, question1("3.1.1.10.in-addr.arpa.", dns.TypePTR), local)
		require.Equal(t, []string{"3.1.1.10.in-addr.arpa. 30 IN PTR else.internal."}, lines(resp.Answer))
	}
}

func TestWhoMayAskAndHowMuch(t *testing.T) {
	prefix := netip.MustParsePrefix
	z := testZone(t)
	inside := client{addr: netip.MustParseAddrPort("10.200.0.9:5000")}
	outside := client{addr: netip.MustParseAddrPort("203.0.113.9:5000")}
	query, err := question1("web.overlay.internal.", dns.TypeA).Pack()
	require.NoError(t, err)
	rcode := func(answer []byte) int {
		m := new(dns.Msg)
		require.NoError(t, m.Unpack(answer))
		return m.Rcode
	}

	t.Run("only sources that may ask get answers", func(t *testing.T) {
		s := testServer(t, Config{Zones: []*Zone{z}, Ask: []netip.Prefix{prefix("10.200.0.0/16"), prefix("fd00::/8")}})
		require.Equal(t, dns.RcodeSuccess, rcode(inPlace(t, s, query, inside)))
		refused := inPlace(t, s, query, outside)
		require.Equal(t, dns.RcodeRefused, rcode(refused))
		require.LessOrEqual(t, len(refused), len(query), "a refusal is no longer than the query")
		require.EqualValues(t, 1, s.Stats().Denied)
	})
	t.Run("only sources that may recurse are offered recursion", func(t *testing.T) {
		s := testServer(t, Config{Zones: []*Zone{z}, Forward: &Forward{}})
		require.NotZero(t, inPlace(t, s, query, inside)[3]&flagRA)
		require.Zero(t, inPlace(t, s, query, outside)[3]&flagRA)
		s = testServer(t, Config{Zones: []*Zone{z}, Forward: &Forward{}, Recurse: []netip.Prefix{}})
		require.Zero(t, inPlace(t, s, query, inside)[3]&flagRA)
	})
	t.Run("a source that asks too fast is not heard", func(t *testing.T) {
		s := testServer(t, Config{Zones: []*Zone{z}, RatePerSource: 10})
		answers := 0
		for range 100 {
			if inPlace(t, s, query, inside) != nil {
				answers++
			}
		}
		require.InDelta(t, 10, answers, 3)
		require.NotNil(t, inPlace(t, s, query, outside), "another source is")
		require.EqualValues(t, 100-answers, s.Stats().RateLimited)
	})
	t.Run("places are shared between sources", func(t *testing.T) {
		f := newInFlight(8)
		a, b := inside.addr.Addr(), outside.addr.Addr()
		require.True(t, f.enter(a))
		require.True(t, f.enter(a))
		require.False(t, f.enter(a), "a quarter is one source's share")
		require.True(t, f.enter(b))
		f.leave(a)
		require.True(t, f.enter(a))
		require.Equal(t, 3, f.len())
	})
	t.Run("a query without a place fails at once", func(t *testing.T) {
		s := testServer(t, Config{Zones: []*Zone{z}, MaxInFlight: 1})
		require.True(t, s.inFlight.enter(outside.addr.Addr()))
		defer s.inFlight.leave(outside.addr.Addr())
		w := worker{server: s}
		buf := make([]byte, 512)
		n := w.admit(buf, copy(buf, query), &inside)
		require.Equal(t, dns.RcodeServerFailure, rcode(buf[:n]))
		w.tally.flush(&s.counters)
		require.EqualValues(t, 1, s.Stats().Overloaded)
	})
	t.Run("what cannot be is refused when the server is made", func(t *testing.T) {
		for _, cfg := range []Config{
			{Ask: []netip.Prefix{{}}},
			{Recurse: []netip.Prefix{{}}},
			{Zones: []*Zone{nil}},
			{Forward: &Forward{Upstreams: []Upstream{{}}}},
			{Forward: &Forward{Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("0.0.0.0:53")}}}},
			{Forward: &Forward{Routes: map[string][]Upstream{strings.Repeat("x", 64): nil}}},
			{Forward: &Forward{ResolvConf: "/nonexistent/resolv.conf"}},
		} {
			_, err := New(cfg)
			require.Error(t, err)
		}
	})
}
