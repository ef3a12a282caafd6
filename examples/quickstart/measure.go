package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// A result is what -json prints.
type result struct {
	HandshakeMS float64 `json:"handshake_ms"`
	RTT         rtt     `json:"rtt_us"`
	download
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}

type rtt struct {
	P50 float64 `json:"p50"` // microseconds
	P99 float64 `json:"p99"`
}

type download struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Gbps    float64 `json:"gbps"`
	OK      bool    `json:"sha256_ok"`

	got, want [sha256.Size]byte
}

// handshake is how many milliseconds it takes from a first packet to a session.
func handshake(ctx context.Context, h *host, peer netip.Addr) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	begin := time.Now()
	if _, err := h.stack.Ping(ctx, peer); err != nil {
		return 0, fmt.Errorf("handshake: %w", err)
	}
	return h.node.Peers()[0].LastHandshake.Sub(begin).Seconds() * 1e3, nil
}

// roundTrips sends pings one after the other.
func roundTrips(ctx context.Context, h *host, peer netip.Addr) (rtt, error) {
	took := make([]float64, pings)
	for i := range took {
		ctx, cancel := context.WithTimeout(ctx, wait)
		d, err := h.stack.Ping(ctx, peer)
		cancel()
		if err != nil {
			return rtt{}, fmt.Errorf("round trip %d: %w", i+1, err)
		}
		took[i] = d.Seconds() * 1e6
	}
	slices.Sort(took)
	return rtt{P50: took[pings*50/100], P99: took[pings*99/100]}, nil
}

// lookup asks the name server for the name of the download.
func lookup(ctx context.Context, h *host) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	addrs, err := h.stack.Resolver().LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0], nil
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// fetch downloads src from the host that has the name, and says whether the same
// bytes came out. It gives up when no byte came for so long.
func fetch(ctx context.Context, dial dial, src source, stall time.Duration, progress func(done, size int64)) (d download, err error) {
	if d.want, err = src.sum(ctx); err != nil {
		return d, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer alive.Stop()
	defer func() {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("download: no byte came for %v, after %d", stall, d.Bytes)
		}
	}()

	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	defer transport.CloseIdleConnections()
	begin := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+"/", nil)
	if err != nil {
		return d, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return d, fmt.Errorf("download: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return d, fmt.Errorf("download: the server says %s", resp.Status)
	}
	sum := sha256.New()
	for buf := make([]byte, 256<<10); err == nil; {
		var n int
		n, err = resp.Body.Read(buf)
		sum.Write(buf[:n])
		d.Bytes += int64(n)
		alive.Reset(stall)
		progress(d.Bytes, resp.ContentLength)
	}
	if err != io.EOF {
		return d, fmt.Errorf("download: after %d bytes of %d: %w", d.Bytes, resp.ContentLength, err)
	}
	d.Seconds = time.Since(begin).Seconds()
	d.Gbps = float64(d.Bytes) * 8 / 1e9 / d.Seconds
	d.got = [sha256.Size]byte(sum.Sum(nil))
	d.OK = d.got == d.want
	return d, nil
}

var errStalled = errors.New("stalled")
