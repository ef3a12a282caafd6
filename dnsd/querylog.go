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
	general atomic.Uint32 // queries of the general path since one was written
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

// logInPlace takes note of a query the worker answered.
func (w *worker) logInPlace(from *client, answer []byte) {
	l := w.server.queryLog
	if l == nil {
		return
	}
	if w.unlogged++; w.unlogged < l.every {
		return
	}
	w.unlogged = 0
	w.entry.client, w.entry.transport = from.addr, from.transport
	w.entry.length = copy(w.entry.name[:], w.query.wire())
	w.entry.recordType, w.entry.rcode = w.query.recordType, answer[3]&0xf
	l.put(&w.server.counters, &w.entry)
}

// logGeneral takes note of a query the general path answered.
func (s *Server) logGeneral(message, answer []byte, from *client, took time.Duration) {
	l := s.queryLog
	if l == nil || answer == nil || l.general.Add(1)%l.every != 0 {
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
