package server

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/daemon/wire"
)

// Stats counts connections and requests.
type Stats struct {
	Connections uint64 // that came
	Open        int
	Refused     uint64            // by credentials, or because there were too many
	Requests    map[string]uint64 // by op, those that came at least once
	Failures    map[wire.Code]uint64
	InFlight    int
	Ignored     uint64 // frames a client has no business to send
	Garbage     uint64 // frames that were none
	Slow        uint64 // clients cut off because they did not read
	Panics      uint64 // in Handle
}

type counters struct {
	connections, refused, ignored, garbage, slow, panics atomic.Uint64

	requests map[string]*atomic.Uint64 // of every op

	mu       sync.Mutex
	failures map[wire.Code]uint64
}

func (c *counters) init() {
	c.requests = make(map[string]*atomic.Uint64)
	for _, op := range wire.Ops() {
		c.requests[op] = new(atomic.Uint64)
	}
	c.failures = make(map[wire.Code]uint64)
}

func (c *counters) failed(code wire.Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	const most = 64 // codes: those of package wire are fewer
	if _, known := c.failures[code]; !known && len(c.failures) >= most {
		code = wire.Internal
	}
	c.failures[code]++
}

// Stats is what was counted since the start.
func (s *Server) Stats() Stats {
	c := &s.counters
	st := Stats{
		Connections: c.connections.Load(),
		Open:        s.connections.count(),
		Refused:     c.refused.Load(),
		Requests:    make(map[string]uint64),
		InFlight:    s.requests.count(),
		Ignored:     c.ignored.Load(),
		Garbage:     c.garbage.Load(),
		Slow:        c.slow.Load(),
		Panics:      c.panics.Load(),
	}
	for op, n := range c.requests {
		if n := n.Load(); n > 0 {
			st.Requests[op] = n
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st.Failures = maps.Clone(c.failures)
	return st
}
