package dnsd

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"
)

// A verdict says what became of a message.
type verdict uint8

const (
	// general: the in-place path does not know the answer; handle does.
	general verdict = iota
	// answered: the answer stands in the message's place.
	answered
	// ignored: the message deserves no answer.
	ignored
)

// answer turns the query in buf[:n] into its answer, in place, and returns its
// length, at most len(buf). It knows the names of our zones and what is fresh in
// the cache, and leaves all else to handle, which answers the same where both do.
// It does not allocate.
func (w *worker) answer(buf []byte, n int, from *client) (int, verdict) {
	q := &w.query
	if !q.parse(buf[:n]) || q.class != dns.ClassINET || q.version != 0 {
		return 0, general
	}
	if q.recordType >= dns.TypeIXFR && q.recordType <= dns.TypeANY {
		return 0, general
	}
	limit := len(buf)
	if from.transport != overTCP {
		limit = min(limit, q.limit())
	}
	snap, o, zone := w.server.match(&q.name)
	if zone != "" {
		return w.authoritative(buf, limit, from, snap, o, zone)
	}
	if from.recurse && q.rd {
		return w.cached(buf, limit, from)
	}
	return 0, general
}

// authoritative answers from our zones (RFC 1034 section 4.3.2), as far as aliases
// lead within them. The question stays as it was asked, in its own case, and
// records point back to it, or to the alias that led to them.
func (w *worker) authoritative(buf []byte, limit int, from *client, snap *snapshot, o *owner, zone string) (int, verdict) {
	q := &w.query
	a := reply{flags: flagAA}
	if from.recurse {
		a.ra = flagRA
	}
	out := buf[:q.end]
	begin, end := headerSize, q.end-4 // where the name stands that is looked up
	for {
		var found *set
		alias := false
		if o != nil {
			if found = snap.find(o, q.recordType); found == nil {
				found = snap.find(o, dns.TypeCNAME)
				alias = found != nil
			}
		} else {
			a.rcode = dns.RcodeNameError
		}
		size := rrHeader + len(snap.soaData())
		if found != nil {
			size = len(found.wire)
		}
		switch {
		case !w.fits(len(out)+size, limit):
			if from.transport == overTCP || a.answers > 0 {
				return 0, general // which has more room, or knows where the aliases end
			}
			a.flags |= flagTC
			return w.finish(out, a), answered
		case found == nil:
			// The zone's name is the end of the name looked up.
			out = appendRecord(out, pointer(end-len(zone)), dns.TypeSOA, snap.zone.negativeTTL, snap.soaData())
			a.authorities = 1
			return w.finish(out, a), answered
		}
		out = found.appendRotated(out, pointer(begin))
		a.answers += found.count
		if !alias {
			return w.finish(out, a), answered
		}
		begin, end = len(out)-(size-rrHeader), len(out)
		if a.answers > maxAliases || begin >= maxPointer {
			return 0, general
		}
		w.target.read(out[begin:])
		if snap, o, zone = w.server.match(&w.target); zone == "" {
			return 0, general
		}
	}
}

// maxPointer is what a pointer to a name cannot reach (RFC 1035 section 4.1.4).
const maxPointer = 1 << 14

// pointer is a name that stands elsewhere in the message.
func pointer(at int) uint16 { return 0xc000 | uint16(at) }

// cached answers what an upstream said before and still holds.
func (w *worker) cached(buf []byte, limit int, from *client) (int, verdict) {
	q, f := &w.query, w.server.forward
	k := kind{q.recordType, q.do, q.cd}
	e := f.cache.get(k.hash(q.hash), q.wire(), k)
	if e == nil || !e.fresh(w.now) {
		return 0, general
	}
	a := reply{ra: flagRA, rcode: e.rcode}
	out := buf[:q.end]
	if w.fits(q.end+len(e.body), limit) {
		out = e.appendBody(out, w.now, false)
		a.answers, a.authorities = e.counts[0], e.counts[1]
	} else if from.transport == overTCP {
		return 0, general
	} else {
		a.flags = flagTC
	}
	w.tally.add(cacheHits, 1)
	f.hit(e, w.now)
	return w.finish(out, a), answered
}

// fits reports whether an answer of so many bytes, and an OPT record if one is
// due, are within a limit.
func (w *worker) fits(size, limit int) bool {
	if w.query.edns {
		size += optSize
	}
	return size <= limit
}

// A reply is what the header of an answer says.
type reply struct {
	flags, ra, rcode     byte
	answers, authorities uint16
}

// finish completes the answer whose question and records stand in out.
func (w *worker) finish(out []byte, a reply) int {
	var additional uint16
	if w.query.edns {
		out, additional = appendOPT(out, w.query.do), 1
	}
	setHeader(out, flagQR|a.flags, a.rcode, 1, a.answers, a.authorities, additional)
	out[3] |= a.ra
	if a.flags&flagTC != 0 {
		w.tally.add(truncated, 1)
	}
	w.tally.add(rcodes+counter(a.rcode), 1)
	return len(out)
}

// soaData is the data of the SOA record.
func (s *snapshot) soaData() string { return s.soa.wire[rrHeader:] }

// appendRotated appends the set's records, their name being the pointer at,
// beginning with a random one, so that clients which take the first are spread
// over all (RFC 1794).
func (s *set) appendRotated(b []byte, at uint16) []byte {
	first := 0
	if s.count > 1 {
		for range rand.Uint32N(uint32(s.count)) {
			first += firstRecord(s.wire[first:])
		}
	}
	begin := len(b)
	b = append(b, s.wire[first:]...)
	b = append(b, s.wire[:first]...)
	if at != questionName {
		for r := b[begin:]; len(r) > 0; r = r[rrHeader+int(binary.BigEndian.Uint16(r[rrHeader-2:])):] {
			binary.BigEndian.PutUint16(r, at)
		}
	}
	return b
}
