package netstack

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overlayd/overlayd/packet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	defaultMTU  = 1420 // what fits WireGuard over IPv6 over Ethernet
	minMTU      = 576  // every IPv4 host takes that much (RFC 791 section 3.1)
	minMTU6     = 1280 // every IPv6 link takes that much (RFC 8200 section 5)
	defaultName = "netstack"

	nicID tcpip.NICID = 1
)

// Config is what New makes a Stack from. Its zero value is a stack without an
// address, which gets one by SetAddrs.
type Config struct {
	// Addrs are the stack's own addresses, IPv4 and IPv6.
	Addrs []netip.Prefix

	// Routes are the destinations that are sent to the device, besides the
	// prefixes of Addrs. Nil means everything.
	Routes []netip.Prefix

	// MTU is the largest packet the device moves, in bytes; 0 means 1420.
	MTU int

	// Name is what the device calls itself; empty means "netstack".
	Name string

	// DNS are the servers that Resolver and DialContext ask, in order of
	// preference. Port 0 means 53.
	DNS []netip.AddrPort

	// TCP are the settings of TCP.
	TCP TCP
}

// A Stack is a running TCP/IP stack. Its methods are safe for use by several
// goroutines.
type Stack struct {
	name string
	mtu  int

	ip     *stack.Stack
	reach  reach
	in4    stack.NetworkEndpoint // takes inbound packets
	in6    stack.NetworkEndpoint
	own    atomic.Pointer[ownAddrs]
	device device

	segments tcpSegments

	resolver *net.Resolver
	servers  atomic.Pointer[[]netip.AddrPort]

	// life is held for reading by everything that puts packets or endpoints into
	// ip, and for writing to end that.
	life   sync.RWMutex
	closed bool          // under life
	done   chan struct{} // closed when Close has ended

	orphans  orphans
	changing sync.Mutex // held by SetAddrs, in front of mu

	// mu protects what follows.
	mu        sync.Mutex
	addrs     []netip.Prefix
	routes    []netip.Prefix // nil: everything
	listeners map[*tcpListener]struct{}
	sockets   map[socket]struct{} // all others
}

// A socket is what the Stack has to end when it closes. First all are woken, so
// that each says it was closed and none that the other end of it was.
type socket interface {
	wake()  // ends its calls, present and future, with net.ErrClosed
	abort() // ends its endpoint
}

// New makes a running Stack. It fails, and leaves nothing behind, when the MTU,
// an address, a route or a TCP setting is not usable.
func New(config Config) (*Stack, error) {
	if config.MTU == 0 {
		config.MTU = defaultMTU
	}
	if config.Name == "" {
		config.Name = defaultName
	}
	if config.MTU < minMTU || config.MTU > packet.MaxSize {
		return nil, fmt.Errorf("netstack: MTU %d is not between %d and %d", config.MTU, minMTU, packet.MaxSize)
	}
	divertLog()
	s := &Stack{
		name:      config.Name,
		mtu:       config.MTU,
		reach:     config.TCP.reach(),
		done:      make(chan struct{}),
		listeners: make(map[*tcpListener]struct{}),
		sockets:   make(map[socket]struct{}),
	}
	s.ip = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        true, // packets to our own addresses stay inside
	})
	s.segments = s.ip.TransportProtocolInstance(tcp.ProtocolNumber).(tcpSegments)
	s.own.Store(new(ownAddrs))
	s.orphans.ip, s.orphans.most, s.orphans.wait = s.ip, maxOrphans, maxTimeWait
	s.device.init(s)
	s.resolver = &net.Resolver{PreferGo: true, Dial: s.dialDNS}
	if err := s.setUp(config); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) setUp(config Config) error {
	if err := config.TCP.apply(s.ip); err != nil {
		return err
	}
	l := &link{queue: &s.device.queue, mtu: uint32(s.mtu)}
	err := s.ip.CreateNICWithOptions(nicID, l, stack.NICOptions{Name: s.name, QDisc: l})
	if err == nil {
		s.in4, err = s.ip.GetNetworkEndpoint(nicID, ipv4.ProtocolNumber)
	}
	if err == nil {
		s.in6, err = s.ip.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	}
	if err != nil {
		return fmt.Errorf("netstack: creating the interface: %s", err)
	}
	if err := s.SetRoutes(config.Routes); err != nil {
		return err
	}
	if err := s.SetAddrs(config.Addrs); err != nil {
		return err
	}
	return s.SetDNS(config.DNS)
}

// Device is the stack's lower end. Closing it is closing the stack.
func (s *Stack) Device() packet.Device { return &s.device }

// Stats are counts since the stack was made.
type Stats struct {
	// Dropped is how many outbound packets were lost because the reader of the
	// device was too slow.
	Dropped uint64
	// Retransmits is how many TCP segments were sent again.
	Retransmits uint64
	// BadChecksums is how many inbound packets had a wrong transport checksum.
	BadChecksums uint64
}

// Stats returns the counts.
func (s *Stack) Stats() Stats {
	counts := s.ip.Stats()
	return Stats{
		Dropped:      s.device.queue.dropped.Load(),
		Retransmits:  counts.TCP.Retransmits.Value(),
		BadChecksums: counts.TCP.ChecksumErrors.Value() + counts.UDP.ChecksumErrors.Value(),
	}
}

// Close ends the stack: connections are reset, every call that waits returns an
// error that is net.ErrClosed, and so does the device's ReadBatch. It is
// idempotent and returns when nothing of the stack runs any more.
func (s *Stack) Close() error {
	s.life.Lock()
	if s.closed {
		s.life.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	s.life.Unlock()
	// From here on nobody else brings packets or endpoints into being, but for
	// TCP's own goroutines and timers.

	s.mu.Lock()
	sockets := slices.Collect(maps.Keys(s.sockets))
	for l := range s.listeners {
		sockets = append(sockets, l)
	}
	s.mu.Unlock()
	for _, k := range sockets {
		k.wake()
	}
	for _, k := range sockets {
		k.abort()
	}
	// Close ends the endpoints it sees and tells TCP's goroutines to end. One that
	// was just then accepting a connection leaves an endpoint that nobody would
	// end, and Wait would wait for it, hence the second Close.
	s.ip.Close()
	s.ip.TransportProtocolInstance(tcp.ProtocolNumber).Wait()
	s.ip.Close()
	s.ip.Wait()

	s.device.queue.close()
	close(s.device.events)
	close(s.done)
	return nil
}

// enter holds off Close until leave. It reports false, and needs no leave, when
// the stack is closed.
func (s *Stack) enter() bool {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return false
	}
	return true
}

func (s *Stack) leave() { s.life.RUnlock() }

// track has k ended when the stack is closed; the caller is between enter and
// leave.
func (s *Stack) track(k socket) {
	s.mu.Lock()
	s.sockets[k] = struct{}{}
	s.mu.Unlock()
}

func (s *Stack) forget(k socket) {
	s.mu.Lock()
	delete(s.sockets, k)
	s.mu.Unlock()
}

// errStackClosed is why something fails on a closed stack.
var errStackClosed = fmt.Errorf("netstack: the stack is closed: %w", net.ErrClosed)
