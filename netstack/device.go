package netstack

import (
	"fmt"
	"net"
	"runtime"
	"sync/atomic"

	"github.com/overlayd/overlayd/packet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// arenaSize is how many bytes one ReadBatch lends at most: four superpackets, or
// a full batch of ordinary packets at the usual MTUs. It stays in a core's cache.
const arenaSize = 4 * (packet.MaxSize + packet.Slack)

var errDeviceClosed = fmt.Errorf("netstack: the device is closed: %w", net.ErrClosed)

// device is the Stack as a packet.Device.
type device struct {
	s      *Stack
	queue  queue
	events chan packet.Event

	datagrams atomic.Int64 // bytes of UDP delivered since yield last yielded

	// What ReadBatch works with, on its goroutine.
	arena []byte
	taken [packet.BatchSize]queued
}

func (d *device) init(s *Stack) {
	d.s = s
	d.queue.wake = make(chan struct{}, 1)
	d.events = make(chan packet.Event)
	d.arena = make([]byte, arenaSize)
}

// Name implements packet.Device.
func (d *device) Name() string { return d.s.name }

// MTU implements packet.Device.
func (d *device) MTU() int { return d.s.mtu }

// Lanes implements packet.Device.
func (d *device) Lanes() int { return 1 }

// Events implements packet.Device. Nothing happens to a stack from outside.
func (d *device) Events() <-chan packet.Event { return d.events }

// Close implements packet.Device.
func (d *device) Close() error { return d.s.Close() }

// room is how much of the arena a packet takes.
func (d *device) room(size int) int { return max(size, d.s.mtu) + packet.Slack }

// ReadBatch implements packet.Device.
func (d *device) ReadBatch(b *packet.Batch) error {
	b.Reset()
	free := len(d.arena)
	n, ok := d.queue.pop(d.taken[:min(cap(b.Packets), len(d.taken))], func(size int) bool {
		free -= d.room(size)
		return free >= 0
	})
	if !ok {
		return errDeviceClosed
	}
	rest := d.arena
	for i := range d.taken[:n] {
		t := &d.taken[i]
		room := d.room(t.size)
		data := rest[:t.size:room]
		rest = rest[room:]
		b.Append(data, copyOut(data, t))
		t.pkt.DecRef()
		*t = queued{}
	}
	return nil
}

// copyOut copies a packet to data, completes the checksum of an ordinary one that
// has none yet, and returns the segment size of a superpacket.
func copyOut(data []byte, t *queued) (seg uint16) {
	pkt := t.pkt
	views, skip := pkt.AsViewList()
	at := 0
	for v := views.Front(); v != nil; v = v.Next() {
		bytes := v.AsSlice()
		if skip >= len(bytes) {
			skip -= len(bytes)
			continue
		}
		at += copy(data[at:], bytes[skip:])
		skip = 0
	}
	gso := &pkt.GSOOptions
	if gso.Type == stack.GSONone || !gso.NeedsCsum {
		return 0
	}
	transport := len(pkt.NetworkHeader().Slice())
	segment := header.TCP(data[transport:])
	if t.fin {
		segment.SetFlags(uint8(segment.Flags() | header.TCPFlagFin))
	}
	if len(segment)-int(segment.DataOffset()) > int(gso.MSS) {
		return gso.MSS
	}
	// The field holds the sum of the pseudo header, as Linux's CHECKSUM_PARTIAL.
	segment.SetChecksum(^checksum.Checksum(segment, 0))
	return 0
}

// WriteBatch implements packet.Device. The protocols run in the caller's
// goroutine up to the connection, where TCP's own take over.
func (d *device) WriteBatch(b *packet.Batch) error {
	if !d.s.enter() {
		return errDeviceClosed
	}
	defer d.s.leave()
	datagrams := 0
	for i := range b.Packets {
		p := &b.Packets[i]
		if !p.Live() {
			continue
		}
		if p.Protocol() == packet.ProtocolUDP {
			datagrams += len(p.Data)
		}
		d.s.deliver(p)
	}
	d.yield(datagrams)
	return nil
}

// yieldBytes is how many bytes of UDP may be delivered before the sockets'
// readers get a turn: a fraction of their buffers.
const yieldBytes = udpBuffer / 6

// yield lets the readers of UDP run now and then. They wake on the core of the
// goroutine that delivers, which as long as more arrives neither parks nor is
// preempted for ten milliseconds; by then their buffers have long run over. TCP
// needs none of this: it stops when its reader does.
func (d *device) yield(datagrams int) {
	if datagrams != 0 && d.datagrams.Add(int64(datagrams)) >= yieldBytes {
		d.datagrams.Store(0)
		runtime.Gosched()
	}
}
