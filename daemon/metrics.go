package daemon

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
)

// A meter is what is counted where it happens; all else is read when it is asked
// for.
type meter struct {
	attaches histogram
	once     sync.Once
	events   map[string]*atomic.Uint64 // by kind; not changed once made
	scrape   sync.Mutex                // held by who collects, so that it is one at a time
}

// attachBuckets are bounds in seconds. An attach takes a few milliseconds.
var attachBuckets = [...]float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}

// A histogram counts durations, by the first of attachBuckets that they fit.
type histogram struct {
	buckets [len(attachBuckets) + 1]atomic.Uint64 // the last for what fits none
	sum     atomic.Int64                          // nanoseconds
}

func (h *histogram) add(took time.Duration) {
	i, _ := slices.BinarySearch(attachBuckets[:], took.Seconds())
	h.buckets[i].Add(1)
	h.sum.Add(int64(took))
}

// attached takes down how long it took to attach a container.
func (m *meter) attached(took time.Duration) { m.attaches.add(took) }

func (m *meter) event(e wire.Event) {
	if n := m.counts()[e.Kind()]; n != nil {
		n.Add(1)
	}
}

// counts is how many events there were of each kind.
func (m *meter) counts() map[string]*atomic.Uint64 {
	m.once.Do(func() {
		m.events = make(map[string]*atomic.Uint64)
		for _, kind := range wire.EventKinds() {
			m.events[kind] = new(atomic.Uint64)
		}
	})
	return m.events
}

// Metrics answers with everything that is measured, in the text format of
// Prometheus: traffic of peers under the names of prometheus_wireguard_exporter, with
// its labels but for allowed_ips, which has no bound; the daemon's own under overlayd_, the process's
// under go_ and process_.
func (d *Daemon) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "metrics are only read", http.StatusMethodNotAllowed)
			return
		}
		body := d.collect()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	})
}

func (d *Daemon) collect() []byte {
	d.meter.scrape.Lock()
	defer d.meter.scrape.Unlock()
	var x exposition
	d.collectPeers(&x)
	d.collectDevices(&x)
	d.collectNames(&x)
	d.collectLeases(&x)
	d.collectServices(&x)
	d.collectRequests(&x)
	x.family("overlayd_attach_seconds", "histogram", "How long attaching a container took.")
	x.histogram(&d.meter.attaches)
	x.family("overlayd_events_total", "counter", "Events that were sent to whoever subscribed.")
	events := d.meter.counts()
	for _, kind := range slices.Sorted(maps.Keys(events)) {
		x.count(events[kind].Load(), "event", kind)
	}
	x.family("overlayd_degraded", "gauge", "Parts that do not work as they should; those that do are not listed.")
	for _, part := range slices.Sorted(maps.Keys(d.degraded())) {
		x.count(1, "part", part)
	}
	x.family("overlayd_build_info", "gauge", "What runs; the value is always 1.")
	x.count(1, "version", d.config.Version, "mode", string(d.mode))
	x.family("overlayd_start_time_seconds", "gauge", "When the daemon started, Unix time.")
	x.count(uint64(d.started.Unix()))
	metrics.WriteProcessMetrics(&x)
	return x.Bytes()
}

// collectPeers has five lines for a peer, of less than 150 bytes each: no label is of a
// length that a client decides, which is why allowed IPs are only counted.
func (d *Daemon) collectPeers(x *exposition) {
	type row struct {
		labels  []string
		allowed int
		overlay.PeerStatus
		healthy bool
	}
	var rows []row
	for _, v := range d.devices() {
		name := v.metricName()
		for _, p := range v.node().Peers() {
			allowed := len(p.AllowedIPs)
			p.AllowedIPs = nil // not to be kept until all is written
			labels := []string{"interface", name, "public_key", p.PublicKey.String()}
			rows = append(rows, row{labels, allowed, p, d.healthy(v.scope, p.PublicKey, p.LastHandshake)})
		}
	}
	x.family("wireguard_sent_bytes_total", "counter", "Bytes sent to the peer.")
	for _, r := range rows {
		x.count(r.TxBytes, r.labels...)
	}
	x.family("wireguard_received_bytes_total", "counter", "Bytes received from the peer.")
	for _, r := range rows {
		x.count(r.RxBytes, r.labels...)
	}
	x.family("wireguard_latest_handshake_seconds", "gauge", "Unix time of the last handshake, 0 for never.")
	for _, r := range rows {
		var at uint64
		if !r.LastHandshake.IsZero() {
			at = uint64(r.LastHandshake.Unix())
		}
		x.count(at, r.labels...)
	}
	x.family("overlayd_peer_healthy", "gauge", "Whether the peer has completed a handshake and answers.")
	for _, r := range rows {
		var healthy uint64
		if r.healthy {
			healthy = 1
		}
		x.count(healthy, r.labels...)
	}
	x.family("overlayd_peer_allowed_ips", "gauge", "Prefixes that are the peer's.")
	for _, r := range rows {
		x.count(uint64(r.allowed), r.labels...)
	}
}

