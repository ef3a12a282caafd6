package testnet

import (
	"errors"
	"sync"

	"github.com/overlayd/overlayd/packet"
)

// A Cable joins two devices by a simulated link: what is read from one is
// written to the other when it has arrived. Superpackets are cut in front of the
// link, so that each segment has its own fate.
//
// A cable reads every lane of its devices and writes to lane 0. Its ceiling is
// some 1.4 Gbit/s of TCP on one core, stacks included, and twice that with Merge
// (BenchmarkCable).
type Cable struct {
	a, b    packet.Device
	ab, ba  *line
	running sync.WaitGroup
}

// CableConfig is what a Cable is made from. The zero value is a link that passes
// every segment on at once.
type CableConfig struct {
	AB, BA Link
	// Merge is whether segments that arrive at the same moment are merged into
	// superpackets, as an engine does with datagrams it receives at once.
	Merge bool
}

// NewCable joins a and b, which are the cable's from then on.
func NewCable(a, b packet.Device, config CableConfig) *Cable {
	c := &Cable{a: a, b: b, ab: newLine(config.AB), ba: newLine(config.BA)}
	c.carry(a, b, c.ab, config.Merge)
	c.carry(b, a, c.ba, config.Merge)
	return c
}

// SetLinks changes the link for the packets to come.
func (c *Cable) SetLinks(ab, ba Link) {
	c.ab.setLink(ab)
	c.ba.setLink(ba)
}

// Stats is what happened in each direction so far.
func (c *Cable) Stats() (ab, ba LinkStats) { return c.ab.stats(), c.ba.stats() }

// Close closes both devices and returns when nothing of the cable runs any more.
// It is idempotent.
func (c *Cable) Close() error {
	err := errors.Join(c.a.Close(), c.b.Close())
	c.ab.end()
	c.ba.end()
	c.running.Wait()
	return err
}

// carry starts one direction, which runs until its line ends.
func (c *Cable) carry(from, to packet.Device, l *line, merge bool) {
	for lane := range from.Lanes() {
		c.running.Go(func() { c.read(from, lane, l) })
	}
	out := &writer{device: to, batch: packet.NewBatch(0)}
	if merge {
		out.merger = packet.NewMerger(packet.BatchSize * 2048)
	}
	c.running.Go(func() {
		into := make([][]byte, packet.BatchSize)
		for n := l.take(into); n > 0; n = l.take(into) {
			if out.write(into[:n]) != nil {
				l.end()
			}
		}
	})
}

// read puts on the line what a lane of a device yields.
func (c *Cable) read(from packet.Device, lane int, l *line) {
	batch := packet.NewBatch(lane)
	var cut packet.Cutter
	for from.ReadBatch(batch) == nil {
		for i := range batch.Packets {
			if cut.Start(&batch.Packets[i]) != nil {
				continue // no superpacket a device may lend
			}
			for s := cut.Next(); s != nil; s = cut.Next() {
				l.put(s)
			}
		}
	}
}

// A writer hands packets to a device in batches, merged or as they are.
type writer struct {
	device packet.Device
	batch  *packet.Batch
	merger *packet.Merger
}

func (w *writer) write(packets [][]byte) error {
	if w.merger == nil {
		w.batch.Reset()
		for _, p := range packets {
			w.batch.Append(p, 0)
		}
		return w.device.WriteBatch(w.batch)
	}
	w.merger.Reset(w.batch)
	for _, p := range packets {
		space := w.merger.Reserve(len(p))
		if space == nil {
			if err := w.flush(); err != nil {
				return err
			}
			w.merger.Reset(w.batch)
			space = w.merger.Reserve(len(p))
		}
		copy(space, p)
		w.merger.Commit(len(p))
	}
	return w.flush()
}

func (w *writer) flush() error {
	w.merger.Flush()
	return w.device.WriteBatch(w.batch)
}
