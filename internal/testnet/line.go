package testnet

import (
	"sync"
	"time"
)

// A line carries packets along one direction of a link: put by one goroutine or
// several, taken by one.
type line struct {
	start time.Time
	wake  chan struct{} // has a token when what is first may have changed
	timer *time.Timer   // of the one who takes

	mu      sync.Mutex
	path    path
	ordered fifo // sent in the order of arrival
	held    fifo // those that others overtake, also in the order of arrival
	spare   [][]byte
	ended   bool
}

// A flight is a packet on its way.
type flight struct {
	at   time.Duration
	data []byte
}

func newLine(link Link) *line {
	l := &line{start: time.Now(), wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	l.timer.Stop()
	l.path.set(link)
	return l
}

func (l *line) setLink(link Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path.set(link)
}

func (l *line) stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path.stats
}

// put sends a packet, which is copied. It never waits.
func (l *line) put(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	now := time.Since(l.start)
	arrivals, copies := l.path.send(now, len(data))
	for _, a := range arrivals[:copies] {
		if l.ordered.len()+l.held.len() == maxFlight {
			l.path.stats.Overflowed++
			return
		}
		to := &l.ordered
		if a.held {
			to = &l.held
		}
		to.push(flight{a.at, append(l.buffer(len(data)), data...)})
		if to.len() == 1 {
			l.post()
		}
	}
}

// buffer is an empty buffer for so many bytes; l.mu is held.
func (l *line) buffer(size int) []byte {
	if n := len(l.spare); n > 0 && cap(l.spare[n-1]) >= size {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b[:0]
	}
	return make([]byte, 0, max(size, 2048))
}

// take waits until something arrives, fills into with what has arrived, in order,
// and returns how much that is. What it lends is valid until the next take. It
// returns 0 when the line has ended.
func (l *line) take(into [][]byte) int {
	l.mu.Lock()
	for _, lent := range into {
		if lent != nil && len(l.spare) < maxFlight {
			l.spare = append(l.spare, lent)
		}
	}
	clear(into)
	for {
		if l.ended {
			l.mu.Unlock()
			return 0
		}
		now := time.Since(l.start)
		n := 0
		for n < len(into) {
			f := l.first()
			if f == nil || f.front().at > now {
				break
			}
			into[n] = f.pop().data
			n++
		}
		if n > 0 {
			l.mu.Unlock()
			return n
		}
		next := l.first()
		if next == nil {
			l.mu.Unlock()
			<-l.wake
		} else {
			wait := next.front().at - now
			l.mu.Unlock()
			l.sleep(wait)
		}
		l.mu.Lock()
	}
}

// sleep waits for so long, or until something is put that may arrive earlier.
func (l *line) sleep(wait time.Duration) {
	l.timer.Reset(wait)
	defer l.timer.Stop()
	select {
	case <-l.timer.C:
	case <-l.wake:
	}
}

// first is where the next packet arrives from; nil when none is on its way.
func (l *line) first() *fifo {
	switch {
	case l.ordered.len() == 0 && l.held.len() == 0:
		return nil
	case l.ordered.len() == 0:
		return &l.held
	case l.held.len() == 0 || l.ordered.front().at <= l.held.front().at:
		return &l.ordered
	}
	return &l.held
}

// end stops the line; what is on its way is gone.
func (l *line) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.post()
}

func (l *line) post() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// A fifo is a queue of flights.
type fifo struct {
	flights []flight
	head    int
}

func (f *fifo) len() int { return len(f.flights) - f.head }

func (f *fifo) front() *flight { return &f.flights[f.head] }

func (f *fifo) push(x flight) {
	if len(f.flights) == cap(f.flights) && f.head > len(f.flights)/2 {
		n := copy(f.flights, f.flights[f.head:])
		clear(f.flights[n:])
		f.flights, f.head = f.flights[:n], 0
	}
	f.flights = append(f.flights, x)
}

func (f *fifo) pop() flight {
	x := f.flights[f.head]
	f.flights[f.head] = flight{}
	f.head++
	if f.head == len(f.flights) {
		f.flights, f.head = f.flights[:0], 0
	}
	return x
}
