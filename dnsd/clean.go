package dnsd

import (
	"errors"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// errUseless is an answer that does not say what was asked, such as a referral
// from a server that does not resolve.
var errUseless = errors.New("dnsd: the resolver neither answers nor denies")

// errCircle is an answer whose aliases lead back to one of them.
var errCircle = errors.New("dnsd: the resolver's aliases form a circle")

// clean takes from a resolver's reply what answers the question and drops all
// else: records that are not of the chain from the name asked for through its
// aliases, and authority that does not cover the name, whoever sent them (RFC
// 2181 section 5.4.1, RFC 5452 section 6). The names of the chain's first link
// come out in the case of the question.
func clean(q question, reply *dns.Msg) (*dns.Msg, error) {
	asked := nameText(q.name)
	out := &dns.Msg{Compress: true, Question: []dns.Question{{Name: asked, Qtype: q.recordType, Qclass: dns.ClassINET}}}
	out.Rcode = reply.Rcode
	if !conclusive(reply.Rcode) {
		return out, nil
	}
	name, found := asked, false
	for hop := 0; !found && hop <= maxAliases; hop++ {
		var next string
		for _, rr := range reply.Answer {
			h := rr.Header()
			if !usable(h) {
				continue
			}
			switch {
			case redirects(rr, name, q.do):
				out.Answer = append(out.Answer, rr)
			case !strings.EqualFold(h.Name, name):
			case h.Rrtype == q.recordType:
				h.Name, found = name, true
				out.Answer = append(out.Answer, rr)
			case h.Rrtype == dns.TypeCNAME && next == "":
				h.Name, next = name, rr.(*dns.CNAME).Target
				out.Answer = append(out.Answer, rr)
			case q.do && covers(rr, q.recordType):
				h.Name = name
				out.Answer = append(out.Answer, rr)
			}
		}
		if found || next == "" {
			break
		}
		if slices.ContainsFunc(out.Answer, func(rr dns.RR) bool { return isAlias(rr, next) }) {
			return nil, errCircle
		}
		name = next
	}
	if found {
		out.Rcode = dns.RcodeSuccess
	}
	for _, rr := range reply.Ns {
		h := rr.Header()
		if !usable(h) {
			continue
		}
		switch h.Rrtype {
		case dns.TypeSOA:
			if !found && dns.IsSubDomain(h.Name, name) && !slices.ContainsFunc(out.Ns, isSOA) {
				out.Ns = append(out.Ns, rr)
			}
		case dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG:
			if q.do {
				out.Ns = append(out.Ns, rr)
			}
		}
	}
	denied := out.Rcode == dns.RcodeNameError || slices.ContainsFunc(out.Ns, isSOA)
	if !found && !denied && !reply.RecursionAvailable && !reply.Authoritative {
		return nil, errUseless
	}
	return out, nil
}

// usable reports whether a record is of our class, and has data: one without, as
// dynamic updates have them (RFC 2136 section 2.5.2), is no part of an answer.
func usable(h *dns.RR_Header) bool { return h.Class == dns.ClassINET && h.Rdlength > 0 }

func isSOA(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA }

func isAlias(rr dns.RR, name string) bool {
	h := rr.Header()
	return h.Rrtype == dns.TypeCNAME && strings.EqualFold(h.Name, name)
}

// redirects reports whether rr redirects names below its own, of which name is one
// (RFC 6672), or signs what does; the alias for name that follows from it stands
// beside it.
func redirects(rr dns.RR, name string, signed bool) bool {
	h := rr.Header()
	sig, ok := rr.(*dns.RRSIG)
	return (h.Rrtype == dns.TypeDNAME || ok && signed && sig.TypeCovered == dns.TypeDNAME) &&
		dns.IsSubDomain(h.Name, name) && !strings.EqualFold(h.Name, name)
}

// covers reports whether rr signs records of a type, or an alias.
func covers(rr dns.RR, recordType uint16) bool {
	sig, ok := rr.(*dns.RRSIG)
	return ok && (sig.TypeCovered == recordType || sig.TypeCovered == dns.TypeCNAME)
}
