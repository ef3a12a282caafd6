package daemon

import (
	"net/netip"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// The times of the WireGuard whitepaper, section 6.1, that tell who does not answer.
const (
	rejectAfterTime = 180 * time.Second // a session is good for so long
	rekeyTimeout    = 5 * time.Second   // a handshake that is not answered is begun anew
	keepaliveTime   = 10 * time.Second  // who receives and has nothing to say says so after this

	// A peer that has a session answers whatever packet it is sent, at the latest
	// after keepaliveTime. What is lost on the way WireGuard notices rekeyTimeout
	// later, and begins a handshake; so three of those were lost as well by the time
	// a peer counts as silent.
	silentAfter = keepaliveTime + rekeyTimeout + 3*rekeyTimeout

	// A peer without a session counts as silent when three handshakes were not
	// answered.
	shunnedAfter = 3 * rekeyTimeout

	// soundAfter is for how long an ill peer has to be well again before it is
	// said: one that answers now and then does not make an event each time.
	soundAfter = 5 * time.Second
)

// A peerID tells a peer of a device from all others.
type peerID struct {
	scope string
	key   overlay.PublicKey
}

// health is what is known of a peer.
type health uint8

const (
	unknown health = iota // it was never spoken with
	well
	ill
)

// A patient is a peer that is looked at again and again.
//
// A peer is well when it has completed a handshake, and stays so for as long as it
// answers what it is sent. Nothing is known against one that is sent nothing: an
// idle peer stays what it was, however old its last handshake. It is ill when
//
//   - packets were sent to it in a session, and for silentAfter nothing came back; or
//   - there is no session, because none was made or the last is older than
//     rejectAfterTime, and handshakes were begun for shunnedAfter in vain.
//
// An ill peer is well again when it was heard, or completed a handshake, and
// neither holds for soundAfter.
type patient struct {
	seen   uint64 // number of the last look
	is     health
	addr   netip.AddrPort
	shaken time.Time // its last handshake

	rx, tx, packets uint64 // bytes received and sent, packets sent, at the last look

	unheard  time.Time // since when packets are not answered; zero: they are, or there are none
	shunned  time.Time // since when handshakes are begun, without a session
	tried    time.Time // when the last of them was
	answered time.Time // when an ill peer was first heard again; zero: it was not
}

// A ward is all patients. It is used by one goroutine.
type ward struct {
	patients map[peerID]*patient
	looks    uint64
	changed  bool // who is ill
}

// begin begins a look at all peers there are.
func (w *ward) begin() {
	w.looks++
	if w.patients == nil {
		w.patients = make(map[peerID]*patient)
	}
}

// look takes a peer's state in, and tells of what is different from the last time.
func (w *ward) look(scope string, p *overlay.PeerStatus, now time.Time, tell func(wire.Event)) {
	id := peerID{scope, p.PublicKey}
	a := w.patients[id]
	if a == nil {
		a = &patient{rx: p.RxBytes, tx: p.TxBytes, packets: p.TxPackets}
		if p.Endpoint != "" { // that it is there is no news, unlike where a peer called from
			a.addr = p.Addr
		}
		w.patients[id] = a
	}
	a.seen = w.looks
	if p.Addr != a.addr {
		if a.addr = p.Addr; p.Addr.IsValid() {
			tell(wire.NATEndpointChanged{Pubkey: p.PublicKey.String(), Endpoint: p.Addr.String()})
		}
	}
	was := a.is
	if a.examine(p, now); a.is != was {
		w.changed = w.changed || was == ill || a.is == ill
		tell(wire.PeerHealthChanged{Pubkey: p.PublicKey.String(), Healthy: a.is == well})
	}
}

// end forgets the peers that were not looked at, and reports whether others are
// ill than after the last look.
func (w *ward) end() bool {
	for id, a := range w.patients {
		if a.seen != w.looks {
			w.changed = w.changed || a.is == ill
			delete(w.patients, id)
		}
	}
	changed := w.changed
	w.changed = false
	return changed
}

// sick is the patients that are ill.
func (w *ward) sick() *map[peerID]bool {
	sick := make(map[peerID]bool)
	for id, a := range w.patients {
		if a.is == ill {
			sick[id] = true
		}
	}
	return &sick
}

// examine decides on a peer's health.
func (a *patient) examine(p *overlay.PeerStatus, now time.Time) {
	if p.TxBytes < a.tx || p.RxBytes < a.rx { // the device was made anew, and counts from nothing
		a.rx, a.tx, a.packets = 0, 0, 0
		a.unheard, a.shunned = time.Time{}, time.Time{}
	}
	heard := p.RxBytes > a.rx
	shaken := p.LastHandshake.After(a.shaken)
	session := !p.LastHandshake.IsZero() && now.Sub(p.LastHandshake) < rejectAfterTime

	switch {
	case heard || !session:
		a.unheard = time.Time{}
	case p.TxPackets > a.packets && a.unheard.IsZero():
		a.unheard = now
	}
	switch {
	case session:
		a.shunned = time.Time{}
	case p.TxBytes > a.tx:
		if a.shunned.IsZero() || now.Sub(a.tried) > shunnedAfter { // it was given up, and is begun anew
			a.shunned = now
		}
		a.tried = now
	}
	a.rx, a.tx, a.packets, a.shaken = p.RxBytes, p.TxBytes, p.TxPackets, p.LastHandshake

	silent := !a.unheard.IsZero() && now.Sub(a.unheard) >= silentAfter
	shunned := !a.shunned.IsZero() && a.tried.Sub(a.shunned) >= shunnedAfter
	switch {
	case silent || shunned:
		a.is, a.answered = ill, time.Time{}
	case a.is == unknown && session:
		a.is = well
	case a.is == ill && (heard || shaken) && a.answered.IsZero():
		a.answered = now
	case a.is == ill && !a.answered.IsZero() && now.Sub(a.answered) >= soundAfter:
		a.is, a.answered = well, time.Time{}
	}
}
