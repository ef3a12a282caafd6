package wireguard

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/internal/aead"
	"golang.zx2c4.com/wireguard/replay"
)

// A session is one pair of transport keys and what goes with them.
//
// A lane holds sending or receiving for the packets of one batch, never for one
// packet, so that keys can be wiped the moment they end and no packet is ever
// sealed with what is left of them.
type session struct {
	peer      *peer
	local     uint32 // our index: names the session in what we receive
	remote    uint32
	initiator bool
	created   int64 // engine time

	counter atomic.Uint64 // of the next message we send
	renewed atomic.Bool   // a successor was asked for because the session is ageing

	sending sync.RWMutex // read-held while sealing
	send    *aead.Cipher // nil once wiped

	receiving sync.Mutex // held while opening
	receive   *aead.Cipher
	window    replay.Filter // RFC 6479; 8,128 messages
}

func newSession(p *peer, keys *transportKeys, local, remote uint32, initiator bool, now int64) (*session, error) {
	s := &session{peer: p, local: local, remote: remote, initiator: initiator, created: now}
	var err error
	if s.send, err = aead.New(&keys.send); err != nil {
		return nil, fmt.Errorf("wireguard: session cipher: %w", err)
	}
	if s.receive, err = aead.New(&keys.receive); err != nil {
		return nil, fmt.Errorf("wireguard: session cipher: %w", err)
	}
	return s, nil
}

// usable reports whether s may seal another message (whitepaper 6.2).
func (s *session) usable(now int64) bool {
	return s != nil && now-s.created < int64(rejectAfterTime) && s.counter.Load() < rejectAfterMessages
}

// stale reports whether a session that just sent should be replaced.
func (s *session) stale(now int64) bool {
	return s.counter.Load() > rekeyAfterMessages || s.initiator && now-s.created > int64(rekeyAfterTime)
}

// ageing reports whether a session that just received may not last until we
// next send, so that an initiator who only receives renews it in time.
func (s *session) ageing(now int64) bool {
	return s.initiator && now-s.created > int64(rejectAfterTime-keepaliveTimeout-rekeyTimeout)
}

// wipe ends the session: no lane seals or opens with it any more, and its keys
// are zero.
func (s *session) wipe() {
	if s == nil {
		return
	}
	s.sending.Lock()
	s.send.Wipe()
	s.send = nil
	s.sending.Unlock()

	s.receiving.Lock()
	s.receive.Wipe()
	s.receive = nil
	s.receiving.Unlock()
}
