package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/overlayd/overlayd/packet"
)

// pipeline measures what passing stages costs a packet, on one goroutine.
func pipeline(_ context.Context, _ side, m *meter, d time.Duration) ([]float64, error) {
	return m.measure(func() ([]float64, int64, error) {
		var times, allocs []float64
		for _, stages := range []int{3, 1, 0} {
			p, err := newPipe(stages)
			if err != nil {
				return nil, 0, err
			}
			took, allocated := p.measure(d / 3)
			times, allocs = append(times, took), append(allocs, allocated)
			if p.batch.Drops(packet.Filtered) != 0 || len(p.batch.Packets) != len(p.data) {
				return nil, 0, errors.New("pipeline: a packet was lost")
			}
		}
		return append(times, allocs...), 0, nil
	})
}

// A pipe is a batch of packets and the stages it passes, as an engine's lane has
// them.
type pipe struct {
	chain packet.Chain
	batch *packet.Batch
	data  [][]byte
}

// newPipe makes a batch for so many stages: one that looks for questions to a name
// server, one that filters by port, and one that translates addresses.
func newPipe(stages int) (*pipe, error) {
	private, public := netip.MustParseAddrPort("10.99.0.1:40000"), netip.MustParseAddrPort("10.99.1.1:50000")
	all := packet.Chain{
		&lookout{server: netip.MustParseAddr("10.99.0.53")},
		&filter{allowed: map[uint16]bool{serverPort: true}},
		&translate{private, public},
	}
	if stages > len(all) {
		return nil, fmt.Errorf("pipeline: there are no %d stages", stages)
	}
	p := &pipe{chain: all[:stages], batch: packet.NewBatch(0)}
	for range packet.BatchSize {
		p.data = append(p.data, tcpPacket(private, netip.AddrPortFrom(farAddr, serverPort)))
	}
	return p, nil
}

// measure passes the batch for a time d, and returns the nanoseconds and the
// allocations that each packet took each way.
func (p *pipe) measure(d time.Duration) (nanoseconds, allocs float64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	packets := 0
	start := time.Now()
	for time.Since(start) < d {
		p.pass()
		packets += 2 * len(p.data)
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	return float64(took) / float64(packets), float64(after.Mallocs-before.Mallocs) / float64(packets)
}

// pass has the batch go out and come in once.
func (p *pipe) pass() {
	p.batch.Reset()
	for _, d := range p.data {
		p.batch.Append(d, 0)
	}
	p.chain.Outbound(p.batch)
	p.chain.Inbound(p.batch)
}

// tcpPacket is an IPv4 packet of mtu bytes with a TCP segment. Its checksums are
// not complete, which no stage asks about.
func tcpPacket(src, dst netip.AddrPort) []byte {
	p := make([]byte, mtu, mtu+packet.Slack)
	p[0], p[8], p[9] = 0x45, 64, packet.ProtocolTCP
	binary.BigEndian.PutUint16(p[2:], mtu)
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[20:], src.Port())
	binary.BigEndian.PutUint16(p[22:], dst.Port())
	p[32] = 5 << 4
	return p
}

// lookout looks for datagrams to a name server.
type lookout struct {
	server netip.Addr
	seen   int
}

func (l *lookout) Outbound(b *packet.Batch) { l.look(b) }
func (l *lookout) Inbound(b *packet.Batch)  { l.look(b) }

func (l *lookout) look(b *packet.Batch) {
	for i := range b.Packets {
		p := &b.Packets[i]
		if p.Protocol() == packet.ProtocolUDP && p.Dst() == netip.AddrPortFrom(l.server, 53) {
			l.seen++
		}
	}
}

// filter lets packets pass whose destination port is allowed.
type filter struct {
	allowed map[uint16]bool
}

func (f *filter) Outbound(b *packet.Batch) { f.check(b) }
func (f *filter) Inbound(b *packet.Batch)  { f.check(b) }

func (f *filter) check(b *packet.Batch) {
	for i := range b.Packets {
		if p := &b.Packets[i]; !f.allowed[p.Dst().Port()] {
			p.Drop(packet.Filtered)
		}
	}
}

// translate has packets of one source leave from another, and takes that back.
type translate struct {
	private, public netip.AddrPort
}

func (t *translate) Outbound(b *packet.Batch) { t.change(b, t.private, t.public) }
func (t *translate) Inbound(b *packet.Batch)  { t.change(b, t.public, t.private) }

func (t *translate) change(b *packet.Batch, from, to netip.AddrPort) {
	for i := range b.Packets {
		if p := &b.Packets[i]; p.Src() == from {
			p.SetSrc(to)
		}
	}
}
