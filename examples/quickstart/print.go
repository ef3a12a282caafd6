package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// A printer says what happens, for people or, as JSON, only how it ended.
type printer struct {
	out   io.Writer
	json  bool
	live  bool // out is a terminal, on which a line can be written again
	begin time.Time
	drawn time.Time
}

func newPrinter(out *os.File, asJSON bool) *printer {
	return &printer{out: out, json: asJSON, live: !asJSON && term.IsTerminal(int(out.Fd()))}
}

// say writes one line for people.
func (p *printer) say(format string, args ...any) {
	if !p.json {
		fmt.Fprintf(p.out, format+"\n", args...)
	}
}

// progress draws the bar, at most twenty times a second and the last time.
func (p *printer) progress(done, size int64) {
	now := time.Now()
	if p.begin.IsZero() {
		p.begin = now
	}
	if !p.live || done < size && now.Sub(p.drawn) < time.Second/20 {
		return
	}
	p.drawn = now
	const width = 32
	full := width
	if size > 0 {
		full = int(done * width / size)
	}
	fmt.Fprintf(p.out, "\r  %s%s %4.0f of %.0f MiB  %5.2f Gbit/s ", strings.Repeat("█", full), strings.Repeat("░", width-full),
		mib(done), mib(size), float64(done)*8/1e9/max(now.Sub(p.begin).Seconds(), 1e-3))
}

// endProgress takes the bar away.
func (p *printer) endProgress() {
	if p.live && !p.drawn.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// result prints the table, or the JSON object.
func (p *printer) result(r result, a, b *host) error {
	if p.json {
		return json.NewEncoder(p.out).Encode(r)
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) { fmt.Fprintf(t, "  "+what+"\t"+format+"\n", args...) }
	row("handshake", "%.2f ms", r.HandshakeMS)
	row("round trip", "p50 %.0f µs, p99 %.0f µs", r.RTT.P50, r.RTT.P99)
	row("download", "%.1f MiB in %.2f s, %.2f Gbit/s", mib(r.Bytes), r.Seconds, r.Gbps)
	if r.OK {
		row("SHA-256", "ok, %x…", r.got[:8])
	} else {
		row("SHA-256", "WRONG, %x… instead of %x…", r.got[:8], r.want[:8])
	}
	for _, h := range []struct{ host, peer *host }{{a, b}, {b, a}} {
		s := h.host.node.Peers()[0]
		row(h.host.name+"'s peer "+h.peer.name, "sent %d packets, %.1f MiB; received %d packets, %.1f MiB",
			s.TxPackets, mib(s.TxBytes), s.RxPackets, mib(s.RxBytes))
	}
	return t.Flush()
}

func mib[N int64 | uint64](n N) float64 { return float64(n) / (1 << 20) }
