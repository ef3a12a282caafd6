package testnet

import (
	"context"
	"net"
	"sync"

	"github.com/overlayd/overlayd/packet"
)

// poison is what memory that is nobody's any more is filled with, so that who
// keeps it finds out.
const poison = 0xdb

// A Device is a packet.Device in memory: what a test puts in is read from it,
// and what is written to it the test takes out.
//
// It holds its users to the contract. What ReadBatch lent is overwritten by the
// next ReadBatch on the lane, and packets given to WriteBatch are overwritten
// before it returns.
type Device struct {
	name   string
	lanes  int
	events chan packet.Event

	mu     sync.Mutex
	cond   sync.Cond // something in one of the queues, or closed, changed
	mtu    int
	in     [][]Datum // by lane: put in, not yet read
	lent   [][][]byte
	out    []Datum
	drops  int
	closed bool
}

// A Datum is one packet that went through a Device.
type Datum struct {
	Lane int
	Data []byte
	Seg  uint16 // as packet.Packet has it
}

// deviceQueue is how many packets wait in each direction at most.
const deviceQueue = 4096

// NewDevice makes a device. MTU and lanes are as given.
func NewDevice(name string, mtu, lanes int) *Device {
	d := &Device{
		name:   name,
		lanes:  lanes,
		mtu:    mtu,
		events: make(chan packet.Event, 1),
		in:     make([][]Datum, lanes),
		lent:   make([][][]byte, lanes),
	}
	d.cond.L = &d.mu
	return d
}

// Put lets data, which is copied, be read on a lane. It reports whether there
// was room: not after Close, nor behind 4,096 packets nobody reads.
func (d *Device) Put(lane int, data []byte, seg uint16) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.in[lane]) == deviceQueue {
		return false
	}
	lent := make([]byte, len(data), max(len(data), d.mtu)+packet.Slack)
	copy(lent, data)
	d.in[lane] = append(d.in[lane], Datum{Lane: lane, Data: lent, Seg: seg})
	d.cond.Broadcast()
	return true
}

// Take waits for the next packet that is written to the device.
func (d *Device) Take(ctx context.Context) (Datum, error) {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cond.Broadcast()
	})
	defer stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.out) == 0 {
		switch {
		case ctx.Err() != nil:
			return Datum{}, ctx.Err()
		case d.closed:
			return Datum{}, net.ErrClosed
		}
		d.cond.Wait()
	}
	next := d.out[0]
	d.out = d.out[1:]
	return next, nil
}

// Taken is how many packets were written and not taken yet.
func (d *Device) Taken() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.out)
}

// Drops is how many packets were written when there was no room.
func (d *Device) Drops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.drops
}

// SetMTU changes the MTU and tells of it.
func (d *Device) SetMTU(mtu int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mtu = mtu
	if d.closed {
		return
	}
	select {
	case d.events <- packet.EventMTU:
	default: // the one that waits says it too
	}
}

// ReadBatch implements packet.Device.
func (d *Device) ReadBatch(b *packet.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, data := range d.lent[b.Lane] {
		scribble(data[:cap(data)])
	}
	d.lent[b.Lane] = d.lent[b.Lane][:0]
	b.Reset()
	for len(d.in[b.Lane]) == 0 && !d.closed {
		d.cond.Wait()
	}
	if d.closed {
		return net.ErrClosed
	}
	queue := d.in[b.Lane]
	for len(queue) > 0 && !b.Full() {
		b.Append(queue[0].Data, queue[0].Seg)
		d.lent[b.Lane] = append(d.lent[b.Lane], queue[0].Data)
		queue = queue[1:]
	}
	d.in[b.Lane] = queue
	return nil
}

// WriteBatch implements packet.Device.
func (d *Device) WriteBatch(b *packet.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	for i := range b.Packets {
		p := &b.Packets[i]
		switch {
		case !p.Live():
		case len(d.out) == deviceQueue:
			d.drops++
		default:
			data := make([]byte, len(p.Data))
			copy(data, p.Data)
			scribble(p.Data) // not behind it: what is there may be another packet's
			d.out = append(d.out, Datum{Lane: b.Lane, Data: data, Seg: p.Seg})
		}
	}
	d.cond.Broadcast()
	return nil
}

func scribble(data []byte) {
	for i := range data {
		data[i] = poison
	}
}

// Lanes implements packet.Device.
func (d *Device) Lanes() int { return d.lanes }

// MTU implements packet.Device.
func (d *Device) MTU() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mtu
}

// Name implements packet.Device.
func (d *Device) Name() string { return d.name }

// Events implements packet.Device.
func (d *Device) Events() <-chan packet.Event { return d.events }

// Close implements packet.Device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		close(d.events)
		d.cond.Broadcast()
	}
	return nil
}

// Closed reports whether Close was called.
func (d *Device) Closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

var _ packet.Device = (*Device)(nil)
