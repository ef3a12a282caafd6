package packet

// BatchSize is how many packets, each possibly a superpacket, a batch made by
// NewBatch holds.
const BatchSize = 128

// A Batch is the packets that one read of a device or a socket yielded, in
// order. It belongs to one goroutine at a time.
type Batch struct {
	// Lane is the device's lane the batch is read from or written to.
	Lane int
	// Packets are the live ones. A device appends up to the capacity and never
	// beyond it.
	Packets []Packet

	bounced []Packet
	drops   [numReasons]uint32
}

// NewBatch makes an empty batch for one lane, with room for BatchSize packets.
func NewBatch(lane int) *Batch {
	return &Batch{
		Lane:    lane,
		Packets: make([]Packet, 0, BatchSize),
		bounced: make([]Packet, 0, BatchSize),
	}
}

// Reset empties the batch and its counts, and keeps its lane and memory.
func (b *Batch) Reset() {
	b.Packets = b.Packets[:0]
	b.bounced = b.bounced[:0]
	b.drops = [numReasons]uint32{}
}

// Full reports whether Append would have no room.
func (b *Batch) Full() bool { return len(b.Packets) == cap(b.Packets) }

// Append adds a packet over data and returns it, or nil when the batch is full.
func (b *Batch) Append(data []byte, seg uint16) *Packet {
	n := len(b.Packets)
	if n == cap(b.Packets) {
		return nil
	}
	b.Packets = b.Packets[:n+1]
	p := &b.Packets[n]
	p.Set(data, seg)
	return p
}

// Sweep takes the packets that were dropped or bounced out of Packets, keeps
// the order of the others, and counts.
func (b *Batch) Sweep() {
	live := 0
	for i := range b.Packets {
		p := &b.Packets[i]
		switch p.fate {
		case alive:
			if live != i {
				b.Packets[live] = *p
			}
			live++
		case bounced:
			b.bounced = append(b.bounced, *p)
			b.bounced[len(b.bounced)-1].fate = alive
		case dropped:
			b.drops[p.reason]++
		}
	}
	b.Packets = b.Packets[:live]
}

// Bounced are the packets Sweep found bounced since the last Reset.
func (b *Batch) Bounced() []Packet { return b.bounced }

// Drops is how many packets Sweep found dropped for a reason since the last Reset
// or TakeDrops.
func (b *Batch) Drops(why Reason) int { return int(b.drops[why]) }

// TakeDrops calls count for every reason that Sweep found packets dropped for,
// and forgets them, so that each is counted once.
func (b *Batch) TakeDrops(count func(why Reason, n uint64)) {
	for why, n := range b.drops {
		if n != 0 {
			count(Reason(why), uint64(n))
			b.drops[why] = 0
		}
	}
}
