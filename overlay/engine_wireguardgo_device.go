package overlay

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/overlayd/overlayd/internal/wireguard"
	"github.com/overlayd/overlayd/packet"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// sealRoom is what wireguard-go appends to a packet in its buffer: padding and
// the authentication tag.
const sealRoom = 15 + 16

// A tunAdapter is a packet.Device and its stages as wireguard-go's tun.Device.
//
// Each lane has a goroutine that reads the device and runs the stages; Read,
// which has one caller, cuts what they hand over into wireguard-go's buffers, one
// batch at a time. Write runs the stages inbound; wireguard-go calls it from a
// goroutine per peer.
type tunAdapter struct {
	device packet.Device
	stages packet.Chain
	log    *slog.Logger

	outbound []*outboundLane
	inbound  []*inboundLane
	ready    chan *outboundLane // unbuffered: a lane waits with its batch
	answers  answerQueue        // bounced inbound, on their way back to peers
	routes   atomic.Pointer[bart.Table[*peerTraffic]]

	events  chan tun.Event
	running sync.WaitGroup // lanes and the goroutine that feeds events

	closed    chan struct{}
	closeOnce sync.Once
	failed    chan struct{}
	failOnce  sync.Once
	failure   error // written before failed is closed

	// What Read is in the middle of.
	lane    *outboundLane
	next    int // in lane.batch.Packets
	cutter  packet.Cutter
	cutting *peerTraffic // whose superpacket is in cutter; nil: none

	rxPackets, txPackets, rxBytes, txBytes, bounces atomic.Uint64
	drops                                           [packet.NumReasons]atomic.Uint64
}

// peerTraffic counts one peer's IP packets.
type peerTraffic struct {
	rxPackets, txPackets atomic.Uint64
}

type outboundLane struct {
	batch  *packet.Batch
	answer *packet.Batch // what bounced, on its way back to the device
	done   chan struct{} // has room for one: Read is through with batch
}

type inboundLane struct {
	mu    sync.Mutex // held while the lane's inbound stages run
	batch *packet.Batch
}

// newTunAdapter reads nothing before start.
func newTunAdapter(d packet.Device, stages packet.Chain, log *slog.Logger) *tunAdapter {
	a := &tunAdapter{
		device: d,
		stages: stages,
		log:    log,
		ready:  make(chan *outboundLane),
		events: make(chan tun.Event),
		closed: make(chan struct{}),
		failed: make(chan struct{}),
	}
	a.answers.wake = make(chan struct{}, 1)
	a.routes.Store(new(bart.Table[*peerTraffic]))
	for lane := range d.Lanes() {
		a.outbound = append(a.outbound, &outboundLane{
			batch:  packet.NewBatch(lane),
			answer: packet.NewBatch(lane),
			done:   make(chan struct{}, 1),
		})
		a.inbound = append(a.inbound, &inboundLane{batch: packet.NewBatch(lane)})
	}
	return a
}

func (a *tunAdapter) start() {
	for _, lane := range a.outbound {
		a.running.Go(func() { a.run(lane) })
	}
	a.running.Go(a.watch)
}

// run returns when the device ends.
func (a *tunAdapter) run(lane *outboundLane) {
	for {
		if err := a.device.ReadBatch(lane.batch); err != nil {
			a.fail(err)
			return
		}
		a.stages.Outbound(lane.batch)
		a.count(lane.batch)
		if bounced := lane.batch.Bounced(); len(bounced) > 0 {
			lane.answer.Reset()
			lane.answer.Packets = append(lane.answer.Packets, bounced...)
			a.deliver(lane.answer)
		}
		if len(lane.batch.Packets) == 0 {
			continue
		}
		select {
		case a.ready <- lane:
		case <-a.closed:
			return
		}
		select {
		case <-lane.done:
		case <-a.closed:
			return
		}
	}
}

// watch tells wireguard-go of a changed MTU. Up and down are the kernel's affair:
// the node keeps its sessions and its port.
func (a *tunAdapter) watch() {
	defer close(a.events)
	events := a.device.Events()
	for {
		select {
		case event, ok := <-events:
			if !ok {
				events = nil
			}
			if event != packet.EventMTU {
				continue
			}
			select {
			case a.events <- tun.EventMTUUpdate:
			case <-a.closed:
				return
			}
		case <-a.closed:
			return
		}
	}
}

func (a *tunAdapter) fail(err error) {
	a.failOnce.Do(func() {
		a.failure = err
		close(a.failed)
	})
}

// Read implements tun.Device: every buffer it fills is an ordinary packet to a
// peer.
func (a *tunAdapter) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if a.lane == nil {
		select {
		case a.lane = <-a.ready:
			a.next = 0
		case <-a.answers.wake:
		case <-a.failed:
			return 0, os.ErrClosed
		case <-a.closed:
			return 0, os.ErrClosed
		}
	}
	n := a.answers.take(bufs, sizes, offset)
	for i := range n {
		a.sent(a.route(bufs[i][offset:][:sizes[i]]), sizes[i])
	}
	if a.lane != nil {
		n += a.fill(bufs[n:], sizes[n:], offset)
	}
	return n, nil
}

