package dnsd

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/packet"
)

// BenchmarkInline is one query answered in the packet path, and the same answer,
// to the byte, through unpacking, look-up and packing with miekg/dns, the packet
// around it left out.
func BenchmarkInline(b *testing.B) {
	z := testZone(b)
	s := testServer(b, Config{Zones: []*Zone{z}, RatePerSource: -1})
	st, _ := newStage(b, s)
	records := recordMap(z)
	for _, c := range []struct {
		name string
		m    *dns.Msg
	}{
		{"A", question1("web.overlay.internal.", dns.TypeA)},
		{"A+EDNS", question1("web.overlay.internal.", dns.TypeA).SetEdns0(1232, false)},
		{"A×3", question1("pool.overlay.internal.", dns.TypeA)},
		{"NXDOMAIN", question1("nope.overlay.internal.", dns.TypeA)},
	} {
		message := pack(b, c.m)
		b.Run(c.name+"/stage", func(b *testing.B) {
			query := datagram(host4, stage4, message)
			batch := packet.NewBatch(0)
			var buffers [packet.BatchSize][1500]byte
			b.ReportAllocs()
			for n := 0; n < b.N; n += packet.BatchSize {
				batch.Reset()
				for i := range buffers {
					batch.Append(buffers[i][:copy(buffers[i][:], query)], 0)
				}
				st.Outbound(batch)
				batch.Sweep()
				if len(batch.Bounced()) != packet.BatchSize {
					b.Fatal("not in place")
				}
			}
		})
		b.Run(c.name+"/miekg, records in a map", func(b *testing.B) {
			if c.name[0] == 'A' && c.name != "A×3" { // the order, or the names in the SOA record, differ
				require.Equal(b, inPlace(b, s, message, local), throughMsg(records, message))
			}
			b.ReportAllocs()
			for range b.N {
				throughMsg(records, message)
			}
		})
		b.Run(c.name+"/miekg, the same look-up", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				s.handle(b.Context(), message, local)
			}
		})
	}
}

type recordKey struct {
	name       string
	recordType uint16
}

// recordMap is a zone as a server on miekg/dns would have it at its best: the
// records of a name and type together in a map.
func recordMap(z *Zone) map[recordKey][]dns.RR {
	records := make(map[recordKey][]dns.RR)
	snap := z.now.Load()
	snap.tree.each(func(o *owner) bool {
		for i := range o.sets {
			records[recordKey{nameText(o.name), o.sets[i].recordType}] = o.sets[i].records(nameText(o.name))
		}
		return true
	})
	records[recordKey{}] = []dns.RR{snap.negative(z.origin)}
	return records
}

func throughMsg(records map[recordKey][]dns.RR, message []byte) []byte {
	req := new(dns.Msg)
	if req.Unpack(message) != nil {
		return nil
	}
	resp := new(dns.Msg).SetReply(req)
	resp.Authoritative, resp.Compress = true, true
	q := req.Question[0]
	if found := records[recordKey{dns.CanonicalName(q.Name), q.Qtype}]; found != nil {
		for _, rr := range found { // the name in the question's case
			rr = dns.Copy(rr)
			rr.Header().Name = q.Name
			resp.Answer = append(resp.Answer, rr)
		}
	} else {
		resp.Rcode, resp.Ns = dns.RcodeNameError, records[recordKey{}]
	}
	if opt := req.IsEdns0(); opt != nil {
		resp.SetEdns0(udpSize, opt.Do())
	}
	packed, err := resp.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// BenchmarkCached is one query answered from the cache, in place and on the
// general path.
func BenchmarkCached(b *testing.B) {
	up := newUpstream(b, answers(0, "example.com. 80000 IN CNAME cdn.example.net.", "cdn.example.net. 80000 IN A 192.0.2.1"))
	s := testServer(b, Config{RatePerSource: -1, Forward: &Forward{Upstreams: []Upstream{up.upstream()}}})
	require.Len(b, askOnce(b, s, "example.com.").Answer, 2)
	query := pack(b, question1("example.com.", dns.TypeA))
	b.Run("in place", func(b *testing.B) {
		w := worker{server: s, now: s.clock()}
		buf := make([]byte, maxQuery)
		b.ReportAllocs()
		for range b.N {
			from := local
			if _, v := w.receive(buf, copy(buf, query), &from); v != answered {
				b.Fatal("not in place")
			}
		}
	})
	b.Run("general", func(b *testing.B) {
		from := client{addr: netip.MustParseAddrPort("127.0.0.1:53"), recurse: true}
		b.ReportAllocs()
		for range b.N {
			s.handle(b.Context(), query, from)
		}
	})
}
