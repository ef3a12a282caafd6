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

	// wake has a token when the queue stopped being empty, or was closed. It is
	// never closed itself: a sender may be about to post.
	wake chan struct{}

	dropped atomic.Uint64
}

type queued struct {
	pkt  *stack.PacketBuffer
	size int
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
	q.ring[(q.head+q.count)%queuePackets] = queued{pkt.IncRef(), size}
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

// pop moves packets, oldest first, to into for as long as fits says yes to their
// sizes. It waits until there is at least one, and reports false when the queue
// is closed.
func (q *queue) pop(into []queued, fits func(size int) bool) (int, bool) {
	yielded := false
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			q.post() // for the next to come
			return 0, false
		}
		if q.count == 1 && !yielded && pureAck(&q.ring[q.head]) != nil {
			yielded = true // to the program that may be about to answer
			q.mu.Unlock()
			runtime.Gosched()
			continue
		}
		n := 0
		for n < len(into) && q.count > 0 && fits(q.ring[q.head].size) {
			into[n] = q.ring[q.head]
			q.ring[q.head] = queued{}
			q.head = (q.head + 1) % queuePackets
			q.count--
			q.bytes -= into[n].size
			if n > 0 && supersedes(&into[n], &into[n-1]) {
				into[n-1].pkt.DecRef()
				into[n-1], into[n] = into[n], queued{}
				continue
			}
			n++
		}
		q.mu.Unlock()
		if n > 0 {
			return n, true
		}
		<-q.wake
	}
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
	q.mu.Unlock()
	q.post()
}