// fill cuts what is left of the lane's batch into bufs, and lets go of the lane
// at its end.
func (a *tunAdapter) fill(bufs [][]byte, sizes []int, offset int) int {
	packets := a.lane.batch.Packets
	n := 0
	for n < len(bufs) {
		if a.cutting == nil {
			if a.next == len(packets) {
				a.lane.done <- struct{}{}
				a.lane = nil
				break
			}
			p := &packets[a.next]
			a.next++
			a.cutting = a.begin(p)
			continue
		}
		segment := a.cutter.Next()
		if segment == nil {
			a.cutting = nil
			continue
		}
		if len(segment) > len(bufs[n])-offset-sealRoom {
			a.drop(packet.TooBig, 1)
			continue
		}
		sizes[n] = copy(bufs[n][offset:], segment)
		a.sent(a.cutting, sizes[n])
		n++
	}
	return n
}

// begin starts cutting p, and returns the peer it goes to, nil when it goes
// nowhere.
func (a *tunAdapter) begin(p *packet.Packet) *peerTraffic {
	dst := p.DstAddr()
	if !dst.IsValid() {
		a.drop(packet.Malformed, 1)
		return nil
	}
	to, _ := a.routes.Load().Lookup(dst)
	if to == nil {
		a.drop(packet.NoPeer, 1)
		return nil
	}
	if err := a.cutter.Start(p); err != nil {
		a.drop(packet.Malformed, 1)
		return nil
	}
	return to
}

// sent counts a packet that goes to a peer.
func (a *tunAdapter) sent(to *peerTraffic, size int) {
	a.txPackets.Add(1)
	a.txBytes.Add(uint64(size))
	if to != nil {
		to.txPackets.Add(1)
	}
}

// route finds the peer an answer goes to.
func (a *tunAdapter) route(data []byte) *peerTraffic {
	p := packet.Packet{Data: data}
	to, _ := a.routes.Load().Lookup(p.DstAddr())
	return to
}

// Write implements tun.Device: bufs are packets of one peer, who may use their
// source addresses.
func (a *tunAdapter) Write(bufs [][]byte, offset int) (int, error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	first := packet.Packet{Data: bufs[0][offset:]}
	if from, _ := a.routes.Load().Lookup(first.SrcAddr()); from != nil {
		from.rxPackets.Add(uint64(len(bufs)))
	}
	lane := a.inbound[laneOf(first.Data, len(a.inbound))]
	lane.mu.Lock()
	defer lane.mu.Unlock()
	for rest := bufs; len(rest) > 0; {
		b := lane.batch
		b.Reset()
		size := 0
		for len(rest) > 0 && !b.Full() {
			b.Append(rest[0][offset:], 0)
			size += len(rest[0]) - offset
			rest = rest[1:]
		}
		a.rxPackets.Add(uint64(len(b.Packets)))
		a.rxBytes.Add(uint64(size))
		a.stages.Inbound(b)
		a.count(b)
		for _, p := range b.Bounced() {
			if !a.answers.put(p.Data) {
				a.drop(packet.SendFailed, 1)
			}
		}
		if len(b.Packets) > 0 {
			a.deliver(b)
		}
	}
	return len(bufs), nil
}

// laneOf keeps a source on one lane, whichever peer's goroutine brings it.
func laneOf(data []byte, lanes int) int {
	if lanes == 1 {
		return 0
	}
	src := packet.Packet{Data: data}
	addr := src.SrcAddr().As16()
	return int(addr[15]^addr[13]) % lanes
}

// deliver writes to the device. What the device did not take it has counted.
func (a *tunAdapter) deliver(b *packet.Batch) {
	err := a.device.WriteBatch(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		a.drop(packet.DeviceFull, len(b.Packets))
		a.log.Debug("overlay: write to the device", "device", a.device.Name(), "err", err)
	}
}

// count adds what the stages did with a batch.
func (a *tunAdapter) count(b *packet.Batch) {
	if n := len(b.Bounced()); n > 0 {
		a.bounces.Add(uint64(n))
	}
	for why := range packet.Reason(packet.NumReasons) {
		if n := b.Drops(why); n > 0 {
			a.drop(why, n)
		}
	}
}

func (a *tunAdapter) stats() wireguard.Stats {
	s := wireguard.Stats{
		RxPackets: a.rxPackets.Load(),
		TxPackets: a.txPackets.Load(),
		RxBytes:   a.rxBytes.Load(),
		TxBytes:   a.txBytes.Load(),
		Bounces:   a.bounces.Load(),
	}
	for why := range s.Drops {
		s.Drops[why] = a.drops[why].Load()
	}
	return s
}

func (a *tunAdapter) drop(why packet.Reason, n int) { a.drops[why].Add(uint64(n)) }

// MTU implements tun.Device.
func (a *tunAdapter) MTU() (int, error) { return a.device.MTU(), nil }

// Name implements tun.Device.
func (a *tunAdapter) Name() (string, error) { return a.device.Name(), nil }

// File implements tun.Device; there is none.
func (a *tunAdapter) File() *os.File { return nil }

// Events implements tun.Device.
func (a *tunAdapter) Events() <-chan tun.Event { return a.events }

// BatchSize implements tun.Device.
func (a *tunAdapter) BatchSize() int { return conn.IdealBatchSize }

// Close implements tun.Device: it ends Read. The device is its owner's to close.
func (a *tunAdapter) Close() error {
	a.closeOnce.Do(func() { close(a.closed) })
	return nil
}

var _ tun.Device = (*tunAdapter)(nil)
