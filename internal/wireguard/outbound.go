package wireguard

import (
	"net/netip"
	"time"

	"github.com/overlayd/overlayd/packet"
)

// An outbound takes the packets of one device lane to their peers: read, stages,
// route, cut, seal, send, each batch to its end before the next.
type outbound struct {
	engine *Engine
	sender *sender
	batch  *packet.Batch
	answer *packet.Batch // what bounced, on its way back to the device
}

func newOutbound(e *Engine, lane int) *outbound {
	w := newSender(e, lane, sealArena)
	w.errors = &allowance{spent: -never}
	return &outbound{
		engine: e,
		sender: w,
		batch:  packet.NewBatch(lane),
		answer: packet.NewBatch(lane),
	}
}

// run returns when the device ends.
func (o *outbound) run() {
	for {
		if err := o.engine.config.Device.ReadBatch(o.batch); err != nil {
			o.engine.fail("read from the device", err)
			return
		}
		o.process()
	}
}

func (o *outbound) process() {
	e := o.engine
	e.config.Stages.Outbound(o.batch)
	o.sender.tally.stages(o.batch)
	o.sender.route(o.batch.Packets)
	o.batch.Sweep() // for what route answers
	if bounced := o.batch.Bounced(); len(bounced) > 0 {
		o.answer.Reset()
		o.answer.Packets = append(o.answer.Packets, bounced...)
		if err := e.config.Device.WriteBatch(o.answer); err != nil {
			e.fail("write to the device", err)
		}
		o.answer.TakeDrops(o.sender.tally.drop)
		o.sender.tally.tell(e)
	}
}

// route sends each packet to the peer whose allowed IPs hold its destination.
func (w *sender) route(packets []packet.Packet) {
	var (
		e       = w.engine
		now     = e.now()
		routes  = e.routes.Load()
		to      netip.Addr
		current *peer
		f       *flow // nil while current has no usable session
	)
	for i := range packets {
		pk := &packets[i]
		if dst := pk.DstAddr(); dst != to || i == 0 {
			to = dst
			p, _ := routes.Lookup(dst)
			if p != current {
				if f != nil {
					f.end()
				}
				current, f = p, w.open(p, now)
			}
		}
		switch {
		case !to.IsValid():
			w.tally.drop(packet.Malformed, 1)
		case current == nil:
			w.tally.drop(packet.NoPeer, 1)
			w.refuse(pk, now)
		case f != nil:
			f.send(pk)
		default:
			f = w.wait(current, pk, now)
		}
	}
	if f != nil {
		f.end()
	}
	w.tally.tell(e) // before anyone can see the packets
	w.flush()
	w.tally.tell(e)
}

// refuse tells who sent pk that there is no way to its destination, as Linux's
// WireGuard does, so that a program fails at once and need not time out. The
// error seems to come from the destination: no other address fits it as well.
func (w *sender) refuse(pk *packet.Packet, now int64) {
	if w.errors != nil && w.errors.take(now) {
		pk.Unreachable(pk.DstAddr(), packet.HostUnreachable)
	}
}

// An allowance bounds how many ICMP errors a lane sends (RFC 4443 section 2.4 f):
// 50 at once and 1,000 a second, as Linux's icmp_msgs_burst and
// icmp_msgs_per_sec.
type allowance struct {
	spent int64 // engine time by which all that was taken is paid for
}

func (a *allowance) take(now int64) bool {
	const price, burst = int64(time.Second / 1000), 50
	spent := max(a.spent, now-burst*price)
	if spent+price > now {
		return false
	}
	a.spent = spent + price
	return true
}

// open begins a flow to p, or returns nil when there is no usable session.
func (w *sender) open(p *peer, now int64) *flow {
	if p == nil {
		return nil
	}
	for {
		s := p.current.Load()
		if !s.usable(now) {
			return nil
		}
		f := w.begin(p, s, now)
		if s.send != nil {
			return f
		}
		f.end() // it was replaced, and wiped, before we held it
	}
}

// wait lets pk wait for a handshake with p. It returns a flow if a session came
// meanwhile, and pk has been sent on it.
func (w *sender) wait(p *peer, pk *packet.Packet, now int64) *flow {
	if p.endpoint.Load() == nil {
		w.tally.drop(packet.NoEndpoint, 1)
		w.refuse(pk, now)
		return nil
	}
	s, dropped := p.stage(pk, now)
	w.tally.drop(packet.NoSession, uint64(dropped))
	if s == nil {
		p.requestInitiation(now)
		return nil
	}
	f := w.begin(p, s, now)
	f.send(pk)
	return f
}
