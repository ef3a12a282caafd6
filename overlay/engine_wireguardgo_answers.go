package overlay

import "sync"

// An answerQueue holds inbound packets that bounced until Read sends them. It
// never blocks: at its bound the newest is refused.
type answerQueue struct {
	wake chan struct{} // has room for one: the queue is not empty

	mu          sync.Mutex
	slots       [answerSlots][]byte // each keeps its memory
	first, used int
}

const answerSlots = 128

// put copies data in, or reports that there is no room.
func (q *answerQueue) put(data []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used == answerSlots {
		return false
	}
	slot := &q.slots[(q.first+q.used)%answerSlots]
	*slot = append((*slot)[:0], data...)
	q.used++
	q.signal()
	return true
}

// take copies out what fits bufs.
func (q *answerQueue) take(bufs [][]byte, sizes []int, offset int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for ; n < len(bufs) && q.used > 0; n++ {
		sizes[n] = copy(bufs[n][offset:], q.slots[q.first])
		q.first = (q.first + 1) % answerSlots
		q.used--
	}
	if q.used > 0 {
		q.signal()
	}
	return n
}

func (q *answerQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
