package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// A printer says what happens: to people, with a progress bar where a line can be
// written again, or, as JSON, nothing but the result.
type printer struct {
	out   io.Writer
	json  bool
	live  bool
	drawn time.Time // when the bar was
}

func newPrinter(out *os.File, asJSON bool) *printer {
	return &printer{out: out, json: asJSON, live: !asJSON && term.IsTerminal(int(out.Fd()))}
}

// reading is for files that take a while.
func (p *printer) reading(src source) {
	if p.live {
		fmt.Fprintf(p.out, "Taking the SHA-256 of %s.", src.what)
	}
}

func (p *printer) hosts(a, b *host) {
	if p.json {
		return
	}
	fmt.Fprintf(p.out, "Two WireGuard nodes in this process, joined over loopback UDP. No privilege needed.\n\n")
	for _, h := range []*host{a, b} {
		fmt.Fprintf(p.out, "  node %s  %s  udp %s  key %s\n", h.name, h.addr, h.endpoint(), h.node.PublicKey())
	}
}

func (p *printer) found(name string, addr netip.Addr, src source) {
	if !p.json {
		fmt.Fprintf(p.out, "\nNode a found %s at %s, through the overlay, and downloads %s.\n\n", name, addr, src.what)
	}
}

// progress draws the bar, at most twenty times a second.
func (p *printer) progress(d download, size int64) {
	if !p.live || time.Since(p.drawn) < time.Second/20 {
		return
	}
	p.drawn = time.Now()
	const width = 32
	full := int(d.Bytes * width / max(size, 1))
	fmt.Fprintf(p.out, "\r  %s%s  %s of %s, %.2f Gbit/s  ", strings.Repeat("█", full), strings.Repeat("░", width-full),
		count(d.Bytes), count(size), d.Gbps)
}

// wipe takes the bar, or what else stands in its place, away.
func (p *printer) wipe() {
	if p.live {
		fmt.Fprintf(p.out, "\r%*s\r", 79, "")
	}
}

func (p *printer) result(r result, a, b *host) error {
	if p.json {
		return json.NewEncoder(p.out).Encode(r.rounded())
	}
	hash := fmt.Sprintf("%x… matches", r.sum[:8])
	if !r.OK {
		hash = fmt.Sprintf("%x… DOES NOT MATCH", r.sum[:8])
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "  handshake\t%.2f ms\n", r.HandshakeMS)
	fmt.Fprintf(t, "  round trip\tp50 %.0f µs, p99 %.0f µs (%d pings)\n", r.RTT.P50, r.RTT.P99, pings)
	fmt.Fprintf(t, "  throughput\t%s (%s in %s)\n", rate(r.Gbps), count(r.Bytes), took(r.Seconds))
	fmt.Fprintf(t, "  SHA-256\t%s\n", hash)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(t, "\n  peer\tpackets sent\tbytes sent\tpackets received\tbytes received\n")
	for _, h := range [][2]*host{{a, b}, {b, a}} {
		s := h[0].node.Peers()[0]
		fmt.Fprintf(t, "  %s's peer %s\t%d\t%d\t%d\t%d\n", h[0].name, h[1].name, s.TxPackets, s.TxBytes, s.RxPackets, s.RxBytes)
	}
	return t.Flush()
}

// rounded is r without digits that mean nothing.
func (r result) rounded() result {
	for _, v := range []*float64{&r.HandshakeMS, &r.RTT.P50, &r.RTT.P99} {
		*v = math.Round(*v*1e3) / 1e3
	}
	for _, v := range []*float64{&r.Seconds, &r.Gbps} { // of a small file, a few millionths
		*v = math.Round(*v*1e6) / 1e6
	}
	return r
}

// took is a time in seconds for people.
func took(seconds float64) string {
	if seconds < 1 {
		return fmt.Sprintf("%.2f ms", seconds*1e3)
	}
	return fmt.Sprintf("%.2f s", seconds)
}

// rate is one in Gbit/s for people.
func rate(gbps float64) string {
	if gbps < 0.1 {
		return fmt.Sprintf("%.2f Mbit/s", gbps*1e3)
	}
	return fmt.Sprintf("%.2f Gbit/s", gbps)
}

// count is a number of bytes for people.
func count(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
