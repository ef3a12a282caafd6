package dnsd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// unreachable is how nobody is reached.
func unreachable(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("unreachable")
}

// fuzzServer has a zone, a route, and two answers in its cache.
func fuzzServer(f *testing.F) *Server {
	s := testServer(f, Config{Zones: []*Zone{testZone(f)}, RatePerSource: -1, Forward: &Forward{
		Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("192.0.2.53:53")}},
		Routes:    map[string][]Upstream{"private.overlay.internal": nil}, Dial: unreachable,
	}})
	for _, c := range []struct {
		name    string
		rcode   int
		records []string
	}{
		{"example.com.", 0, []string{"example.com. 80000 IN CNAME cdn.example.net.", "cdn.example.net. 80000 IN A 192.0.2.1"}},
		{"nope.example.com.", dns.RcodeNameError, []string{"com. 80000 IN SOA a. b. 1 1 1 1 10000"}},
	} {
		query := pack(f, question1(c.name, dns.TypeA))
		reply, err := unpackReply(answers(c.rcode, c.records...)(query, false)[0])
		require.NoError(f, err)
		for _, do := range []bool{false, true} {
			wire, err := packName(c.name, "")
			require.NoError(f, err)
			q := question{wire, kind{recordType: dns.TypeA, do: do}}
			m, err := clean(q, reply)
			require.NoError(f, err)
			e, err := newEntry(q, m, s.clock())
			require.NoError(f, err)
			s.forward.cache.put(e, s.clock())
		}
	}
	return s
}

// seedQueries are queries of every kind.
func seedQueries(f *testing.F) [][]byte {
	var seeds [][]byte
	for _, name := range []string{
		"web.overlay.internal.", "POOL.overlay.internal.", "www.overlay.internal.", "nope.overlay.internal.",
		"a.b.wild.overlay.internal.", "ent.wild.overlay.internal.", "big.overlay.internal.", "overlay.internal.",
		"away.overlay.internal.", "x.private.overlay.internal.", "4.3.200.10.in-addr.arpa.", "1.1.200.10.in-addr.arpa.",
		"example.com.", "NOPE.example.com.", "other.example.com.", ".", strings.Repeat("a.", 127),
	} {
		for _, recordType := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeSOA, dns.TypeTXT, dns.TypeANY} {
			m := question1(name, recordType)
			seeds = append(seeds, pack(f, m), pack(f, m.SetEdns0(4096, true)))
		}
	}
	return append(seeds, nil, make([]byte, 12), make([]byte, 2048))
}

// FuzzQuery sends any bytes as a query: no answer is longer than the client takes
// (RFC 1035 section 4.2.1, RFC 6891 section 6.2.5), and each is well formed and
// belongs to the query.
func FuzzQuery(f *testing.F) {
	for _, seed := range seedQueries(f) {
		f.Add(seed)
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, query []byte) {
		if len(query) > maxQuery {
			return
		}
		limit := dns.MinMsgSize
		m := new(dns.Msg)
		if m.Unpack(query) == nil && m.IsEdns0() != nil {
			limit = udpLimit(true, m.IsEdns0().UDPSize())
		}
		for _, transport := range []transport{overUDP, overTCP, inPath} {
			from := local
			from.transport = transport
			for _, answer := range [][]byte{inPlace(t, s, query, from), s.handle(t.Context(), query, from)} {
				if answer == nil {
					continue
				}
				if transport != overTCP {
					require.LessOrEqual(t, len(answer), limit)
				}
				resp := new(dns.Msg)
				require.NoError(t, resp.Unpack(answer))
				require.True(t, resp.Response)
				require.Equal(t, query[:2], answer[:2])
				require.Zero(t, query[2]&flagQR)
				if len(resp.Question) > 0 {
					require.Equal(t, m.Question, resp.Question)
				}
			}
		}
	})
}

