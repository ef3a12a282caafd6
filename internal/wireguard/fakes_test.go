package wireguard

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// A network carries datagrams between fake transports, in memory, so that tests
// run in a synctest bubble. Its fate decides what becomes of each.
type network struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*fakeTransport
	fate  func(datagram []byte, from, to netip.AddrPort) []time.Duration // delays of the copies to deliver; nil delivers one at once
	taps  []func(datagram []byte, from, to netip.AddrPort)               // called one at a time
}

func newNetwork() *network {
	return &network{ports: make(map[netip.AddrPort]*fakeTransport)}
}

func (n *network) setFate(fate func(datagram []byte, from, to netip.AddrPort) []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fate = fate
}

func (n *network) tap(f func(datagram []byte, from, to netip.AddrPort)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps, f)
}

// A watch remembers the datagrams of one type that one node sent.
type watch struct {
	mu        sync.Mutex
	datagrams [][]byte
	times     []time.Time
}

// watch starts to remember. A kind of 0 is any; an empty keepalive is a
// transport message of sizeTransportMin bytes.
func (n *network) watch(from *fakeTransport, kind uint32) *watch {
	w := new(watch)
	n.tap(func(d []byte, sender, _ netip.AddrPort) {
		if sender != from.address() || kind != 0 && messageType(d) != kind {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.datagrams = append(w.datagrams, append([]byte(nil), d...))
		w.times = append(w.times, time.Now())
	})
	return w
}

func (w *watch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.datagrams)
}

// at is a datagram and when it was sent.
func (w *watch) at(i int) ([]byte, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.datagrams[i], w.times[i]
}

func (n *network) transmit(datagram []byte, from, to netip.AddrPort, ecn byte) {
	n.mu.Lock()
	delays := []time.Duration{0}
	if n.fate != nil {
		delays = n.fate(datagram, from, to)
	}
	for _, tap := range n.taps {
		tap(datagram, from, to)
	}
	n.mu.Unlock()
	for _, delay := range delays {
		copied := append([]byte(nil), datagram...)
		if delay == 0 {
			n.deliver(copied, from, to, ecn)
			continue
		}
		time.AfterFunc(delay, func() { n.deliver(copied, from, to, ecn) })
	}
}

func (n *network) deliver(datagram []byte, from, to netip.AddrPort, ecn byte) {
	n.mu.Lock()
	port := n.ports[to]
	n.mu.Unlock()
	if port == nil {
		return
	}
	m := udp.Message{Data: datagram, Seg: len(datagram), Endpoint: udp.Endpoint{Addr: from}, ECN: ecn}
	select {
	case port.inbox <- m:
	default: // a full socket buffer
	}
}

// A fakeTransport is one node's place in a network.
type fakeTransport struct {
	network *network
	inbox   chan udp.Message
	once    sync.Once
	closed  chan struct{}

	mu   sync.Mutex
	addr netip.AddrPort
}

func (n *network) attach(addr string) *fakeTransport {
	t := &fakeTransport{network: n, inbox: make(chan udp.Message, 8192), closed: make(chan struct{})}
	t.move(addr)
	return t
}

// move gives the node another address, as roaming does.
func (t *fakeTransport) move(addr string) {
	to := netip.MustParseAddrPort(addr)
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.network.ports, t.addr)
	t.addr = to
	t.network.ports[to] = t
}

// rebind gives the node another address, as a NAT does that still knows the old one.
func (t *fakeTransport) rebind(addr string) {
	old := t.address()
	t.move(addr)
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.network.ports[old] = t
}

func (t *fakeTransport) address() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addr
}

func (t *fakeTransport) Port() uint16 { return t.address().Port() }
func (t *fakeTransport) Lane() int    { return 0 }

func (t *fakeTransport) Send(_ int, messages []udp.Message) (int, error) {
	from := t.address()
	for i := range messages {
		m := &messages[i]
		for data := m.Data; len(data) > 0; {
			size := min(len(data), m.Seg)
			t.network.transmit(data[:size], from, m.Endpoint.Addr, m.ECN)
			data = data[size:]
		}
	}
	return len(messages), nil
}

func (t *fakeTransport) Receive(messages []udp.Message) (int, error) {
	select {
	case <-t.closed:
		return 0, net.ErrClosed
	case messages[0] = <-t.inbox:
	}
	for n := 1; n < len(messages); n++ {
		select {
		case messages[n] = <-t.inbox:
		default:
			return n, nil
		}
	}
	return len(messages), nil
}

func (t *fakeTransport) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// A fakeDevice is a packet.Device whose other end is the test.
type fakeDevice struct {
	toPeers   chan []packetBytes
	fromPeers chan packetBytes
	once      sync.Once
	closed    chan struct{}
	events    chan packet.Event
	mtu       atomic.Int32
}

