package dnsd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func forwarding(t *testing.T, f *Forward) *Server {
	return testServer(t, Config{Zones: []*Zone{testZone(t)}, Forward: f})
}

func TestOtherNamesAreForwarded(t *testing.T) {
	up := newUpstream(t, answers(0, "example.com. 300 IN A 192.0.2.1"))
	s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
	resp := ask(t, s, question1("Example.COM.", dns.TypeA), local)
	require.Equal(t, []string{"Example.COM. 300 IN A 192.0.2.1"}, lines(resp.Answer))
	require.True(t, resp.RecursionAvailable)
	require.False(t, resp.Authoritative)
	require.False(t, resp.AuthenticatedData)
	require.EqualValues(t, 1, up.asked.Load())

	t.Run("and remembered, in the case of the next question", func(t *testing.T) {
		resp := ask(t, s, question1("exaMPLE.com.", dns.TypeA), local)
		require.Equal(t, []string{"exaMPLE.com. 300 IN A 192.0.2.1"}, lines(resp.Answer))
		require.EqualValues(t, 1, up.asked.Load())
		st := s.Stats()
		require.EqualValues(t, 1, st.CacheMisses)
		require.EqualValues(t, 3, st.CacheHits) // in place twice, general once
		require.Equal(t, 1, st.CacheEntries)
		require.Equal(t, up.addr.String(), st.Upstream[0].Upstream)
		require.EqualValues(t, 1, st.Upstream[0].Queries)
		require.True(t, st.Upstream[0].Up)
		require.Positive(t, st.Upstream[0].Time)
	})
	t.Run("RFC 1034 4.3.1: but not without RD", func(t *testing.T) {
		m := question1("example.com.", dns.TypeA)
		m.RecursionDesired = false
		require.Equal(t, dns.RcodeRefused, ask(t, s, m, local).Rcode)
	})
	t.Run("nor for strangers", func(t *testing.T) {
		stranger := client{addr: netip.MustParseAddrPort("203.0.113.1:53")}
		m := question1("example.com.", dns.TypeA)
		m.SetEdns0(1232, false)
		resp := ask(t, s, m, stranger)
		require.Equal(t, dns.RcodeRefused, resp.Rcode)
		require.Equal(t, dns.ExtendedErrorCodeProhibited, resp.IsEdns0().Option[0].(*dns.EDNS0_EDE).InfoCode, "RFC 8914")
	})
	t.Run("RFC 8482 4.2: ANY is not", func(t *testing.T) {
		resp := ask(t, s, question1("example.net.", dns.TypeANY), local)
		require.Equal(t, []string{`example.net. 3600 IN HINFO "RFC8482" ""`}, lines(resp.Answer))
	})
	t.Run("RFC 1034 3.6.2: an alias of ours is followed", func(t *testing.T) {
		resp := ask(t, s, question1("away.overlay.internal.", dns.TypeA), local)
		require.Equal(t, []string{"away.overlay.internal. 30 IN CNAME example.com.", "example.com. 300 IN A 192.0.2.1"}, lines(resp.Answer))
		require.True(t, resp.Authoritative)
	})
	t.Run("names of our zone never", func(t *testing.T) {
		asked := up.asked.Load()
		require.Equal(t, dns.RcodeNameError, ask(t, s, question1("nope.overlay.internal.", dns.TypeA), local).Rcode)
		require.Equal(t, asked, up.asked.Load())
	})
	t.Run("RFC 6761, RFC 7686: nor reserved ones", func(t *testing.T) {
		asked := up.asked.Load()
		for name, want := range map[string]int{"x.invalid.": dns.RcodeNameError, "x.onion.": dns.RcodeNameError, "localhost.": 0, "x.localhost.": 0} {
			require.Equal(t, want, ask(t, s, question1(name, dns.TypeTXT), local).Rcode, name)
		}
		require.Equal(t, []string{"localhost. 30 IN A 127.0.0.1"}, lines(ask(t, s, question1("localhost.", dns.TypeA), local).Answer))
		require.Equal(t, []string{"localhost. 30 IN AAAA ::1"}, lines(ask(t, s, question1("localhost.", dns.TypeAAAA), local).Answer))
		require.Equal(t, asked, up.asked.Load())
	})
}

