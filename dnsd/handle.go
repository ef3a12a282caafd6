package dnsd

import (
	"context"

	"github.com/miekg/dns"
)

// udpSize is the largest datagram we send, and say we take: it passes every
// path's MTU whole (RFC 9715 section 3.2 and DNS flag day 2020).
const udpSize = 1232

// maxAliases bounds a chain of CNAME records.
const maxAliases = 8

// handle answers one message, or returns nil when it deserves no answer. It is
// the general path: it answers everything, and what the in-place path also
// answers, alike.
func (s *Server) handle(ctx context.Context, message []byte, from client) []byte {
	if len(message) < headerSize || message[2]&flagQR != 0 {
		return nil
	}
	if message[2]&opcodeMask != 0 { // whose sections mean other things
		return s.headerReply(message, dns.RcodeNotImplemented)
	}
	req := new(dns.Msg)
	if req.Unpack(message) != nil {
		return s.headerReply(message, dns.RcodeFormatError)
	}
	if len(req.Question) != 1 || len(req.Answer) > 0 || len(req.Ns) > 0 || options(req) > 1 {
		return s.headerReply(message, dns.RcodeFormatError) // RFC 9619, RFC 6891 section 6.1.1
	}
	resp := s.reply(ctx, req, from)
	limit := dns.MaxMsgSize
	if from.transport != overTCP {
		opt := req.IsEdns0()
		limit = dns.MinMsgSize
		if opt != nil {
			limit = udpLimit(true, opt.UDPSize())
		}
	}
	if from.room > 0 {
		limit = min(limit, from.room)
	}
	packed, err := resp.Pack()
	if err == nil && len(packed) > limit {
		// An empty answer with TC makes the client come back over TCP (RFC 2181
		// section 9); half a set would only tempt it to use that.
		resp.Answer, resp.Ns, resp.Truncated = nil, nil, true
		packed, err = resp.Pack()
		s.counters.add(truncated, 1)
	}
	if err != nil {
		return s.headerReply(message, dns.RcodeServerFailure)
	}
	s.counters.add(rcodes+counter(min(resp.Rcode, numRcodes-1)), 1)
	return packed
}