// metricName is the device's name as a label; a rootless node's has no interface.
func (v *device) metricName() string { return cmp.Or(v.link().Name, "netstack") }

func (d *Daemon) collectDevices(x *exposition) {
	devices := d.devices()
	stats := make([]overlay.Stats, len(devices))
	for i, v := range devices {
		stats[i] = v.node().Stats()
	}
	x.family("overlayd_packets_total", "counter", "IP packets to and from peers, each segment of TCP counted.")
	for i, v := range devices {
		x.count(stats[i].TxPackets, "interface", v.metricName(), "direction", "sent")
		x.count(stats[i].RxPackets, "interface", v.metricName(), "direction", "received")
	}
	x.family("overlayd_bytes_total", "counter", "Bytes of those packets, without WireGuard's own.")
	for i, v := range devices {
		x.count(stats[i].TxBytes, "interface", v.metricName(), "direction", "sent")
		x.count(stats[i].RxBytes, "interface", v.metricName(), "direction", "received")
	}
	x.family("overlayd_dropped_packets_total", "counter", "IP packets that were dropped, by why.")
	for i, v := range devices {
		for reason, n := range stats[i].Drops {
			if n > 0 {
				x.count(n, "interface", v.metricName(), "reason", packet.Reason(reason).String())
			}
		}
	}
}

func (d *Daemon) collectNames(x *exposition) {
	n := &d.names
	n.mu.RLock()
	server, names, records := n.server, len(n.records), n.count
	n.mu.RUnlock()
	x.family("overlayd_dns_names", "gauge", "Names that are served.")
	x.count(uint64(names))
	x.family("overlayd_dns_records", "gauge", "Addresses of those names.")
	x.count(uint64(records))
	if server == nil {
		return
	}
	s := server.Stats()
	x.family("overlayd_dns_queries_total", "counter", "Queries, by how they came.")
	x.count(s.UDP, "transport", "udp")
	x.count(s.TCP, "transport", "tcp")
	x.family("overlayd_dns_responses_total", "counter", "Answers, by their code.")
	for _, code := range slices.Sorted(maps.Keys(s.Responses)) {
		x.count(s.Responses[code], "code", code)
	}
	x.family("overlayd_dns_dropped_total", "counter", "Queries that were not answered, by why.")
	x.count(s.RateLimited, "reason", "rate_limited")
	x.count(s.Malformed, "reason", "malformed")
	x.family("overlayd_dns_cache_lookups_total", "counter", "Questions for other names, by whether the cache had the answer.")
	x.count(s.CacheHits, "result", "hit")
	x.count(s.CacheMisses, "result", "miss")
	x.family("overlayd_dns_upstream_up", "gauge", "Whether a resolver of the host answers.")
	for _, u := range s.Upstream {
		var up uint64
		if u.Up {
			up = 1
		}
		x.count(up, "upstream", u.Upstream)
	}
}

