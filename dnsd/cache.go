package dnsd

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxTTL bounds how long an answer is believed, and maxNegativeTTL how long
	// that there is none (RFC 2308 section 5 advises one to three hours).
	maxTTL         = 24 * 3600
	maxNegativeTTL = 3 * 3600
	// failureTTL is how long a failure to resolve is remembered (RFC 9520 section
	// 3.2: one second to five minutes).
	failureTTL = 1
	// maxStale is how long an answer that has expired is kept for when nobody can
	// be asked (RFC 8767 section 5: one to three days), and staleTTL what it then
	// says (section 4: 30 seconds).
	maxStale = 24 * time.Hour
	staleTTL = 30
	// maxCached is the longest answer kept. It bounds the memory of the cache.
	maxCached = 4096
)

// An entry is an answer that was forwarded. It never changes, marks apart.
type entry struct {
	question
	rcode   uint8
	counts  [2]uint16 // of answer and authority records
	body    []byte    // those records, as they stand behind the question
	ttls    []uint16  // where in body their TTLs are
	stored  int64     // ns, of the server's clock
	expires int64     // stored and the least of the TTLs; the answer is fresh before
	keep    int64     // until when it may be served stale

	used    atomic.Int64 // when it was last served
	renewed atomic.Bool  // somebody has undertaken to renew it
	retry   atomic.Int64 // when to ask again after renewing failed
}

var errUnusable = errors.New("dnsd: unusable answer")

// newEntry makes an entry of an answer that clean has seen.
func newEntry(q question, m *dns.Msg, now int64) (*entry, error) {
	ttl := uint32(maxTTL)
	for _, rr := range m.Answer {
		ttl = min(ttl, plainTTL(rr))
	}
	answered := slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == q.recordType })
	if !answered {
		ttl = min(ttl, negativeTTL(m))
	}
	if !conclusive(m.Rcode) {
		ttl = failureTTL
	}
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if err := new(dns.Msg).Unpack(packed); err != nil { // what a client would do
		return nil, err
	}
	e := &entry{
		question: q,
		rcode:    uint8(m.Rcode),
		counts:   [2]uint16{uint16(len(m.Answer)), uint16(len(m.Ns))},
		stored:   now,
		expires:  now + int64(ttl)*int64(time.Second),
	}
	e.keep = e.expires
	if conclusive(m.Rcode) {
		e.keep += int64(maxStale)
	}
	at := headerSize + len(q.name) + 4
	if len(packed) < at {
		return nil, errUnusable
	}
	e.body = packed[at:]
	for i := 0; i < len(e.body); {
		n := skipName(e.body[i:])
		if n == 0 || i+n+10 > len(e.body) {
			return nil, errUnusable
		}
		e.ttls = append(e.ttls, uint16(i+n+4))
		i += n + 10 + int(binary.BigEndian.Uint16(e.body[i+n+8:]))
	}
	return e, nil
}

// plainTTL is a record's TTL; one with the top bit set means zero (RFC 2181
// section 8).
func plainTTL(rr dns.RR) uint32 {
	h := rr.Header()
	if h.Ttl > 1<<31-1 {
		h.Ttl = 0
	}
	h.Ttl = min(h.Ttl, maxTTL)
	return h.Ttl
}

// negativeTTL is how long an absence may be remembered (RFC 2308 section 5): not
// at all without an SOA record.
func negativeTTL(m *dns.Msg) uint32 {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Hdr.Ttl = min(plainTTL(rr), soa.Minttl, maxNegativeTTL)
			return soa.Hdr.Ttl
		}
	}
	return 0
}

// skipName is the length of the name b begins with, compressed or not, or 0.
func skipName(b []byte) int {
	for i := 0; i < len(b); {
		switch n := int(b[i]); {
		case n == 0:
			return i + 1
		case n >= 0xc0:
			return i + 2
		default:
			i += 1 + n
		}
	}
	return 0
}

