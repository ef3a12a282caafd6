package dnsd

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// A recordingHandler hands on what is logged; with nobody to take it, it blocks.
type recordingHandler chan map[string]string

func (h recordingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h recordingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h recordingHandler) WithGroup(string) slog.Handler            { return h }
func (h recordingHandler) Handle(ctx context.Context, r slog.Record) error {
	line := make(map[string]string)
	r.Attrs(func(a slog.Attr) bool { line[a.Key] = a.Value.String(); return true })
	select {
	case h <- line:
	case <-ctx.Done():
	}
	return nil
}

func TestQueriesAreLogged(t *testing.T) {
	log := make(recordingHandler)
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, QueryLog: slog.New(log)})
	server := listen(t, s, "127.0.0.1:0").Addr().String()
	for _, c := range []struct{ network, name, rcode string }{
		{"udp", "web.overlay.internal.", "NOERROR"},
		{"udp", "away.overlay.internal.", "NOERROR"}, // of the general path
		{"tcp", "nope.overlay.internal.", "NXDOMAIN"},
		{"tcp", "example.com.", "REFUSED"},
	} {
		exchange(t, c.network, server, c.name, dns.TypeA)
		line := <-log
		require.Regexp(t, `^127\.0\.0\.1:\d+$`, line["client"])
		_, err := time.ParseDuration(line["took"])
		require.NoError(t, err)
		delete(line, "client")
		delete(line, "took")
		require.Equal(t, map[string]string{"name": c.name, "type": "A", "transport": c.network, "rcode": c.rcode}, line)
	}
}

func TestALogThatBlocksCostsLinesOnly(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, QueryLog: slog.New(make(recordingHandler)), QueryLogEvery: 3})
	query := pack(t, question1("web.overlay.internal.", dns.TypeA))
	for range 3000 {
		require.NotNil(t, inPlace(t, s, query, local))
	}
	st := s.Stats()
	require.EqualValues(t, 1000, st.Logged+st.LogLost, "one in three")
	require.GreaterOrEqual(t, st.LogLost, uint64(1000-256-1))
}
