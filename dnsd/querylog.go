package dnsd

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// A queryLog writes one query in so many to a logger, from a goroutine of its
// own, so that a slow log costs log lines and not answers.
type queryLog struct {
	logger  *slog.Logger
	every   uint32
	entries chan logEntry
	queries atomic.Uint32 // answered in all
}

// A logEntry holds the name itself, so that making one allocates nothing.
type logEntry struct {
	client     netip.AddrPort
	transport  transport
	name       [maxName]byte
	length     int
	recordType uint16
	rcode      uint8
	took       time.Duration
}

func newQueryLog(logger *slog.Logger, every int) *queryLog {
	return &queryLog{logger: logger, every: uint32(max(every, 1)), entries: make(chan logEntry, 256)}
}

// run writes entries until ctx ends.
func (l *queryLog) run(ctx context.Context) {
	for {
		select {
		case e := <-l.entries:
			l.logger.LogAttrs(ctx, slog.LevelInfo, "query",
				slog.String("name", nameText(string(e.name[:e.length]))),
				slog.String("type", dns.Type(e.recordType).String()),
				slog.String("client", e.client.String()),
				slog.String("transport", transportNames[e.transport]),
				slog.String("rcode", dns.RcodeToString[int(e.rcode)]),
				slog.Duration("took", e.took),
			)
		case <-ctx.Done():
			return
		}
	}
}

// put hands an entry over, unless the writer is behind.
func (l *queryLog) put(c *counters, e *logEntry) {
	select {
	case l.entries <- *e:
		c.add(logged, 1)
	default:
		c.add(logLost, 1)
	}
}

// due counts a query and reports whether it is one to be written.
func (l *queryLog) due() bool { return l.queries.Add(1)%l.every == 0 }

// logInPlace takes note of a query the worker answered.
func (w *worker) logInPlace(from *client, answer []byte) {
	l := w.server.queryLog
	if l == nil || !l.due() {
		return
	}
	e := logEntry{client: from.addr, transport: from.transport, recordType: w.query.recordType, rcode: answer[3] & 0xf}
	e.length = copy(e.name[:], w.query.wire())
	l.put(&w.server.counters, &e)
}

// logGeneral takes note of a query the general path answered.
func (s *Server) logGeneral(message, answer []byte, from *client, took time.Duration) {
	l := s.queryLog
	if l == nil || answer == nil || !l.due() {
		return
	}
	e := logEntry{client: from.addr, transport: from.transport, rcode: answer[3] & 0xf, took: took}
	var q query
	if q.parse(message) {
		e.length = copy(e.name[:], q.wire())
		e.recordType = q.recordType
	}
	l.put(&s.counters, &e)
}