func (d *Daemon) collectLeases(x *exposition) {
	type row struct {
		pool    string
		service string
		used    uint64
		free    uint64
	}
	var rows []row
	add := func(service string, pools []netip.Prefix) {
		for _, p := range pools {
			if u, ok := d.leases.Usage(p); ok {
				rows = append(rows, row{p.String(), service, uint64(u.Leases), u.Free})
			}
		}
	}
	if v := d.global.load(); v != nil {
		add("", v.pools())
	}
	for _, s := range d.allServices() {
		add(s.Name, s.Subnets)
	}
	x.family("overlayd_leases", "gauge", "Addresses that are given out; service is empty for the node's own pool.")
	for _, r := range rows {
		x.count(r.used, "pool", r.pool, "service", r.service)
	}
	x.family("overlayd_leases_free", "gauge", "Addresses that can be given out at once.")
	for _, r := range rows {
		x.count(r.free, "pool", r.pool, "service", r.service)
	}
}

func (d *Daemon) collectServices(x *exposition) {
	services := d.allServices()
	modes := make(map[wire.Mode]uint64)
	for _, s := range services {
		modes[s.Mode]++
	}
	x.family("overlayd_services", "gauge", "Services that are set up, by their mode.")
	for _, mode := range []wire.Mode{wire.ModeDedicated, wire.ModeShared} {
		x.count(modes[mode], "mode", string(mode))
	}
	attached := d.attachmentCount()
	x.family("overlayd_attachments", "gauge", "Containers and guests attached, by their service.")
	for _, service := range slices.Sorted(maps.Keys(attached)) {
		x.count(uint64(attached[service]), "service", service)
	}
	x.family("overlayd_published_ports", "gauge", "Ports of the host that lead to containers.")
	x.count(uint64(d.portCount()))
}

func (d *Daemon) collectRequests(x *exposition) {
	if d.server == nil {
		return
	}
	s := d.server.Stats()
	x.family("overlayd_requests_total", "counter", "Requests of clients, by what they asked for.")
	for _, op := range slices.Sorted(maps.Keys(s.Requests)) {
		x.count(s.Requests[op], "op", op)
	}
	x.family("overlayd_request_failures_total", "counter", "Requests that were refused or failed, by their code.")
	for _, code := range slices.Sorted(maps.Keys(s.Failures)) {
		x.count(s.Failures[code], "code", string(code))
	}
	x.family("overlayd_requests_in_flight", "gauge", "Requests that are being worked on.")
	x.count(uint64(s.InFlight))
	x.family("overlayd_connections_total", "counter", "Connections of clients, by what became of them.")
	x.count(s.Connections, "result", "accepted")
	x.count(s.Refused, "result", "refused")
	x.count(s.Slow, "result", "too_slow")
	x.family("overlayd_connections", "gauge", "Connections of clients that are open.")
	x.count(uint64(s.Open))
	x.family("overlayd_bad_frames_total", "counter", "Frames of clients that were none, or had no business there.")
	x.count(s.Garbage, "kind", "garbage")
	x.count(s.Ignored, "kind", "ignored")
}

// An exposition is metrics in the text format of Prometheus, version 0.0.4.
type exposition struct {
	bytes.Buffer
	name string // of the family that is being written
}

// family begins the samples of one name.
func (x *exposition) family(name, kind, help string) {
	x.name = name
	fmt.Fprintf(x, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (x *exposition) histogram(h *histogram) {
	name := x.name
	x.name = name + "_bucket"
	var total uint64
	for i := range h.buckets {
		total += h.buckets[i].Load()
		bound := "+Inf"
		if i < len(attachBuckets) {
			bound = strconv.FormatFloat(attachBuckets[i], 'g', -1, 64)
		}
		x.count(total, "le", bound)
	}
	fmt.Fprintf(x, "%s_sum %g\n%s_count %d\n", name, time.Duration(h.sum.Load()).Seconds(), name, total)
}

// count writes a sample; labels are names and values in turn.
func (x *exposition) count(value uint64, labels ...string) {
	x.WriteString(x.name)
	for i := 0; i+1 < len(labels); i += 2 {
		x.WriteByte("{,"[min(i, 1)])
		x.WriteString(labels[i])
		x.WriteString(`="`)
		labelEscapes.WriteString(x, labels[i+1])
		x.WriteByte('"')
	}
	if len(labels) > 0 {
		x.WriteByte('}')
	}
	x.WriteByte(' ')
	x.Write(strconv.AppendUint(x.AvailableBuffer(), value, 10))
	x.WriteByte('\n')
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
