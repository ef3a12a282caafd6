package packet

const (
	// maxMergeHeader is the longest header of a run: IPv4 or IPv6 and TCP at their
	// longest, or IPv6 with extension headers of the same total.
	maxMergeHeader = 120

	// ordinaryRoom is how far a packet from a Merger may grow, at least: one
	// Ethernet MTU, so that a stage can write an answer over it.
	ordinaryRoom = 1500

	// arenaAlign keeps packets from sharing a cache line.
	arenaAlign = 64

	none = -1
)

// A Merger builds superpackets from packets that arrive one after another, in
// the place where they are decrypted: it says where the next packet is to be
// written, so that the payload of one that continues the run before it lands
// right behind that run, with no copy.
//
// What merges is what Linux's GRO would merge (see mergeable), and only with the
// packet directly before it, so order is kept and cutting every superpacket of a
// batch gives back the packets that were committed, byte for byte. The checksums
// of every packet in a superpacket were verified; those of a packet that stayed
// alone may not have been.
//
// A Merger belongs to one goroutine. Each Reserve is followed by Commit or
// Cancel.
type Merger struct {
	// UDP is whether runs of equal UDP datagrams may merge too.
	UDP bool

	arena []byte
	free  int // where the next packet starts when it does not continue a run
	batch *Batch

	// The last packet of the batch.
	run        run
	start, end int // in arena
	packets    int // how many were in the batch when it was appended

	// The space reserved.
	at    int // none: there is none
	size  int
	over  bool // it begins over the end of the run, whose bytes are in saved
	saved [maxMergeHeader]byte

	// missed is whether the last packet laid over a run, or beside one, did not
	// continue it. Then the next is laid out plainly: moving the payload of one
	// that continues the run after all costs less than moving each one that does
	// not.
	missed bool
}

// NewMerger makes a Merger with room for so many bytes of packets in a batch. It
// is never less than one packet of MaxSize needs.
func NewMerger(arena int) *Merger {
	return &Merger{arena: make([]byte, max(arena, MaxSize+Slack)), at: none}
}

// Reset empties b and begins to fill it. Everything handed out before is void.
func (m *Merger) Reset(b *Batch) {
	b.Reset()
	m.batch = b
	m.free, m.at = 0, none
	m.run.open = false
}

// Reserve returns n bytes for the next packet of at most n bytes to be written
// to, with Slack bytes of capacity behind them. It returns nil when the batch or
// the arena has no room for it; after a Flush and a Reset there is, for any n up
// to MaxSize.
func (m *Merger) Reserve(n int) []byte {
	m.Cancel()
	if n < 0 || m.batch == nil || m.batch.Full() || m.free+max(n, ordinaryRoom)+Slack > len(m.arena) {
		return nil
	}
	m.at, m.size = m.free, n
	if m.likely(n) {
		m.over = true
		m.at = m.end - m.run.header
		copy(m.saved[:m.run.header], m.arena[m.at:])
	}
	return m.arena[m.at : m.at+n : m.at+n+Slack]
}

// likely reports whether a packet of at most n bytes is so likely to continue the
// run that it should be written over the run's end.
func (m *Merger) likely(n int) bool {
	if m.missed || !m.open() {
		return false
	}
	r := &m.run
	// n may count encryption padding, so it says little about a packet within
	// Slack bytes of being empty, and may be as much above the segment's size.
	// The header must fit behind that of the run, which it is compared with.
	if n < r.header+Slack || n >= r.header+r.seg+Slack || r.seg < r.header {
		return false
	}
	return r.verify(m.arena[m.start:m.end])
}

// open reports whether the last packet of the batch can be continued.
func (m *Merger) open() bool {
	if !m.run.open {
		return false
	}
	b := m.batch
	return len(b.Packets) == m.packets && b.Packets[m.packets-1].Live()
}

// Commit says that n bytes were written to the space reserved. The packet is
// trimmed to the length its IP header states, and may be moved: what Reserve
// returned is not to be read any more. It returns the new packet in the batch, or,
// with merged true, the preceding one that it went into. It returns nil, and has
// the space back, when the bytes are not a well-formed IP packet.
func (m *Merger) Commit(n int) (p *Packet, merged bool) {
	if m.at == none || n < 0 || n > m.size {
		m.Cancel()
		return nil, false
	}
	var next Packet
	next.Set(m.arena[m.at:m.at+n], 0)
	if !next.Trim() {
		m.Cancel()
		return nil, false
	}
	d := next.Data
	s, ok := parseSegment(d, m.UDP)
	if m.open() {
		if ok && m.run.continues(m.arena[m.start:m.end], d, &s, m.over) {
			return m.extend(d, &s), true
		}
		m.missed = true
	}
	if m.over {
		copy(m.arena[m.free:], d)
		m.Cancel()
		d = m.arena[m.free : m.free+len(d)]
	}
	m.at = none
	m.start = m.free
	m.run = run{}
	if ok {
		m.run.begin(d, &s)
	}
	p = m.batch.Append(m.lay(m.start+len(d)), 0)
	m.packets = len(m.batch.Packets)
	return p, false
}

// extend adds the packet d to the run.
func (m *Merger) extend(d []byte, s *segment) *Packet {
	if m.over {
		copy(m.arena[m.at:], m.saved[:m.run.header])
	} else {
		copy(m.arena[m.end:], d[s.header:])
	}
	m.at, m.over, m.missed = none, false, false
	p := &m.batch.Packets[m.packets-1]
	p.Data = m.lay(m.end + len(d) - s.header)
	p.Seg = uint16(m.run.seg)
	m.run.add(p, s)
	return p
}

// lay gives the last packet the arena from start to end, and room to grow.
func (m *Merger) lay(end int) []byte {
	m.end = end
	limit := max(end, m.start+ordinaryRoom) + Slack
	m.free = (limit + arenaAlign - 1) &^ (arenaAlign - 1)
	return m.arena[m.start:end:limit]
}

// Cancel gives the reserved space back, whatever was written to it.
func (m *Merger) Cancel() {
	if m.over {
		copy(m.arena[m.at:], m.saved[:m.run.header])
	}
	m.at, m.over = none, false
}

// Break keeps the next packet from merging with what came before.
func (m *Merger) Break() {
	m.Cancel()
	m.run.open = false
}

// Flush ends the batch: it finishes the IP and UDP lengths, and the IPv4 header
// checksum, of every superpacket, so that they can go through stages. The next
// packet does not merge with what came before.
func (m *Merger) Flush() {
	m.Break()
	if m.batch == nil {
		return
	}
	for i := range m.batch.Packets {
		if p := &m.batch.Packets[i]; p.Seg != 0 {
			p.setLengths()
		}
	}
}
