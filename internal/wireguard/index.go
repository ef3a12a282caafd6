package wireguard

import (
	"crypto/rand"
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"
)

const indexShards = 256

// An indexTable finds the session a datagram names, without a lock. Each shard
// is an immutable map that a change replaces, so that a handshake among ten
// thousand peers copies some forty entries.
type indexTable struct {
	mu      sync.Mutex // held by those who change the table
	pending map[uint32]*peer
	shards  [indexShards]atomic.Pointer[map[uint32]*session]
}

// session is the one that index names, or nil.
func (t *indexTable) session(index uint32) *session {
	shard := t.shards[index%indexShards].Load()
	if shard == nil {
		return nil
	}
	return (*shard)[index]
}

// initiating is the peer whose unanswered handshake index names, or nil.
func (t *indexTable) initiating(index uint32) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending[index]
}

// reserve picks an unused, unpredictable index for a handshake with p.
func (t *indexTable) reserve(p *peer) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var b [4]byte
		rand.Read(b[:])
		index := binary.LittleEndian.Uint32(b[:])
		if _, taken := t.pending[index]; taken || index == 0 || t.session(index) != nil {
			continue
		}
		if t.pending == nil {
			t.pending = make(map[uint32]*peer)
		}
		t.pending[index] = p
		return index
	}
}

// establish turns the reserved index of a handshake into that of its session.
func (t *indexTable) establish(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, s.local)
	t.replace(s.local, func(m map[uint32]*session) { m[s.local] = s })
}

// release gives an index back; 0 is none.
func (t *indexTable) release(index uint32) {
	if index == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, index)
	if t.session(index) != nil {
		t.replace(index, func(m map[uint32]*session) { delete(m, index) })
	}
}

func (t *indexTable) replace(index uint32, change func(map[uint32]*session)) {
	shard := &t.shards[index%indexShards]
	next := make(map[uint32]*session)
	if old := shard.Load(); old != nil {
		next = maps.Clone(*old)
	}
	change(next)
	shard.Store(&next)
}
