package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/overlayd/overlayd/dnsd"
	"github.com/overlayd/overlayd/packet"
)

// inline measures the stage that answers queries in the packet path, per query,
// and the same answer through miekg/dns: unpacked, looked up in a map and packed,
// the packet around it left out.
func inline(ctx context.Context, b *bench, s scenario) ([]result, error) {
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: origin})
	if err != nil {
		return nil, err
	}
	addrs := make(map[string]netip.Addr, b.names)
	err = zone.Update(func(tx *dnsd.Tx) error {
		for i := range b.names {
			name := fmt.Sprintf("host-%d.%s", i, origin)
			addrs[name] = netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
			if err := tx.SetAddresses(name, addrs[name]); err != nil {
				return err
			}
		}
		return nil
	})
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
	var results []result
	for _, edns := range []bool{false, true} {
		r := result{Scenario: s.name, Peer: "miekg/dns", Unit: "ns"}
		if edns {
			r.Peer += ", EDNS"
		}
		messages, packets, err := inlineQueries(to, b.names, edns)
		if err != nil {
			return nil, err
		}
		var ours, theirs []float64
		for range b.rounds {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			took, err := throughStage(stage, packets, b.length/10)
			if err != nil {
				return nil, err
			}
			ours = append(ours, took)
			if took, err = throughMsg(addrs, messages, b.length/10); err != nil {
				return nil, err
			}
			theirs = append(theirs, took)
		}
		r.compare(ours, theirs, func(ours, theirs float64) float64 { return theirs / ours })
		results = append(results, r)
	}
	return results, nil
}

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
func throughMsg(addrs map[string]netip.Addr, messages [][]byte, length time.Duration) (float64, error) {
	count, began := 0, time.Now()
	for time.Since(began) < length {
		for _, message := range messages {
			req := new(dns.Msg)
			if err := req.Unpack(message); err != nil {
				return 0, err
			}
			resp := new(dns.Msg).SetReply(req)
			resp.Authoritative, resp.Compress = true, true
			q := req.Question[0]
			addr, ok := addrs[dns.CanonicalName(q.Name)]
			if !ok || q.Qtype != dns.TypeA {
				return 0, errors.New("the map does not answer")
			}
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}
			resp.Answer = append(resp.Answer, &dns.A{Hdr: header, A: net.IP(addr.AsSlice())})
			if opt := req.IsEdns0(); opt != nil {
				resp.SetEdns0(1232, opt.Do())
			}
			if _, err := resp.Pack(); err != nil {
				return 0, err
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
