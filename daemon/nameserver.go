package daemon

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/dnsd"
	"github.com/overlayd/overlayd/netstack"
)

const (
	// hostResolvers are asked for names that are not the zone's. Where there are
	// none such names are refused: no resolver is asked that the host does not ask.
	hostResolvers = "/etc/resolv.conf"

	dnsPort = 53

	// An address may come up a moment after it was set, and another program may
	// give up the port at any time.
	firstListen = 100 * time.Millisecond
	lastListen  = 15 * time.Second
)

// A nameServer is the zone and its server, for as long as the node's networks
// stay what they are: they decide which reverse names are the zone's, and who may
// have other names looked up.
type nameServer struct {
	*dnsd.Server
	zone     *dnsd.Zone
	clusters []netip.Prefix
	forwards bool
	replaced chan struct{} // closed when another server has taken over
}

// newNameServer makes a server for the names there are; the lock on them is held,
// or nobody else has them.
func (d *Daemon) newNameServer(clusters []netip.Prefix) (*nameServer, error) {
	n := &d.names
	s := &nameServer{clusters: clusters, replaced: make(chan struct{})}
	var err error
	s.zone, err = dnsd.NewZone(dnsd.ZoneConfig{Origin: n.zone, TTL: nameTTL, Reverse: clusters})
	if err != nil {
		return nil, fmt.Errorf("zone %q: %w", d.config.Zone, err)
	}
	err = s.zone.Update(func(tx *dnsd.Tx) error {
		for name, addrs := range n.records {
			if err := tx.SetAddresses(name, addrs...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("names on record: %w", err)
	}
	config := dnsd.Config{Zones: []*dnsd.Zone{s.zone}, Logger: d.log}
	if s.forwards = exists(n.resolvConf); s.forwards {
		config.Forward = &dnsd.Forward{ResolvConf: n.resolvConf}
		// Not for everyone who reaches the node: it is no open resolver.
		config.Recurse = append([]netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		}, clusters...)
	}
	if s.Server, err = dnsd.New(config); err != nil {
		return nil, err
	}
	return s, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// clusters are the prefixes of all nodes.
func (d *Daemon) clusters() []netip.Prefix {
	if v := d.global.load(); v != nil {
		return v.Cluster
	}
	return nil
}

// followNames puts another server in the place of one that was made for other
// networks, or before the host had resolvers.
func (d *Daemon) followNames() {
	n := &d.names
	clusters := d.clusters()
	forwards := exists(n.resolvConf)
	n.mu.Lock()
	old := n.server
	if n.closed || old == nil || slices.Equal(old.clusters, clusters) && (old.forwards || !forwards) {
		n.mu.Unlock()
		return
	}
	server, err := d.newNameServer(clusters)
	if err != nil {
		n.mu.Unlock()
		d.log.Warn("names are served as before", "err", err)
		return
	}
	n.server = server
	n.mu.Unlock()
	old.Close() // gives the sockets up, for the next to bind
	close(old.replaced)
}

// A nameService is the service of names on one address.
type nameService struct {
	addr  netip.Addr
	err   error         // why there is none at the moment; names.mu protects it
	stop  chan struct{} // closed to end it
	ended chan struct{} // closed when it has
}

func (s *nameService) end() {
	close(s.stop)
	<-s.ended
}

var errNotYet = errors.New("is about to begin")

// serveNames answers on port 53 of an address; that it cannot degrades "dns" and
// is tried again. quitNames ends it. Both are idempotent and never fail the caller.
func (d *Daemon) serveNames(a netip.Addr) {
	if d.mode == ModeRootless && !slices.ContainsFunc(d.global.load().Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return // a service has no bridge there, nobody has its gateway
	}
	d.followNames()
	n := &d.names
	n.mu.Lock()
	if n.closed || n.serving[a] != nil {
		n.mu.Unlock()
		return
	}
	s := &nameService{addr: a, err: errNotYet, stop: make(chan struct{}), ended: make(chan struct{})}
	n.serving[a] = s
	n.mu.Unlock()
	first := d.tryNames(s) // so that who asks for it finds it there
	go d.runNames(s, first)
}

func (d *Daemon) quitNames(a netip.Addr) {
	n := &d.names
	n.mu.Lock()
	s := n.serving[a]
	delete(n.serving, a)
	n.mu.Unlock()
	if s == nil {
		return
	}
	s.end()
	d.toldNames(s, nil)
}

// An attempt is one to serve names on an address.
type attempt struct {
	server  *nameServer
	stack   *netstack.Stack // nil: the kernel's
	sockets []io.Closer
	err     error // why there are none
}

func (d *Daemon) tryNames(s *nameService) attempt {
	n := &d.names
	n.mu.RLock()
	at := attempt{server: n.server, stack: d.stack()}
	n.mu.RUnlock()
	at.sockets, at.err = d.listenNames(at.server, at.stack, s.addr)
	d.toldNames(s, at.err)
	return at
}

// runNames serves names on an address until s is stopped.
func (d *Daemon) runNames(s *nameService, at attempt) {
	defer close(s.ended)
	for wait := firstListen; ; at = d.tryNames(s) {
		if at.err == nil {
			if !d.awaitChange(s, at) {
				closeAll(at.sockets)
				return
			}
			wait = firstListen
			continue
		}
		select {
		case <-s.stop:
			return
		case <-at.server.replaced:
		case <-time.After(wait):
			wait = min(2*wait, lastListen)
		}
	}
}

// awaitChange waits until what s listens with is closed, because there is another
// server or, for a rootless node, another stack, or until s is to end: then it
// returns false.
func (d *Daemon) awaitChange(s *nameService, at attempt) bool {
	var look <-chan time.Time
	if at.stack != nil {
		t := time.NewTicker(monitorEvery)
		defer t.Stop()
		look = t.C
	}
	for {
		select {
		case <-s.stop:
			return false
		case <-at.server.replaced:
			return true
		case <-look:
			if d.stack() != at.stack {
				closeAll(at.sockets)
				return true
			}
		}
	}
}

// stack is the TCP/IP stack of a rootless node, nil if there is none.
func (d *Daemon) stack() *netstack.Stack {
	if v := d.global.load(); v != nil && v.device != nil {
		return v.device.stack()
	}
	return nil
}

// listenNames listens for queries on an address, over UDP and TCP.
func (d *Daemon) listenNames(s *nameServer, stack *netstack.Stack, a netip.Addr) ([]io.Closer, error) {
	at := netip.AddrPortFrom(a, dnsPort).String()
	if stack == nil {
		if d.mode == ModeRootless {
			return nil, errors.New("the node has no network yet")
		}
		l, err := s.Listen(at)
		if err != nil {
			return nil, err
		}
		return []io.Closer{l}, nil
	}
	packets, err := stack.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	streams, err := stack.Listen("tcp", at)
	if err != nil {
		packets.Close()
		return nil, err
	}
	sockets := []io.Closer{packets, streams}
	if err := errors.Join(s.ServePacket(packets), s.ServeStream(streams)); err != nil {
		closeAll(sockets)
		return nil, err
	}
	return sockets, nil
}

func closeAll(list []io.Closer) {
	for _, c := range list {
		c.Close()
	}
}

// toldNames takes down how the service on an address fares, and degrades "dns" or
// not by how all of them do.
func (d *Daemon) toldNames(s *nameService, err error) {
	n := &d.names
	n.telling.Lock()
	defer n.telling.Unlock()
	if why := n.told(s, err); why != "" {
		d.degrade(partDNS, errors.New(why))
	} else {
		d.recovered(partDNS)
	}
}

// told takes down how the service on an address fares, and returns why names are not
// served on all there are, "" if they are.
func (n *names) told(s *nameService, err error) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.err = err
	var reasons []string
	for a, service := range n.serving {
		if service.err != nil && service.err != errNotYet {
			reasons = append(reasons, whyNoNames(a, service.err))
		}
	}
	slices.Sort(reasons)
	const most = 4
	if more := len(reasons) - most; more > 0 {
		reasons = append(reasons[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(reasons, "; ")
}

// whyNoNames says why names are not served on an address, and what would help.
func whyNoNames(a netip.Addr, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("names are not served on %v: another program has its port %d, often a name server such as dnsmasq, "+
			"systemd-resolved or bind that listens on every address: `ss -lnp sport = :%[2]d` names it; let it listen on its own addresses only", a, dnsPort)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("names are not served on %v: the host does not have this address yet", a)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("names are not served on %v: port %d wants CAP_NET_BIND_SERVICE: %v", a, dnsPort, err)
	}
	return fmt.Sprintf("names are not served on %v: %v", a, err)
}