// fresh reports whether the answer holds now.
func (e *entry) fresh(now int64) bool { return now < e.expires }

// due reports whether a tenth or less of the answer's time is left, which is when
// an answer that is in use is renewed before it expires. One caller is told.
func (e *entry) due(now int64) bool {
	return now >= e.expires-(e.expires-e.stored)/10 && conclusive(int(e.rcode)) &&
		!e.renewed.Load() && e.renewed.CompareAndSwap(false, true)
}

// appendBody appends the records with the TTLs they have now.
func (e *entry) appendBody(b []byte, now int64, stale bool) []byte {
	at := len(b)
	b = append(b, e.body...)
	age := uint32(max(now-e.stored, 0) / int64(time.Second))
	for _, i := range e.ttls {
		field := b[at+int(i):]
		ttl := binary.BigEndian.Uint32(field)
		if stale {
			ttl = staleTTL
		} else {
			ttl -= min(ttl, age)
		}
		binary.BigEndian.PutUint32(field, ttl)
	}
	return b
}

// A cache keeps answers. Readers take no lock; its size is fixed: where a new
// answer may stand there are eight places, and the one served longest ago makes
// room.
type cache struct {
	sets []cacheSet
	mu   [16]sync.Mutex // held by writers, each for one set in sixteen
}

const cacheWays = 8

type cacheSet struct {
	tags    [cacheWays]atomic.Uint32 // part of the hash, so that a look-up misses little memory
	entries [cacheWays]atomic.Pointer[entry]
}

// newCache makes room for at least size answers; nil holds none.
func newCache(size int) *cache {
	if size <= 0 {
		return nil
	}
	sets := 1 << bits.Len(uint((size-1)/cacheWays))
	return &cache{sets: make([]cacheSet, sets)}
}

// hash is that of a question whose name has the hash name.
func (k kind) hash(name uint64) uint64 {
	rest := uint64(k.recordType) << 2
	if k.do {
		rest |= 1
	}
	if k.cd {
		rest |= 2
	}
	return (name ^ rest*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
}

func (q question) hash() uint64 { return q.kind.hash(hashName([]byte(q.name))) }

// place is the set a question's entry stands in, and its tag there.
func (c *cache) place(hash uint64) (set int, tag uint32) {
	return int(hash >> 32 & uint64(len(c.sets)-1)), uint32(hash)
}

// get returns the entry of the question with this hash, fresh or not, or nil.
func (c *cache) get(hash uint64, name []byte, k kind) *entry {
	if c == nil {
		return nil
	}
	at, tag := c.place(hash)
	set := &c.sets[at]
	for i := range set.tags {
		if set.tags[i].Load() != tag {
			continue
		}
		e := set.entries[i].Load()
		if e != nil && e.name == string(name) && e.kind == k {
			return e
		}
	}
	return nil
}

// put keeps an entry, in place of the one with its question, or of the one that
// is missed least.
func (c *cache) put(e *entry, now int64) {
	if c == nil || e.expires <= now || len(e.body) > maxCached {
		return
	}
	e.used.Store(now)
	at, tag := c.place(e.question.hash())
	set, lock := &c.sets[at], &c.mu[at%len(c.mu)]
	lock.Lock()
	defer lock.Unlock()
	victim, worst := 0, int64(1<<63-1)
	for i := range set.entries {
		old := set.entries[i].Load()
		if old == nil {
			if worst >= 0 {
				victim, worst = i, -1
			}
			continue
		}
		if old.question == e.question {
			victim = i
			break
		}
		used := old.used.Load()
		if old.keep <= now {
			used = 0
		}
		if used < worst {
			victim, worst = i, used
		}
	}
	set.entries[victim].Store(e)
	set.tags[victim].Store(tag)
}

// len counts the answers kept.
func (c *cache) len() int {
	n := 0
	if c != nil {
		for i := range c.sets {
			for j := range c.sets[i].entries {
				if c.sets[i].entries[j].Load() != nil {
					n++
				}
			}
		}
	}
	return n
}
