package testnet

import (
	"math/rand/v2"
	"time"
)

// A Link is what one direction of a simulated link does to the packets on it.
// The zero Link passes everything on at once.
//
// What happens to a packet by chance is drawn from Seed and from how many came
// before it, and from nothing else: the same packets in the same order meet the
// same fate.
type Link struct {
	// Delay is how long every packet is on its way.
	Delay time.Duration
	// Jitter is how much longer than Delay a packet may be on its way, by chance.
	// It changes no order: who comes behind a slow packet waits for it.
	Jitter time.Duration

	// Loss is the share of packets that is lost, from 0 to 1.
	Loss float64
	// Duplicate is the share that arrives twice, from 0 to 1.
	Duplicate float64
	// Reorder is the share that others overtake, from 0 to 1: they arrive later
	// by HoldBack than they would have.
	Reorder float64
	// HoldBack is 1 ms when it is 0.
	HoldBack time.Duration

	// Rate is how many bits of packets enter the link in a second; 0 sets no
	// limit.
	Rate int64
	// Queue is how many bytes wait for Rate at most. What finds no room there is
	// dropped. 0 means what Rate takes in 50 ms, and at least 64 KiB.
	Queue int

	// Seed begins the sequence of chance.
	Seed uint64
}

const (
	defaultHoldBack = time.Millisecond
	defaultQueue    = 50 * time.Millisecond
	minDefaultQueue = 64 << 10

	// maxFlight bounds the memory of a link that has a delay but no rate: so many
	// packets are on their way at most.
	maxFlight = 1 << 16
)

// LinkStats counts what happened in one direction of a link.
type LinkStats struct {
	Packets    uint64 // that were sent
	Lost       uint64
	Overflowed uint64 // found no room in the queue
	Duplicated uint64
	Reordered  uint64
}

// A path is one direction of a link: it decides when a packet arrives. Times are
// since the link was made.
type path struct {
	Link
	chance *rand.Rand
	free   time.Duration // when the last packet has entered the link
	last   [2]time.Duration
	stats  LinkStats
}

// set makes l the link from now on.
func (p *path) set(l Link) {
	if l.HoldBack == 0 {
		l.HoldBack = defaultHoldBack
	}
	if l.Queue == 0 {
		l.Queue = max(minDefaultQueue, int(float64(l.Rate)/8*defaultQueue.Seconds()))
	}
	p.Link = l
	p.chance = rand.New(rand.NewPCG(l.Seed, 0))
	p.free = 0
}

// An arrival is one copy of a packet at the link's end.
type arrival struct {
	at   time.Duration
	held bool // others may overtake it
}

// send decides what becomes of a packet of so many bytes: the first copies of
// arrivals are its own.
func (p *path) send(now time.Duration, size int) (arrivals [2]arrival, copies int) {
	// Each packet takes as many numbers as the next, whatever becomes of it, so
	// that the fate of those behind does not depend on the time.
	lost := p.chance.Float64() < p.Loss
	twice := p.chance.Float64() < p.Duplicate
	held := p.chance.Float64() < p.Reorder
	jitter := time.Duration(p.chance.Float64() * float64(p.Jitter))

	p.stats.Packets++
	if !p.enter(now, size) {
		p.stats.Overflowed++
		return arrivals, 0
	}
	if lost {
		p.stats.Lost++
		return arrivals, 0
	}
	first := arrival{at: max(now, p.free) + p.Delay + jitter, held: held}
	if held {
		p.stats.Reordered++
		first.at += p.HoldBack
	}
	arrivals[0], copies = p.inOrder(first), 1
	if twice {
		p.stats.Duplicated++
		arrivals[1], copies = p.inOrder(arrival{at: first.at}), 2
	}
	return arrivals, copies
}

// enter puts a packet on the link at its rate, and reports whether the queue had
// room for it.
func (p *path) enter(now time.Duration, size int) bool {
	if p.Rate == 0 {
		return true
	}
	if waiting := p.free - now; waiting > 0 && int(waiting.Seconds()*float64(p.Rate)/8)+size > p.Queue {
		return false
	}
	p.free = max(p.free, now) + time.Duration(float64(size)*8/float64(p.Rate)*float64(time.Second))
	return true
}

// inOrder keeps a packet behind those that were sent before it. Those held back
// are a sequence of their own.
func (p *path) inOrder(a arrival) arrival {
	lane := 0
	if a.held {
		lane = 1
	}
	p.last[lane] = max(p.last[lane], a.at)
	a.at = p.last[lane]
	return a
}
