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

// A result is what was measured, in the form in which -json prints it.
type result struct {
	HandshakeMS float64 `json:"handshake_ms"`
	RTT         rtt     `json:"rtt_us"`
	download
	OK   bool       `json:"sha256_ok"`
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}

// An rtt is percentiles of round trip times, in microseconds.
type rtt struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

type download struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Gbps    float64 `json:"gbps"`
	sum     [sha256.Size]byte
}

// handshake is how many milliseconds pass from a first packet to a session.
func handshake(ctx context.Context, from, to *host) (float64, error) {
	begin := time.Now()
	if _, err := ping(ctx, from, to); err != nil {
		return 0, err
	}
	return from.node.Peers()[0].LastHandshake.Sub(begin).Seconds() * 1e3, nil
}

// roundTrips sends pings one after the other.
func roundTrips(ctx context.Context, from, to *host) (rtt, error) {
	us := make([]float64, pings)
	for i := range us {
		took, err := ping(ctx, from, to)
		if err != nil {
			return rtt{}, err
		}
		us[i] = took.Seconds() * 1e6
	}
	slices.Sort(us)
	return rtt{P50: us[pings*50/100], P99: us[pings*99/100]}, nil
}

func ping(ctx context.Context, from, to *host) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	took, err := from.stack.Ping(ctx, to.addr)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("node %s does not answer: no packet from %s within %v", to.name, to.endpoint(), wait)
	}
	return took, err
}

// lookup asks h's name server.
func lookup(ctx context.Context, h *host, name string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	addrs, err := h.stack.Resolver().LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return netip.Addr{}, err // it says which name and which server
	}
	return addrs[0], nil
}

// fetch downloads what is at url, and gives up when no byte came for so long.
func fetch(ctx context.Context, dial dialer, url string, stall time.Duration, progress progress) (d download, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.AfterFunc(stall, cancel)
	defer func() {
		if !alive.Stop() && err != nil {
			err = fmt.Errorf("the download stalled: no byte for %v, after %d bytes", stall, d.Bytes)
		}
	}()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return d, err
	}
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	defer transport.CloseIdleConnections()
	begin := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return d, fmt.Errorf("the download did not begin: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return d, fmt.Errorf("the download did not begin: the server says %s", resp.Status)
	}

	sum := sha256.New()
	for buf := make([]byte, 256<<10); err == nil; {
		var n int
		n, err = resp.Body.Read(buf)
		sum.Write(buf[:n])
		d.Bytes += int64(n)
		d.Seconds = time.Since(begin).Seconds()
		d.Gbps = float64(d.Bytes) * 8 / 1e9 / d.Seconds
		progress(d, resp.ContentLength)
		if n > 0 {
			alive.Reset(stall)
		}
	}
	if err != io.EOF {
		return d, fmt.Errorf("the download broke off after %d bytes of %d: %w", d.Bytes, resp.ContentLength, err)
	}
	d.sum = [sha256.Size]byte(sum.Sum(nil))
	return d, nil
}

type (
	dialer   func(ctx context.Context, network, address string) (net.Conn, error)
	progress func(d download, size int64)
)
