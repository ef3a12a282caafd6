package daemon

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

var updateGolden = flag.Bool("update", false, "write the expected names of metrics anew")

var (
	metricLine  = regexp.MustCompile(`^([a-z_:][a-z0-9_:]*)(?:\{((?:[a-zA-Z_]+="(?:[^"\\\n]|\\["\\n])*",?\s?)*)\})? (-?[0-9.e+-]+|\+Inf|NaN)$`)
	metricLabel = regexp.MustCompile(`(?:^|,)\s?([a-zA-Z_]+)="`)
)

// scrape is every line of the metrics that is a sample.
func scrape(t testing.TB, d *Daemon) []string {
	t.Helper()
	w := httptest.NewRecorder()
	d.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "text/plain; version=0.0.4; charset=utf-8", w.Header().Get("Content-Type"))
	var samples []string
	seen := make(map[string]bool)
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		require.Regexp(t, metricLine, line)
		name := line[:strings.LastIndexByte(line, ' ')]
		require.False(t, seen[name], "twice: %s", line)
		seen[name] = true
		samples = append(samples, line)
	}
	return samples
}

// Dashboards are made of names and labels, so they stay.
func TestTheNamesAndLabelsOfMetricsStay(t *testing.T) {
	d := newRootless(t)
	require.NoError(t, d.openNames(nil))
	t.Cleanup(d.closeNames)
	addTestPeer(t, d, 1, "192.0.2.7:51820", "10.200.7.0/28", "10.200.8.0/28")
	d.degrade(partFirewall, errFlushed)
	names := make(map[string]bool)
	for _, line := range scrape(t, d) {
		m := metricLine.FindStringSubmatch(line)
		if strings.HasPrefix(m[1], "go_") || strings.HasPrefix(m[1], "process_") {
			names[m[1][:strings.IndexByte(m[1], '_')]+"_…"] = true
			continue
		}
		name := m[1]
		for _, label := range metricLabel.FindAllStringSubmatch(m[2], -1) {
			name += " " + label[1]
		}
		names[name] = true
	}
	var list []string
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	is := strings.Join(list, "\n") + "\n"
	const golden = "testdata/metrics.txt"
	if *updateGolden {
		require.NoError(t, os.WriteFile(golden, []byte(is), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), is)
}

func TestMetricsSayWhatIs(t *testing.T) {
	d := newRootless(t)
	require.NoError(t, d.openNames(nil))
	t.Cleanup(d.closeNames)
	key := addTestPeer(t, d, 1, "192.0.2.7:51820", "10.200.7.0/28", "10.200.8.0/28").String()
	register(t, d, "web", "10.200.1.1", wire.DNSReplace)
	register(t, d, "web", "10.200.1.2", wire.DNSAdd)
	for _, took := range []time.Duration{0, time.Millisecond, 1100 * time.Microsecond, 3 * time.Millisecond, time.Minute} {
		d.meter.attached(took)
	}
	d.publish(wire.Recovered{Part: "dns"})
	d.degrade(partPorts, errFlushed)
	lines := scrape(t, d)
	for _, want := range []string{
		`wireguard_sent_bytes_total{interface="netstack",public_key="` + key + `"} 0`,
		`wireguard_latest_handshake_seconds{interface="netstack",public_key="` + key + `"} 0`,
		`overlayd_peer_healthy{interface="netstack",public_key="` + key + `"} 0`,
		`overlayd_peer_allowed_ips{interface="netstack",public_key="` + key + `"} 2`,
		`overlayd_packets_total{interface="netstack",direction="sent"} 0`,
		`overlayd_dns_names 1`,
		`overlayd_dns_records 2`,
		`overlayd_attach_seconds_bucket{le="0.001"} 2`,
		`overlayd_attach_seconds_bucket{le="0.002"} 3`,
		`overlayd_attach_seconds_bucket{le="0.005"} 4`,
		`overlayd_attach_seconds_bucket{le="10"} 4`,
		`overlayd_attach_seconds_bucket{le="+Inf"} 5`,
		`overlayd_attach_seconds_count 5`,
		`overlayd_attach_seconds_sum 60.0051`,
		`overlayd_events_total{event="recovered"} 1`,
		`overlayd_events_total{event="degraded"} 1`,
		`overlayd_degraded{part="ports"} 1`,
		`overlayd_build_info{version="v0.0.0-test",mode="rootless"} 1`,
		`overlayd_start_time_seconds 1700000000`,
		`overlayd_published_ports 0`,
	} {
		require.Contains(t, lines, want)
	}
}

func TestMetricsAreOnlyRead(t *testing.T) {
	d := newParts(t)
	w := httptest.NewRecorder()
	d.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader("x")))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	w = httptest.NewRecorder()
	d.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Zero(t, w.Body.Len())
}

func TestLabelsAreEscapedAndBounded(t *testing.T) {
	var x exposition
	x.family("m", "gauge", "Of a test.")
	x.count(7, "service", "a\"b\\c\nd", "other", "é")
	require.Equal(t, "# HELP m Of a test.\n# TYPE m gauge\nm{service=\"a\\\"b\\\\c\\nd\",other=\"é\"} 7\n", x.String())

	d := newRootless(t)
	var many []string
	for i := range 4096 {
		many = append(many, "fd00:200:0:"+strings.Repeat("f", 1)+string("0123456789abcdef"[i>>8])+string("0123456789abcdef"[i>>4&15])+string("0123456789abcdef"[i&15])+"::/64")
	}
	key := addTestPeer(t, d, 1, "", many...).String()
	lines := scrape(t, d)
	for _, line := range lines {
		require.Less(t, len(line), 150)
	}
	require.Contains(t, lines, `overlayd_peer_allowed_ips{interface="netstack",public_key="`+key+`"} 4096`)
}

// A degraded part has the name of a service in it, which has a bound.
func TestLabelsOfServicesAreBounded(t *testing.T) {
	d := newRootless(t)
	long := strings.Repeat("\"", maxLabel)
	d.degrade(partService(long), errFlushed)
	for _, line := range scrape(t, d) {
		require.Less(t, len(line), 2*maxLabel+100)
	}
}
