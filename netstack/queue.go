package netstack

import (
	"runtime"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The queue's bounds. Its packets are references into the send buffers of their
// sockets, which have bounds of their own, so that queueing costs next to nothing
// and a large bound does no harm. A small one does: with 8 MB, four connections
// that had filled it on a busy machine spent their time in timeouts.
const (
	queuePackets = 4096
	queueBytes   = 64 << 20
)

// A queue holds the packets that the protocols sent until the reader of the
// device takes them. It never blocks a sender: the reader itself may be one,
// when it writes a packet into the stack that the stack answers. What does not
// fit is dropped and counted.
type queue struct {
	mu     sync.Mutex
	ring   [queuePackets]queued
	head   int // the oldest
	count  int
	bytes  int
	closed bool
	acks   waitingAcks // taken from the ring, and not sent yet

	// wake has a token when the queue stopped being empty, or was closed. It is
	// never closed itself: a sender may be about to post.
	wake chan struct{}

	dropped atomic.Uint64
}

type queued struct {
	pkt  *stack.PacketBuffer
	size int
	fin  bool // it ends the connection, although gVisor said so in a segment of its own
}

// push appends pkt, of which it takes a reference, and reports whether there was
// room.
func (q *queue) push(pkt *stack.PacketBuffer) bool {
	size := pkt.Size()
	q.mu.Lock()
	if q.closed || q.count == queuePackets || q.bytes+size > queueBytes {
		q.mu.Unlock()
		q.dropped.Add(1)
		return false
	}
	q.ring[(q.head+q.count)%queuePackets] = queued{pkt: pkt.IncRef(), size: size}
	q.count++
	q.bytes += size
	first := q.count == 1
	q.mu.Unlock()
	if first {
		q.post()
	}
	return true
}

func (q *queue) post() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop moves packets to into for as long as fits says yes to their sizes, oldest
// first but for acknowledgements, which may wait (see waitingAcks). It waits until
// there is at least one, and reports false when the queue is closed.
func (q *queue) pop(into []queued, fits func(size int) bool) (int, bool) {
	turned := false
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			q.post() // for the next to come
			return 0, false
		}
		n := q.takeLocked(into, fits, turned)
		waiting := q.acks.count
		q.mu.Unlock()
		switch {
		case n > 0:
			return n, true
		case waiting > 0:
			turned = true
			runtime.Gosched() // to the programs that may be about to answer
		default:
			<-q.wake
		}
	}
}

// takeLocked is pop without waiting. Acknowledgements that waited before go in this
// round, or give way in it; what comes with them may wait, unless a turn of the
// scheduler has passed.
func (q *queue) takeLocked(into []queued, fits func(size int) bool, turned bool) int {
	due, room := q.acks.count, 0
	for room < due && fits(q.acks.list[room].size) {
		room++ // however much else there is
	}
	n := 0
fill:
	for q.count > 0 && n+room < len(into) {
		t := q.ring[q.head]
		switch {
		case !turned && q.acks.hold(t):
			q.dropHeadLocked()
			continue
		case !q.acks.giveWay(&t, &due):
			due = q.acks.count // one that has to go first
		case endsWith(into[:n], &t):
			q.dropHeadLocked()
			t.pkt.DecRef()
			continue
		case fits(t.size):
			q.dropHeadLocked()
			into[n] = t
			n++
			continue
		}
		break fill
	}
	for due > 0 && n < len(into) && (room > 0 || fits(q.acks.list[0].size)) {
		into[n] = q.acks.list[0]
		q.acks.remove(0)
		n++
		due--
		room--
	}
	return n
}

func (q *queue) dropHeadLocked() {
	q.bytes -= q.ring[q.head].size
	q.ring[q.head] = queued{}
	q.head = (q.head + 1) % queuePackets
	q.count--
}

// close drops what is queued and ends every pop.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	for ; q.count > 0; q.count-- {
		q.ring[q.head].pkt.DecRef()
		q.ring[q.head] = queued{}
		q.head = (q.head + 1) % queuePackets
	}
	q.bytes = 0
	for q.acks.count > 0 {
		q.acks.list[0].pkt.DecRef()
		q.acks.remove(0)
	}
	q.mu.Unlock()
	q.post()
}
