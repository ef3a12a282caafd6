package dnsd

import (
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Stats counts everything since the server was made.
type Stats struct {
	UDP, TCP, Inline uint64 // queries, by how they came

	// Responses by their code's name, such as "NOERROR".
	Responses map[string]uint64
	Truncated uint64 // answers that said to ask again over TCP

	Malformed   uint64 // messages dropped: no query at all, or too long for one
	RateLimited uint64 // queries dropped: their source asked too fast
	Overloaded  uint64 // queries answered with SERVFAIL: too many in flight
	Denied      uint64 // queries refused: their source may not ask
	Streams     uint64 // connections refused: their source had its share

	CacheHits, CacheMisses uint64
	CacheStale             uint64 // answers served after they had expired
	CachePrefetches        uint64 // answers renewed before they expired
	CacheEntries           int

	Joined   uint64 // questions not asked since the same one was being asked
	Rejected uint64 // datagrams of upstreams that answered no question of ours
	ToTCP    uint64 // questions asked again over TCP
	Loops    uint64 // questions that came, or would have come, back to us
	Upstream []UpstreamStats

	InFlight    int // queries on the general path now
	Connections int // TCP connections now

	Logged, LogLost uint64 // queries in the query log, and those it had no time for
}

// UpstreamStats counts what one upstream did.
type UpstreamStats struct {
	Upstream string // as ParseUpstream reads it
	Up       bool
	Queries  uint64
	Failures uint64        // of those: no usable answer in time
	Time     time.Duration // all successful queries took together
}

// Stats returns what was counted.
func (s *Server) Stats() Stats {
	c := &s.counters
	st := Stats{
		UDP: c[queriesUDP].Load(), TCP: c[queriesTCP].Load(), Inline: c[queriesInline].Load(),
		Responses: make(map[string]uint64), Truncated: c[truncated].Load(),
		Malformed: c[droppedMalformed].Load(), RateLimited: c[droppedRate].Load(),
		Overloaded: c[droppedFull].Load(), Denied: c[refusedPolicy].Load(), Streams: c[droppedStream].Load(),
		CacheHits: c[cacheHits].Load(), CacheMisses: c[cacheMisses].Load(),
		CacheStale: c[cacheStale].Load(), CachePrefetches: c[cachePrefetches].Load(),
		Joined: c[joined].Load(), Rejected: c[upstreamRejected].Load(),
		ToTCP: c[upstreamTCP].Load(), Loops: c[upstreamLoops].Load(),
		InFlight: s.inFlight.len(), Connections: s.streams.len(),
		Logged: c[logged].Load(), LogLost: c[logLost].Load(),
	}
	for i := range numRcodes {
		if n := c[rcodes+counter(i)].Load(); n > 0 {
			st.Responses[rcodeName(i)] = n
		}
	}
	if s.forward != nil {
		st.CacheEntries = s.forward.cache.len()
		for _, r := range s.forward.all() {
			st.Upstream = append(st.Upstream, UpstreamStats{
				Upstream: r.Upstream.String(), Up: r.isUp(),
				Queries: r.queries.Load(), Failures: r.failures.Load(),
				Time: time.Duration(r.nanoseconds.Load()),
			})
		}
	}
	return st
}

// rcodeName is the name of a response code. 16 is two things; here nobody signs.
func rcodeName(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS"
	}
	return dns.RcodeToString[rcode]
}

// A counter is an index into the server's counters.
type counter int

const (
	queriesUDP counter = iota // in the order of transport
	queriesTCP
	queriesInline
	truncated
	droppedMalformed
	droppedRate
	droppedFull
	droppedStream
	refusedPolicy
	cacheHits
	cacheMisses
	cacheStale
	cachePrefetches
	upstreamTCP
	upstreamRejected
	upstreamLoops
	joined
	logged
	logLost
	rcodes // and the response codes after it

	numRcodes  = 24 // 0 to 23 are assigned (IANA, DNS RCODEs)
	numCounter = int(rcodes) + numRcodes
)

// counters are added to by every goroutine of a server.
type counters [numCounter]atomic.Uint64

func (c *counters) add(i counter, n uint64) { c[i].Add(n) }

// A tally is what one goroutine has counted since it last told the server.
type tally struct {
	counts [numCounter]uint32
	any    bool
}

func (t *tally) add(i counter, n uint32) {
	t.counts[i] += n
	t.any = true
}

// flush adds the tally to the counters, once for a whole batch.
func (t *tally) flush(to *counters) {
	if !t.any {
		return
	}
	t.any = false
	for i, n := range t.counts {
		if n > 0 {
			to[i].Add(uint64(n))
			t.counts[i] = 0
		}
	}
}