// options counts the OPT records of a query.
func options(req *dns.Msg) (n int) {
	for _, rr := range req.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

// headerReply is an answer that is a header only, for what could not be read.
func (s *Server) headerReply(message []byte, rcode byte) []byte {
	s.counters.add(rcodes+counter(rcode), 1)
	b := make([]byte, headerSize)
	copy(b, message)
	setHeader(b, flagQR, rcode, 0, 0, 0, 0)
	return b
}

// reply answers a well-formed query.
func (s *Server) reply(ctx context.Context, req *dns.Msg, from client) *dns.Msg {
	resp := new(dns.Msg)
	resp.SetReply(req)
	resp.Compress = true
	resp.RecursionAvailable = from.recurse
	if opt := req.IsEdns0(); opt != nil {
		resp.SetEdns0(udpSize, opt.Do())
		if opt.Version() != 0 { // RFC 6891 section 6.1.3
			resp.Rcode = dns.RcodeBadVers
			return resp
		}
	}
	q := req.Question[0]
	if q.Qclass != dns.ClassINET {
		resp.Rcode = dns.RcodeRefused
		return resp
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB: // RFC 5936 section 2.2.1
		resp.Rcode = dns.RcodeRefused
		return resp
	}
	s.follow(ctx, resp, req, from)
	return resp
}

// follow answers a question and the aliases it leads to, from our zones as far
// as they go.
func (s *Server) follow(ctx context.Context, resp, req *dns.Msg, from client) {
	q := req.Question[0]
	text := q.Name
	for hop := 0; ; hop++ {
		var n name
		var wire [maxName + 1]byte
		size, err := dns.PackDomainName(text, wire[:], 0, nil, false)
		if err != nil || n.read(wire[:size]) == 0 {
			resp.Rcode = dns.RcodeFormatError
			return
		}
		snap, o, zone := s.match(&n)
		if zone == "" {
			s.forwarded(ctx, resp, req, from, text, wire[:size])
			return
		}
		resp.Authoritative = resp.Authoritative || hop == 0
		if o == nil { // RFC 6604: the code is that of the last name
			resp.Rcode = dns.RcodeNameError
			resp.Ns = append(resp.Ns, snap.negative(zone))
			return
		}
		found := snap.find(o, q.Qtype)
		if q.Qtype == dns.TypeANY {
			found = snap.any(o)
		}
		if found != nil {
			resp.Answer = append(resp.Answer, found.records(text)...)
			return
		}
		alias := snap.find(o, dns.TypeCNAME)
		if alias == nil {
			resp.Ns = append(resp.Ns, snap.negative(zone))
			return
		}
		rrs := alias.records(text)
		resp.Answer = append(resp.Answer, rrs...)
		text = rrs[0].(*dns.CNAME).Target
		if hop == maxAliases { // RFC 1034 section 3.6.2: an error
			resp.Answer, resp.Rcode = nil, dns.RcodeServerFailure
			return
		}
	}
}

// any picks one of an owner's sets: who asks for all types gets a little that is
// true (RFC 8482 section 4.1).
func (s *snapshot) any(o *owner) *set {
	if len(o.sets) > 0 {
		return &o.sets[0]
	}
	return s.find(o, dns.TypeSOA)
}

// forwarded answers what lies outside our zones.
func (s *Server) forwarded(ctx context.Context, resp, req *dns.Msg, from client, text string, wire []byte) {
	if !req.RecursionDesired || !from.recurse {
		if len(resp.Answer) == 0 {
			resp.Rcode = dns.RcodeRefused
			explain(resp, dns.ExtendedErrorCodeProhibited)
		}
		return
	}
	recordType := req.Question[0].Qtype
	if recordType == dns.TypeANY { // RFC 8482 section 4.2
		header := dns.RR_Header{Name: text, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600}
		resp.Answer = append(resp.Answer, &dns.HINFO{Hdr: header, Cpu: "RFC8482"})
		return
	}
	opt := req.IsEdns0()
	e, stale, err := s.forward.resolve(ctx, question{
		name: canonical(string(wire)),
		kind: kind{recordType, opt != nil && opt.Do(), req.CheckingDisabled},
	}, wire)
	if err != nil {
		resp.Rcode = dns.RcodeServerFailure
		explain(resp, dns.ExtendedErrorCodeOther)
		return
	}
	answers, authorities, err := e.records(text, s.clock(), stale)
	if err != nil {
		resp.Rcode = dns.RcodeServerFailure
		return
	}
	resp.Rcode = int(e.rcode)
	resp.Answer = append(resp.Answer, answers...)
	resp.Ns = append(resp.Ns, authorities...)
	switch {
	case e.rcode == dns.RcodeServerFailure:
		explain(resp, dns.ExtendedErrorCodeNoReachableAuthority)
	case !stale:
	case e.rcode == dns.RcodeNameError:
		explain(resp, dns.ExtendedErrorCodeStaleNXDOMAINAnswer)
	default:
		explain(resp, dns.ExtendedErrorCodeStaleAnswer)
	}
}

// explain adds an extended error (RFC 8914) for clients that speak EDNS.
func explain(resp *dns.Msg, code uint16) {
	if opt := resp.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code})
	}
}

// records are the set's in rotation, with a name as it was asked for.
func (s *set) records(text string) []dns.RR {
	rotated := *s
	rotated.wire = string(s.appendRotated(nil, questionName))
	rrs := make([]dns.RR, 0, s.count)
	for rdata := range rotated.data {
		header := dns.RR_Header{
			Name: text, Rrtype: s.recordType, Class: dns.ClassINET, Ttl: s.ttl, Rdlength: uint16(len(rdata)),
		}
		rr, _, err := dns.UnpackRRWithHeader(header, []byte(rdata), 0)
		if err == nil {
			rrs = append(rrs, rr)
		}
	}
	return rrs
}

// records are the entry's as they are now, with a name as it was asked for.
func (e *entry) records(text string, now int64, stale bool) (answers, authorities []dns.RR, err error) {
	m := new(dns.Msg)
	m.Question = []dns.Question{{Name: text, Qtype: e.recordType, Qclass: dns.ClassINET}}
	packed, err := m.Pack()
	if err != nil {
		return nil, nil, err
	}
	packed = e.appendBody(packed, now, stale)
	setHeader(packed, flagQR, 0, 1, e.counts[0], e.counts[1], 0)
	if err := m.Unpack(packed); err != nil {
		return nil, nil, err
	}
	return m.Answer, m.Ns, nil
}

// negative is the SOA record that says how long an absence may be remembered: its
// TTL is the MINIMUM field (RFC 2308 section 3).
func (s *snapshot) negative(zone string) dns.RR {
	soa := s.soa
	soa.ttl = s.zone.negativeTTL
	return soa.records(nameText(zone))[0]
}