func TestNobodyIsAskedWhoWasNotNamed(t *testing.T) {
	dialed := false
	s := forwarding(t, &Forward{Dial: func(context.Context, string, string) (net.Conn, error) {
		dialed = true
		return nil, net.ErrClosed
	}})
	require.Equal(t, dns.RcodeServerFailure, ask(t, s, question1("example.com.", dns.TypeA), local).Rcode)
	require.False(t, dialed)
}

func TestNegativeAnswersAreRememberedAsTheirSOASays(t *testing.T) {
	for does, c := range map[string]struct {
		rcode   int
		records []string
		asked   int32
		ns      []string
	}{
		"RFC 2308 5: NXDOMAIN with SOA": {dns.RcodeNameError, []string{"com. 600 IN SOA a. b. SERIAL 1 1 1 60"}, 1,
			[]string{"com. 60 IN SOA a. b. SERIAL 1 1 1 60"}},
		"RFC 2308 5: NODATA with SOA": {0, []string{"example.com. 20 IN SOA a. b. SERIAL 1 1 1 60"}, 1,
			[]string{"example.com. 20 IN SOA a. b. SERIAL 1 1 1 60"}},
		"RFC 2308 5: not without":               {dns.RcodeNameError, nil, 2, nil},
		"RFC 5452 6: nor with a zone's besides": {dns.RcodeNameError, []string{"org. 600 IN SOA a. b. SERIAL 1 1 1 60"}, 2, nil},
	} {
		t.Run(does, func(t *testing.T) {
			var records []string
			for _, r := range c.records {
				records = append(records, strings.Replace(r, "SERIAL", "7", 1))
			}
			up := newUpstream(t, answers(c.rcode, records...))
			s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
			for range 2 {
				query, err := question1("www.example.com.", dns.TypeA).Pack()
				require.NoError(t, err)
				from := local
				from.recurse = true
				answer := inPlace(t, s, query, from)
				if answer == nil {
					answer = s.handle(t.Context(), query, from)
				}
				resp := new(dns.Msg)
				require.NoError(t, resp.Unpack(answer))
				require.Equal(t, c.rcode, resp.Rcode)
				require.Equal(t, c.ns, func() []string {
					var out []string
					for _, rr := range resp.Ns {
						out = append(out, strings.Replace(strings.ReplaceAll(rr.String(), "\t", " "), " 7 ", " SERIAL ", 1))
					}
					return out
				}())
			}
			require.Equal(t, c.asked, up.asked.Load())
		})
	}
}

func TestUpstreamsAreAskedInOrder(t *testing.T) {
	first := newUpstream(t, answers(0, "example.com. 0 IN A 192.0.2.1"))
	second := newUpstream(t, answers(0, "example.com. 0 IN A 192.0.2.2"))
	s := forwarding(t, &Forward{Upstreams: []Upstream{first.upstream(), second.upstream()}})
	get := func() string {
		resp := askOnce(t, s, "example.com.")
		require.Len(t, resp.Answer, 1)
		return resp.Answer[0].(*dns.A).A.String()
	}
	for range 5 {
		require.Equal(t, "192.0.2.1", get())
	}
	require.Zero(t, second.asked.Load())

	t.Run("one that fails hands over at once", func(t *testing.T) {
		for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
			first.set(answers(rcode))
			require.Equal(t, "192.0.2.2", get())
		}
		require.True(t, s.Stats().Upstream[0].Up, "a refusal is no failure of the upstream")
	})
	t.Run("one that is silent hands over in time, and is then passed over", func(t *testing.T) {
		first.set(silent)
		for range failuresDown {
			require.Equal(t, "192.0.2.2", get())
		}
		require.False(t, s.Stats().Upstream[0].Up)
		asked := first.asked.Load()
		for range 10 {
			require.Equal(t, "192.0.2.2", get())
		}
		require.Less(t, first.asked.Load(), asked+5, "but for probes, at most one in a second")
	})
	t.Run("and comes back when it answers again", func(t *testing.T) {
		first.set(answers(0, "example.com. 0 IN A 192.0.2.1"))
		require.Eventually(t, func() bool { return get() == "192.0.2.1" }, 30*time.Second, 50*time.Millisecond)
		require.True(t, s.Stats().Upstream[0].Up)
	})
}

