package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/dnsd"
	"github.com/overlayd/overlayd/packet"
)

// A lookUp finds the records that answer a request.
type lookUp func(ctx context.Context, req *dns.Msg) []dns.RR

// inline measures the stage that answers queries in the packet path, per query,
// and the same answer through miekg/dns: unpacked, looked up and packed, the
// packet around it left out. It is looked up in a map of addresses, the least
// there can be to it, and in a zone as CoreDNS keeps it.
func inline(ctx context.Context, b *bench, s scenario) ([]report.Row, error) {
	dir, err := os.MkdirTemp("", "dns-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeFiles(dir, b.names); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "zone")
	zone, err := readZone(path)
	if err != nil {
		return nil, err
	}
	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}, RatePerSource: -1})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	to := netip.MustParseAddrPort("10.200.0.53:53")
	stage, err := server.NewStage(noDevice{}, to)
	if err != nil {
		return nil, err
	}
	inZone, err := zoneLookUp(path)
	if err != nil {
		return nil, err
	}
	peers := []struct {
		name   string
		lookUp lookUp
	}{
		{"miekg/dns, a map", mapLookUp(zone)},
		{"miekg/dns, CoreDNS's zone", inZone},
	}
	var results []report.Row
	for _, edns := range []bool{false, true} {
		messages, packets, err := inlineQueries(to, b.names, edns)
		if err != nil {
			return nil, err
		}
		// The least of several short runs is what the code costs; what is beyond is
		// the machine's other work.
		const runs = 20
		var ours []float64
		theirs := make([][]float64, len(peers))
		for range b.rounds {
			best := slices.Repeat([]float64{math.Inf(1)}, 1+len(peers))
			for range runs {
				took, err := throughStage(stage, packets, b.length/200)
				if err != nil {
					return nil, err
				}
				best[0] = min(best[0], took)
				for i, p := range peers {
					if took, err = throughMsg(ctx, p.lookUp, messages, b.length/200); err != nil {
						return nil, fmt.Errorf("%s: %w", p.name, err)
					}
					best[1+i] = min(best[1+i], took)
				}
			}
			ours = append(ours, best[0])
			for i := range peers {
				theirs[i] = append(theirs[i], best[1+i])
			}
		}
		for i, p := range peers {
			r := report.Row{Scenario: s.name, What: s.what, Peer: p.name, Pairs: b.rounds}
			if edns {
				r.Peer += ", EDNS"
			}
			r.Figure = report.Compare("query", "ns", report.Lower, ours, theirs[i])
			results = append(results, r)
		}
	}
	return results, nil
}

func mapLookUp(zone *dnsd.Zone) lookUp {
	addrs := make(map[string]netip.Addr)
	for r := range zone.All() {
		if a, ok := r.Data.(dnsd.Address); ok {
			addrs[r.Name] = netip.Addr(a)
		}
	}
	return func(_ context.Context, req *dns.Msg) []dns.RR {
		q := req.Question[0]
		addr, ok := addrs[dns.CanonicalName(q.Name)]
		if !ok || q.Qtype != dns.TypeA {
			return nil
		}
		header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}
		return []dns.RR{&dns.A{Hdr: header, A: net.IP(addr.AsSlice())}}
	}
}

func zoneLookUp(path string) (lookUp, error) {
	text, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	zone, err := file.Parse(text, origin, path, 0)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, req *dns.Msg) []dns.RR {
		state := request.Request{Req: req, W: fromHost{}}
		answer, _, _, _ := zone.Lookup(ctx, state, state.Name())
		return answer
	}, nil
}

// fromHost is where CoreDNS is told that queries come from.
type fromHost struct{ dns.ResponseWriter }

var host net.Addr = &net.UDPAddr{IP: net.IPv4(10, 200, 3, 7), Port: 5353}

func (fromHost) RemoteAddr() net.Addr { return host }

// inlineQueries are queries for names of the zone, as messages and as packets.
func inlineQueries(to netip.AddrPort, names int, edns bool) (messages, packets [][]byte, err error) {
	for i := range packet.BatchSize {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("host-%d.%s", i*7919%names, origin), dns.TypeA)
		if edns {
			m.SetEdns0(1232, false)
		}
		message, err := m.Pack()
		if err != nil {
			return nil, nil, err
		}
		messages = append(messages, message)
		data := make([]byte, 28+len(message))
		data[0], data[8], data[9] = 0x45, 64, packet.ProtocolUDP
		binary.BigEndian.PutUint16(data[2:], uint16(len(data)))
		copy(data[12:], []byte{10, 200, 3, 7})
		copy(data[16:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(data[10:], ^packet.Sum(data[:20], 0))
		binary.BigEndian.PutUint16(data[20:], 5353)
		binary.BigEndian.PutUint16(data[22:], to.Port())
		binary.BigEndian.PutUint16(data[24:], uint16(8+len(message)))
		copy(data[28:], message)
		var p packet.Packet
		p.Set(data, 0)
		p.FinishChecksum()
		packets = append(packets, data)
	}
	return messages, packets, nil
}

// throughStage is how many ns a query takes in the stage, its copy included.
func throughStage(stage *dnsd.Stage, packets [][]byte, length time.Duration) (float64, error) {
	b := packet.NewBatch(0)
	var buffers [packet.BatchSize][1500]byte
	count, began := 0, time.Now()
	for time.Since(began) < length {
		b.Reset()
		for i, data := range packets {
			b.Append(buffers[i][:copy(buffers[i][:], data)], 0)
		}
		stage.Outbound(b)
		b.Sweep()
		if len(b.Bounced()) != len(packets) {
			return 0, errors.New("the stage does not answer")
		}
		count += len(packets)
	}
	return float64(time.Since(began).Nanoseconds()) / float64(count), nil
}

// throughMsg is how many ns a query takes through miekg/dns.
func throughMsg(ctx context.Context, look lookUp, messages [][]byte, length time.Duration) (float64, error) {
	count, began := 0, time.Now()
	for time.Since(began) < length {
		for _, message := range messages {
			req := new(dns.Msg)
			if err := req.Unpack(message); err != nil {
				return 0, err
			}
			resp := new(dns.Msg).SetReply(req)
			resp.Authoritative, resp.Compress = true, true
			resp.Answer = look(ctx, req)
			if opt := req.IsEdns0(); opt != nil {
				resp.SetEdns0(1232, opt.Do())
			}
			if packed, err := resp.Pack(); err != nil || len(resp.Answer) != 1 || len(packed) > 512 {
				return 0, fmt.Errorf("no answer of one address: %v", err)
			}
		}
		count += len(messages)
	}
	return float64(time.Since(began).Nanoseconds()) / float64(count), nil
}

// noDevice is nowhere: no answer is late.
type noDevice struct{}

func (noDevice) ReadBatch(*packet.Batch) error  { return net.ErrClosed }
func (noDevice) WriteBatch(*packet.Batch) error { return net.ErrClosed }
func (noDevice) Lanes() int                     { return 1 }
func (noDevice) MTU() int                       { return 1420 }
func (noDevice) Name() string                   { return "none" }
func (noDevice) Events() <-chan packet.Event    { return nil }
func (noDevice) Close() error                   { return nil }