// FuzzFastPath holds the in-place path against the general one: where it answers
// it says the same.
func FuzzFastPath(f *testing.F) {
	for _, seed := range seedQueries(f) {
		f.Add(seed)
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, query []byte) {
		if len(query) > maxQuery {
			return
		}
		for _, from := range []client{local, {addr: netip.MustParseAddrPort("203.0.113.1:53")}} {
			fast := inPlace(t, s, query, from)
			if fast == nil {
				continue
			}
			from.recurse = s.recurse.hold(from.addr.Addr())
			a, b := new(dns.Msg), new(dns.Msg)
			require.NoError(t, a.Unpack(fast))
			require.NoError(t, b.Unpack(s.handle(t.Context(), query, from)))
			for _, m := range []*dns.Msg{a, b} {
				if !m.Authoritative { // what is cached ages between the two
					for _, rr := range append(m.Answer, m.Ns...) {
						rr.Header().Ttl = 0
					}
				}
			}
			require.Equal(t, text(b), text(a))
		}
	})
}

// FuzzUpstream takes any bytes for an upstream's reply: what is kept of it is a
// well-formed answer to the question, and nothing but the chain from its name.
func FuzzUpstream(f *testing.F) {
	q := question{"\x03www\x07example\x03com\x00", kind{recordType: dns.TypeA, do: true}}
	asked := newSent(q, true, 0)
	copy(asked.message, "id")
	copy(asked.message[headerSize:], q.name) // in the case of the seeds
	for _, seed := range [][]string{
		nil,
		{"www.example.com. 60 IN A 192.0.2.1"},
		{"www.example.com. 60 IN CNAME a.example.com.", "a.example.com. 60 IN A 192.0.2.1", "b.example.com. 60 IN A 192.0.2.1"},
		{"www.example.com. 60 IN CNAME www.example.com."},
		{"example.com. 60 IN DNAME example.org.", "www.example.com. 60 IN CNAME www.example.org."},
		{"example.com. 60 IN SOA a. b. 1 2 3 4 5"},
		{"www.example.com. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example.com. AAAA"},
	} {
		for _, rcode := range []int{0, 2, 3} {
			f.Add(answers(rcode, seed...)(asked.message, false)[0])
		}
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		if ok, folded := asked.match(reply); !ok && !folded {
			return
		}
		m, err := unpackReply(reply)
		if err != nil {
			return
		}
		cleaned, err := clean(q, m)
		if err != nil {
			return
		}
		e, err := newEntry(q, cleaned, 0)
		if err != nil {
			return
		}
		require.LessOrEqual(t, e.expires, int64(maxTTL)*1e9)
		answer, authority, err := e.records("WWW.example.com.", 1, false)
		require.NoError(t, err)
		require.Len(t, answer, int(e.counts[0]))
		require.Len(t, authority, int(e.counts[1]))
		names := map[string]bool{"www.example.com.": true}
		for _, rr := range answer {
			owner := strings.ToLower(rr.Header().Name)
			if sig, ok := rr.(*dns.RRSIG); rr.Header().Rrtype != dns.TypeDNAME && !(ok && sig.TypeCovered == dns.TypeDNAME) {
				require.Contains(t, names, owner)
			}
			if alias, ok := rr.(*dns.CNAME); ok {
				names[strings.ToLower(alias.Target)] = true
			}
		}
		for _, rr := range authority {
			require.NotEqual(t, dns.TypeNS, rr.Header().Rrtype)
		}
	})
}

// FuzzResolvConf reads any bytes as resolv.conf.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\nnameserver fe80::1%eth0\n# x\nsearch a b\noptions ndots:5\n"))
	f.Add([]byte("nameserver\r\n\x00nameserver ::"))
	f.Fuzz(func(t *testing.T, text []byte) {
		addrs := parseResolvConf(text)
		require.LessOrEqual(t, len(addrs), maxNameservers)
		for _, a := range addrs {
			u, err := Upstream{Addr: netip.AddrPortFrom(a, 0)}.normal()
			require.NoError(t, err)
			require.EqualValues(t, 53, u.Addr.Port())
		}
	})
}

// FuzzName writes any text as a name and reads it back.
func FuzzName(f *testing.F) {
	for _, seed := range []string{"web", "web.overlay.internal.", "@", "*.a", `a\.b`, `\065`, `\300`, "a..b", ".", strings.Repeat("a", 64)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wire, err := packName(text, "\x01z\x00")
		if err != nil {
			require.ErrorIs(t, err, ErrName)
			return
		}
		var n name
		require.Equal(t, len(wire), n.read([]byte(wire)))
		require.Equal(t, canonical(wire), string(n.wire()))
		again, err := packName(nameText(wire), "")
		require.NoError(t, err)
		require.Equal(t, wire, again)
	})
}