// askOnce asks the general path alone.
func askOnce(t testing.TB, s *Server, name string) *dns.Msg {
	m := question1(name, dns.TypeA)
	m.SetEdns0(1232, false)
	query, err := m.Pack()
	require.NoError(t, err)
	from := local
	from.recurse = true
	resp := new(dns.Msg)
	require.NoError(t, resp.Unpack(s.handle(t.Context(), query, from)))
	return resp
}

func TestRoutesSplitTheNames(t *testing.T) {
	everything := newUpstream(t, answers(0, "x.example.com. 60 IN A 192.0.2.1", "x.corp.example.com. 60 IN A 192.0.2.1"))
	corp := newUpstream(t, answers(0, "x.corp.example.com. 60 IN A 192.0.2.2", "x.dev.overlay.internal. 60 IN A 192.0.2.2"))
	s := forwarding(t, &Forward{
		Upstreams: []Upstream{everything.upstream()},
		Routes: map[string][]Upstream{
			"corp.example.com":      {corp.upstream()},
			"Dev.overlay.internal.": {corp.upstream()},
			"private.example.com":   nil,
		},
	})
	a := func(name string) string {
		resp := ask(t, s, question1(name, dns.TypeA), local)
		if len(resp.Answer) == 0 {
			return dns.RcodeToString[resp.Rcode]
		}
		return resp.Answer[0].(*dns.A).A.String()
	}
	require.Equal(t, "192.0.2.1", a("x.example.com."))
	require.Equal(t, "192.0.2.2", a("x.corp.example.com."))
	require.Equal(t, "192.0.2.2", a("x.dev.overlay.internal."), "a route within a zone")
	require.Equal(t, "10.200.3.4", a("web.overlay.internal."))
	asked := everything.asked.Load()
	require.Equal(t, "NXDOMAIN", a("x.private.example.com."))
	require.Equal(t, asked, everything.asked.Load())
}

func TestATruncatedAnswerIsAskedForAgainOverTCP(t *testing.T) {
	whole := answers(0, "example.com. 60 IN A 192.0.2.1", "example.com. 60 IN A 192.0.2.2")
	up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
		out := whole(raw, tcp)
		if !tcp {
			out[0][2] |= flagTC
			out[0][7] = 1
			out[0] = out[0][:len(raw)]
		}
		return out
	})
	s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
	require.Len(t, ask(t, s, question1("example.com.", dns.TypeA), local).Answer, 2)
	require.EqualValues(t, 1, up.asked.Load())
	require.EqualValues(t, 1, up.askedTCP.Load())
	require.EqualValues(t, 1, s.Stats().ToTCP)
	require.Len(t, askOnce(t, s, "EXAMPLE.com.").Answer, 2)
}

func TestIdenticalQuestionsAreAskedOnce(t *testing.T) {
	release := make(chan struct{})
	answer := answers(0, "example.com. 60 IN A 192.0.2.1")
	up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
		<-release
		return answer(raw, tcp)
	})
	s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
		})
	}
	require.Eventually(t, func() bool { return s.Stats().Joined == 19 }, 30*time.Second, time.Millisecond)
	close(release)
	wg.Wait()
	require.LessOrEqual(t, up.asked.Load(), int32(len(attemptTimeouts)), "again only for want of an answer, on a slow machine")
}