type packetBytes struct {
	data []byte
	seg  uint16
}

func newFakeDevice() *fakeDevice {
	d := &fakeDevice{
		toPeers:   make(chan []packetBytes, 1024),
		fromPeers: make(chan packetBytes, 65536),
		closed:    make(chan struct{}),
		events:    make(chan packet.Event),
	}
	d.mtu.Store(1420)
	return d
}

func (d *fakeDevice) ReadBatch(b *packet.Batch) error {
	b.Reset()
	select {
	case <-d.closed:
		return net.ErrClosed
	case packets := <-d.toPeers:
		for _, p := range packets {
			data := make([]byte, len(p.data), max(len(p.data), 1500)+packet.Slack)
			copy(data, p.data)
			b.Append(data, p.seg)
		}
		return nil
	}
}

func (d *fakeDevice) WriteBatch(b *packet.Batch) error {
	for i := range b.Packets {
		p := &b.Packets[i]
		if !p.Live() {
			continue
		}
		select {
		case <-d.closed:
			return net.ErrClosed
		case d.fromPeers <- packetBytes{append([]byte(nil), p.Data...), p.Seg}:
		default:
		}
	}
	return nil
}

func (d *fakeDevice) Lanes() int                  { return 1 }
func (d *fakeDevice) MTU() int                    { return int(d.mtu.Load()) }
func (d *fakeDevice) Name() string                { return "fake" }
func (d *fakeDevice) Events() <-chan packet.Event { return d.events }
func (d *fakeDevice) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *fakeDevice) send(data []byte) { d.toPeers <- []packetBytes{{data, 0}} }

// received takes the segments of everything delivered so far.
func (d *fakeDevice) received() [][]byte {
	var all [][]byte
	for {
		select {
		case p := <-d.fromPeers:
			var pk packet.Packet
			pk.Set(append(make([]byte, 0, len(p.data)+packet.Slack), p.data...), p.seg)
			var c packet.Cutter
			if c.Start(&pk) != nil {
				all = append(all, p.data)
				continue
			}
			for s := c.Next(); s != nil; s = c.Next() {
				all = append(all, append([]byte(nil), s...))
			}
		default:
			return all
		}
	}
}

// A testNode is an engine on fakes.
type testNode struct {
	*Engine
	device    *fakeDevice
	transport *fakeTransport
	private   [32]byte
	public    [32]byte
	overlay   netip.Addr
}

func newTestNode(t testing.TB, n *network, addr, overlay string, options ...func(*Config)) *testNode {
	node := &testNode{device: newFakeDevice(), transport: n.attach(addr), overlay: netip.MustParseAddr(overlay)}
	node.private, node.public = newTestKeys(t)
	cfg := Config{PrivateKey: node.private, Device: node.device, Logger: slog.New(slog.DiscardHandler)}
	for _, option := range options {
		option(&cfg)
	}
	e, err := start(cfg, node.transport, []receiver{node.transport})
	require.NoError(t, err)
	node.Engine = e
	t.Cleanup(node.close)
	return node
}

func (n *testNode) close() {
	n.device.Close()
	n.Engine.Close()
}

func newTestKeys(t testing.TB) (private, public [32]byte) {
	for i := range private {
		private[i] = byte(rand.Uint32())
	}
	id, err := newIdentity(private)
	require.NoError(t, err)
	return private, id.public()
}

// peerOf is how another node configures n.
func (n *testNode) peerOf() Peer {
	return Peer{
		PublicKey:  n.public,
		Endpoint:   n.transport.address(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.overlay, n.overlay.BitLen())},
	}
}

// newPair is two nodes that know each other.
func newPair(t testing.TB) (*network, *testNode, *testNode) {
	n := newNetwork()
	a := newTestNode(t, n, "192.0.2.1:1000", "10.0.0.1")
	b := newTestNode(t, n, "192.0.2.2:2000", "10.0.0.2")
	require.NoError(t, a.SetPeer(b.peerOf()))
	require.NoError(t, b.SetPeer(a.peerOf()))
	return n, a, b
}

// datagramTo is an IPv4 UDP packet that carries a number.
func datagramTo(from, to netip.Addr, number uint32) []byte {
	p := make([]byte, 64)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, packet.ProtocolUDP
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[20:], 1234)
	binary.BigEndian.PutUint16(p[22:], 5678)
	binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
	binary.BigEndian.PutUint32(p[28:], number)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return p
}

// numbers are what datagramTo put into the packets.
func numbers(packets [][]byte) []uint32 {
	var all []uint32
	for _, p := range packets {
		all = append(all, binary.BigEndian.Uint32(p[28:]))
	}
	return all
}
