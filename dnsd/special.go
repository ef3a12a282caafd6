package dnsd

import (
	"net/netip"

	"github.com/miekg/dns"
)

// special answers names no upstream is to be asked for: those of a route without
// upstreams, and those RFC 6761 and RFC 7686 reserve. A route for a reserved name
// comes first. It is nil for ordinary names.
func (f *forwarder) special(q question) *entry {
	domain, resolvers := f.route(q.name)
	if domain != "" && len(resolvers) == 0 {
		return f.local(q, dns.RcodeNameError)
	}
	if domain != "" {
		return nil
	}
	switch {
	case within(q.name, "\x05onion\x00"), within(q.name, "\x07invalid\x00"):
		return f.local(q, dns.RcodeNameError)
	case within(q.name, "\x09localhost\x00"): // RFC 6761 section 6.3
		return f.local(q, dns.RcodeSuccess)
	}
	return nil
}

// local makes an answer of our own: for NOERROR the loopback addresses.
func (f *forwarder) local(q question, rcode int) *entry {
	m := &dns.Msg{Compress: true}
	m.Rcode = rcode
	name := nameText(q.name)
	m.SetQuestion(name, q.recordType)
	header := dns.RR_Header{Name: name, Rrtype: q.recordType, Class: dns.ClassINET, Ttl: staleTTL}
	switch {
	case rcode == dns.RcodeSuccess && q.recordType == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()}}
	case rcode == dns.RcodeSuccess && q.recordType == dns.TypeAAAA:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: netip.IPv6Loopback().AsSlice()}}
	}
	now := f.server.clock()
	e, err := newEntry(q, m, now)
	if err != nil {
		return failure(q, now)
	}
	return e
}