func TestHostileAnswersAreNotBelieved(t *testing.T) {
	good := answers(0, "example.com. 60 IN A 192.0.2.1")
	for does, c := range map[string]struct {
		bad func(raw, good []byte) []byte
	}{
		"RFC 5452 9.1: another identifier": {func(_, good []byte) []byte { good[0] ^= 1; return good }},
		"RFC 5452 9.1: another question":   {func(_, good []byte) []byte { good[13] ^= 3; return good }},
		"RFC 5452 9.1: another type":       {func(raw, good []byte) []byte { good[12+13+1] = 28; return good }},
		"no answer but a query":            {func(raw, _ []byte) []byte { return raw }},
		"no header":                        {func([]byte, []byte) []byte { return []byte("x") }},
		"nothing":                          {func([]byte, []byte) []byte { return []byte{} }},
		"an answer cut short":              {func(_, good []byte) []byte { return good[:len(good)-20] }},
	} {
		t.Run(does, func(t *testing.T) {
			up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
				bad := c.bad(append([]byte(nil), raw...), good(raw, tcp)[0])
				return [][]byte{bad, good(raw, tcp)[0]}
			})
			s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
			require.Equal(t, []string{"example.com. 60 IN A 192.0.2.1"}, lines(askOnce(t, s, "example.com.").Answer))
			require.EqualValues(t, 1, s.Stats().Rejected)
		})
	}
	t.Run("many guesses end in TCP", func(t *testing.T) {
		up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
			if tcp {
				return good(raw, tcp)
			}
			var out [][]byte
			for range 2 * maxRejected {
				guess := good(raw, tcp)[0]
				guess[0] ^= 1
				out = append(out, guess)
			}
			return out
		})
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
		require.EqualValues(t, 1, up.askedTCP.Load())
	})
	t.Run("a name in another case ends in TCP", func(t *testing.T) {
		up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
			if !tcp {
				toLower(raw[12:])
			}
			return good(raw, tcp)
		})
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "example-with-many-letters.com.").Answer, 0)
		require.EqualValues(t, 1, up.askedTCP.Load())
	})
	t.Run("RFC 2181 5.4.1: records besides the chain are dropped", func(t *testing.T) {
		up := newUpstream(t, answers(0, "example.com. 60 IN CNAME cdn.example.net.", "bank.example.org. 60 IN A 192.0.2.66",
			"cdn.example.net. 60 IN A 192.0.2.1", "example.com. 60 IN A 192.0.2.67", "com. 60 IN SOA a. b. 1 1 1 1 1"))
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		resp := askOnce(t, s, "example.com.")
		require.NotContains(t, resp.String(), "192.0.2.66")
		require.NotContains(t, resp.String(), "SOA")
	})
	t.Run("RFC 1034 3.6.2: aliases in a circle are no answer", func(t *testing.T) {
		circle := newUpstream(t, answers(0, "example.com. 60 IN CNAME a.example.com.", "a.example.com. 60 IN CNAME example.com."))
		s := forwarding(t, &Forward{Upstreams: []Upstream{circle.upstream(), newUpstream(t, good).upstream()}})
		require.Equal(t, []string{"example.com. 60 IN A 192.0.2.1"}, lines(askOnce(t, s, "example.com.").Answer))
	})
	t.Run("RFC 6672: a redirection and its alias are an answer", func(t *testing.T) {
		up := newUpstream(t, answers(0, "example.com. 60 IN DNAME example.net.", "www.example.com. 60 IN CNAME www.example.net.", "www.example.net. 60 IN A 192.0.2.1"))
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "www.example.com.").Answer, 3)
	})
	t.Run("a referral is no answer", func(t *testing.T) {
		lame := newUpstream(t, func(raw []byte, _ bool) [][]byte {
			m := new(dns.Msg)
			if m.Unpack(raw) != nil {
				return nil
			}
			r := new(dns.Msg).SetReply(m)
			r.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: "com.", Rrtype: dns.TypeNS, Class: 1}, Ns: "a."}}
			packed, _ := r.Pack()
			return [][]byte{packed}
		})
		up := newUpstream(t, good)
		s := forwarding(t, &Forward{Upstreams: []Upstream{lame.upstream(), up.upstream()}})
		require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
	})
	t.Run("RFC 6891 7: also one that says so with a header alone", func(t *testing.T) {
		up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
			if raw[11] > 0 {
				return [][]byte{{raw[0], raw[1], raw[2] | flagQR, dns.RcodeFormatError, 11: 0}}
			}
			return good(raw, tcp)
		})
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
		require.EqualValues(t, 2, up.asked.Load())
	})
	t.Run("but nothing is settled without the question", func(t *testing.T) {
		up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
			return [][]byte{{raw[0], raw[1], raw[2] | flagQR, dns.RcodeNameError, 11: 0}, good(raw, tcp)[0]}
		})
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
		require.EqualValues(t, 1, s.Stats().Rejected)
	})
	t.Run("RFC 6891 7: an upstream without EDNS is asked without", func(t *testing.T) {
		up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
			if raw[11] > 0 {
				raw[2], raw[3] = raw[2]|flagQR, dns.RcodeFormatError
				raw[11] = 0
				return [][]byte{raw[:len(raw)-optSize]}
			}
			return good(raw, tcp)
		})
		s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
		require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
	})
}

