package dnsd

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// udpSize is the largest datagram we send and say we take: it passes every
// path's MTU without fragments (RFC 9715 section 3.2 and the 2020 flag day).
const udpSize = 1232

// maxAliases bounds a chain of CNAME records.
const maxAliases = 8

// A client is where a query came from.
type client struct {
	addr   netip.AddrPort // zero when the transport has no such thing
	stream bool           // asked over TCP
}

// handle answers one message, or returns nil when it deserves no answer. It is
// the general path; what it does for ordinary queries the in-place path does
// alike.
func (s *Server) handle(ctx context.Context, message []byte, from client) []byte {
	if len(message) < headerSize || message[2]&0x80 != 0 {
		return nil // not a query: answering could start a loop between two servers
	}
	var req dns.Msg
	if err := req.Unpack(message); err != nil {
		return headerReply(message, dns.RcodeFormatError)
	}
	if req.Opcode != dns.OpcodeQuery {
		return headerReply(message, dns.RcodeNotImplemented)
	}
	if len(req.Question) != 1 || len(req.Answer) > 0 || len(req.Ns) > 0 { // RFC 9619
		return headerReply(message, dns.RcodeFormatError)
	}
	resp := s.reply(ctx, &req, from)
	limit := dns.MaxMsgSize
	if !from.stream {
		limit = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			limit = min(max(int(opt.UDPSize()), limit), udpSize)
		}
	}
	packed, err := resp.Pack()
	if err == nil && len(packed) > limit {
		// An empty answer with TC makes the client come back over TCP (RFC 2181
		// section 9); half a set would only tempt it to use it.
		resp.Answer, resp.Ns, resp.Truncated = nil, nil, true
		packed, err = resp.Pack()
	}
	if err != nil {
		return headerReply(message, dns.RcodeServerFailure)
	}
	return packed
}

// headerReply is an answer that has a header only, for what could not be read.
func headerReply(message []byte, rcode int) []byte {
	b := make([]byte, headerSize)
	copy(b, message[:4])
	b[2] = b[2]&0x79 | 0x80 // opcode and RD stay
	b[3] = byte(rcode)
	return b
}

// reply answers a well-formed query.
func (s *Server) reply(ctx context.Context, req *dns.Msg, from client) *dns.Msg {
	resp := new(dns.Msg)
	resp.SetReply(req)
	resp.Compress = true
	q := req.Question[0]
	if q.Qclass != dns.ClassINET {
		resp.Rcode = dns.RcodeRefused
		return resp
	}
	if opt := req.IsEdns0(); opt != nil {
		resp.SetEdns0(udpSize, opt.Do())
		if opt.Version() != 0 { // RFC 6891 section 6.1.3
			resp.Rcode = dns.RcodeBadVers
			return resp
		}
	}
	s.fromZones(ctx, resp, q.Name, q.Qtype)
	return resp
}

// fromZones answers from our own data, following aliases within it.
func (s *Server) fromZones(_ context.Context, resp *dns.Msg, text string, recordType uint16) {
	for range maxAliases {
		var n name
		var wire [maxName + 1]byte
		size, err := dns.PackDomainName(text, wire[:], 0, nil, false)
		if err != nil || n.read(wire[:size]) == 0 {
			resp.Rcode = dns.RcodeFormatError
			return
		}
		snap, o, zone := s.match(&n)
		if zone == "" {
			if len(resp.Answer) == 0 {
				resp.Rcode = dns.RcodeRefused
			}
			return
		}
		if len(resp.Answer) == 0 {
			resp.Authoritative = true
		}
		if o == nil {
			resp.Rcode = dns.RcodeNameError
			resp.Ns = append(resp.Ns, snap.negative(zone))
			return
		}
		if found := snap.find(o, recordType); found != nil {
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
	}
}

// match finds what answers for a name among the zones: that of the longest apex.
func (s *Server) match(n *name) (snap *snapshot, o *owner, zone string) {
	for _, z := range s.zones {
		now := z.now.Load()
		if found, apex := now.match(n); len(apex) > len(zone) {
			snap, o, zone = now, found, apex
		}
	}
	return snap, o, zone
}

// records are the set's, with a name as it was asked for.
func (s *set) records(text string) []dns.RR {
	rrs := make([]dns.RR, 0, s.count)
	for rdata := range s.data {
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

// negative is the SOA record that tells how long an absence may be remembered:
// its TTL is the MINIMUM field (RFC 2308 section 3).
func (s *snapshot) negative(zone string) dns.RR {
	soa := s.soa
	soa.ttl = s.negativeTTL
	return soa.records(nameText(zone))[0]
}
