package overlay_test

import (
	"sync"

	"github.com/overlayd/overlayd/packet"
)

// A recorder is a stage that notes what passes it.
type recorder struct {
	name string
	mu   sync.Mutex
	log  *[]string
}

func (r *recorder) Outbound(b *packet.Batch) { r.note("out", b) }
func (r *recorder) Inbound(b *packet.Batch)  { r.note("in", b) }

func (r *recorder) note(way string, b *packet.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range b.Packets {
		*r.log = append(*r.log, r.name+" "+way)
	}
}