func TestQueriesCannotBeGuessed(t *testing.T) {
	up := newUpstream(t, answers(dns.RcodeNameError))
	s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
	for range 16 {
		askOnce(t, s, "a-name-with-many-letters.example.com.")
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	ports, cases := make(map[uint16]bool), make(map[string]bool)
	for i := range up.names {
		ports[up.clients[i].Port()] = true
		cases[up.names[i]] = true
		require.Equal(t, "a-name-with-many-letters.example.com.", strings.ToLower(up.names[i]))
	}
	require.Greater(t, len(ports), 8, "RFC 5452 9.2: a port of its own for each query")
	require.Greater(t, len(cases), 8)
}

func TestLoopsAreSeen(t *testing.T) {
	t.Run("an upstream that is ourselves is not asked", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		s := forwarding(t, &Forward{Upstreams: []Upstream{{Addr: addrPort(listener.Addr())}}})
		require.NoError(t, s.ServeStream(listener))
		require.Equal(t, dns.RcodeServerFailure, askOnce(t, s, "example.com.").Rcode)
		require.EqualValues(t, 1, s.Stats().Loops)
		require.Zero(t, s.Stats().TCP)
	})
	t.Run("nor by another of the machine's addresses", func(t *testing.T) {
		conn, err := net.ListenPacket("udp4", "0.0.0.0:0")
		require.NoError(t, err)
		port := addrPort(conn.LocalAddr()).Port()
		s := forwarding(t, &Forward{Upstreams: []Upstream{{Addr: netip.AddrPortFrom(addr("127.0.0.7"), port)}}})
		require.NoError(t, s.ServePacket(conn))
		require.Equal(t, dns.RcodeServerFailure, askOnce(t, s, "example.com.").Rcode)
		require.EqualValues(t, 1, s.Stats().Loops)
		require.Zero(t, s.Stats().UDP)
	})
	t.Run("a query that comes back by way of another is refused", func(t *testing.T) {
		middle := newUpstream(t, silent)
		s := forwarding(t, &Forward{Upstreams: []Upstream{middle.upstream()}})
		middle.set(func(raw []byte, _ bool) [][]byte {
			raw[11] = 0 // a forwarder, which sends the query on as it is
			from := client{addr: netip.MustParseAddrPort("127.0.0.1:9"), recurse: true}
			return [][]byte{s.handle(context.Background(), raw[:len(raw)-optSize], from)}
		})
		require.Equal(t, dns.RcodeServerFailure, askOnce(t, s, "a-name-with-many-letters.example.com.").Rcode)
		require.EqualValues(t, 1, s.Stats().Loops)
		require.EqualValues(t, 1, middle.asked.Load())
		require.False(t, s.Stats().Upstream[0].Up)
	})
}

func TestTLSUpstream(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"dns.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	require.NoError(t, err)
	reply := answers(0, "example.com. 60 IN A 192.0.2.1", "other.com. 60 IN A 192.0.2.2")
	up := serveUpstream(t, listener, func(raw []byte, tcp bool) [][]byte {
		if (len(raw)+4)%128 != 4 {
			panic("RFC 8467 4.1: a query is padded to 128 bytes")
		}
		return reply(raw, tcp)
	})
	roots := x509.NewCertPool()
	roots.AddCert(cert)

	for name, c := range map[string]struct {
		config *tls.Config
		rcode  int
	}{
		"RFC 7858: certified for its name":    {&tls.Config{RootCAs: roots, ServerName: "dns.example"}, 0},
		"RFC 7858: certified for its address": {&tls.Config{RootCAs: roots}, 0},
		"RFC 8310: not for another name":      {&tls.Config{RootCAs: roots, ServerName: "dns.example.org"}, dns.RcodeServerFailure},
		"RFC 8310: nor by a stranger":         {&tls.Config{ServerName: "dns.example"}, dns.RcodeServerFailure},
	} {
		t.Run(name, func(t *testing.T) {
			conns := up.conns.Load()
			s := forwarding(t, &Forward{Upstreams: []Upstream{{Addr: up.addr, TLS: c.config}}})
			require.Equal(t, c.rcode, askOnce(t, s, "example.com.").Rcode)
			if c.rcode == 0 {
				require.Len(t, askOnce(t, s, "other.com.").Answer, 1)
				require.Equal(t, conns+1, up.conns.Load(), "one connection carries all")
			}
		})
	}
}

func TestUpstreamsAreReadAsUsersWriteThem(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.53":                     "10.0.0.53:53",
		"10.0.0.53:5353":                "10.0.0.53:5353",
		"fd00::53":                      "[fd00::53]:53",
		"[fd00::53]":                    "[fd00::53]:53",
		"[fd00::53]:5353":               "[fd00::53]:5353",
		"fe80::1%eth0":                  "[fe80::1%eth0]:53",
		"tls://10.0.0.53":               "tls://10.0.0.53:853#10.0.0.53",
		"tls://10.0.0.53#dns.example":   "tls://10.0.0.53:853#dns.example",
		"tls://[fd00::1]:8853#dns.corp": "tls://[fd00::1]:8853#dns.corp",
	} {
		u, err := ParseUpstream(text)
		require.NoError(t, err, text)
		u, err = u.normal()
		require.NoError(t, err, text)
		require.Equal(t, want, u.String())
		again, err := ParseUpstream(u.String())
		require.NoError(t, err)
		require.Equal(t, want, again.String())
	}
	for _, text := range []string{"", "dns.example", "10.0.0.53:port", "https://10.0.0.1"} {
		_, err := ParseUpstream(text)
		require.ErrorContains(t, err, text)
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	first := newUpstream(t, answers(0, "example.com. 0 IN A 192.0.2.1"))
	second := newUpstream(t, answers(0, "example.com. 0 IN A 192.0.2.2"))
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o644))
		require.NoError(t, os.Rename(path+".new", path))
	}
	// Name servers listen on port 53, which the test cannot: it takes 127.0.0.n for
	// the n-th upstream.
	s := func() *Server {
		write("nameserver 127.0.0.1\n")
		return forwarding(t, &Forward{ResolvConf: path, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := map[string]*fakeUpstream{"127.0.0.1:53": first, "127.0.0.2:53": second}[address]
			return new(net.Dialer).DialContext(ctx, network, to.addr.String())
		}})
	}()
	get := func() string { return askOnce(t, s, "example.com.").Answer[0].(*dns.A).A.String() }
	require.Equal(t, "192.0.2.1", get())
	write("nameserver 127.0.0.2\n")
	require.Eventually(t, func() bool { return get() == "192.0.2.2" }, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, os.Remove(path))
	s.forward.conf.mu.Lock()
	s.forward.conf.checked = time.Time{}
	s.forward.conf.mu.Unlock()
	require.Equal(t, "192.0.2.2", get(), "a missing file changes nothing")
	write("nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
	require.Eventually(t, func() bool { return get() == "192.0.2.1" }, 30*time.Second, 20*time.Millisecond)
	require.Len(t, s.Stats().Upstream, 2)
}

func TestParseResolvConf(t *testing.T) {
	for text, want := range map[string][]string{
		"":                    nil,
		"nameserver 10.0.0.1": {"10.0.0.1"},
		"# nameserver 10.0.0.1\n; nameserver 10.0.0.2\nnameserver 10.0.0.3 # no\n": {"10.0.0.3"},
		"nameserver\t10.0.0.1  \nnameserver 10.0.0.1\nnameserver fd00::1\r\n":      {"10.0.0.1", "fd00::1"},
		"nameserver fe80::1%eth0\n": {"fe80::1%eth0"},
		"nameserver 1\nnameserver x\nnameserver\nsearch example.com\noptions ndots:5\n":        nil,
		"nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n": {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
		"nameserver 0.0.0.0\nnameserver ::\nnameserver 224.0.0.251\n":                          {"127.0.0.1", "::1"},
		"nameservers 10.0.0.1\n nameserver 10.0.0.2":                                           {"10.0.0.2"},
	} {
		var got []string
		for _, a := range parseResolvConf([]byte(text)) {
			got = append(got, a.String())
		}
		require.Equal(t, want, got, "%q", text)
	}
}
