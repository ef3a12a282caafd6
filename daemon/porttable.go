package daemon

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// A hostPort is a port of the host, by which a publication is known.
type hostPort struct {
	proto wire.Proto
	ip    netip.Addr // invalid: every one of the host's
	port  uint16
}

// anywhere is the port of every address.
func (p hostPort) anywhere() hostPort { return hostPort{proto: p.proto, port: p.port} }

// every reports whether it is of every address of the host, of a family at least.
func (p hostPort) every() bool { return !p.ip.IsValid() || p.ip.IsUnspecified() }

func (p hostPort) String() string {
	if !p.ip.IsValid() {
		return fmt.Sprintf("port %d/%s of every address", p.port, p.proto)
	}
	return fmt.Sprintf("port %d/%s of %v", p.port, p.proto, p.ip)
}

// forward is the rule that makes it so. An unspecified address is every one of its
// family, which follows from where the port leads.
func (p hostPort) forward(to netip.AddrPort) hostnet.Forward {
	ip := p.ip
	if ip.IsUnspecified() {
		ip = netip.Addr{}
	}
	return hostnet.Forward{Proto: string(p.proto), HostIP: ip, HostPort: p.port, To: to}
}

func (p hostPort) published(to netip.AddrPort) wire.PublishedPort {
	return wire.PublishedPort{Proto: p.proto, HostIP: p.ip, HostPort: p.port, IP: to.Addr(), TargetPort: to.Port()}
}

// put and take change the table. The lock is held, or nobody else has it.
func (p *ports) put(at hostPort, to netip.AddrPort) {
	p.table[at] = to
	p.byAddr[to.Addr()] = append(p.byAddr[to.Addr()], at)
	p.byPort[at.anywhere()] = append(p.byPort[at.anywhere()], at)
}

func (p *ports) take(at hostPort) {
	to, ok := p.table[at]
	if !ok {
		return
	}
	delete(p.table, at)
	without(p.byAddr, to.Addr(), at)
	without(p.byPort, at.anywhere(), at)
}

// without takes a port out of an index.
func without[K comparable](index map[K][]hostPort, key K, at hostPort) {
	left := slices.DeleteFunc(index[key], func(other hostPort) bool { return other == at })
	if index[key] = left; len(left) == 0 {
		delete(index, key)
	}
}

// writer is the lock of an address.
func (p *ports) writer(a netip.Addr) *sync.Mutex {
	return &p.writers[maphash.Comparable(nameSeed, a)%uint64(len(p.writers))]
}

// same finds a publication that is just the one that is asked for. One of any port is
// one that was picked, by its number, so that who asks twice gets one.
func (p *ports) same(at hostPort, to netip.AddrPort) (hostPort, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, had := range p.byAddr[to.Addr()] {
		if p.table[had] == to && had.proto == at.proto && had.ip == at.ip && (had.port == at.port || at.port == 0 && picked(had.port)) {
			return had, true
		}
	}
	return hostPort{}, false
}

// claim puts a port in the table if there is room for it.
func (p *ports) claim(at hostPort, to netip.AddrPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.table) >= maxPorts {
		return failed(wire.Exhausted, "published ports are exhausted: there are %d, as many as fit", maxPorts)
	}
	if other, overlaps := p.overlaps(at, to); overlaps {
		return &Error{Code: wire.Conflict, Field: "host_port",
			Msg: fmt.Sprintf("%v leads to %v already: unpublish_port ends that, and 0 picks a free port", other, p.table[other])}
	}
	p.put(at, to)
	return nil
}

// overlaps finds a publication that takes packets which are to be another's.
func (p *ports) overlaps(at hostPort, to netip.AddrPort) (hostPort, bool) {
	for _, other := range p.byPort[at.anywhere()] {
		// Each is of the family it leads to. But by clients and on record it is known
		// without it.
		family := p.table[other].Addr().Is4() == to.Addr().Is4()
		if other == at || family && (other.every() || at.every() || other.ip == at.ip) {
			return other, true
		}
	}
	return hostPort{}, false
}

// led finds a publication that takes what is sent to a port of the host.
func (p *ports) led(proto wire.Proto, port uint16) (hostPort, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if those := p.byPort[hostPort{proto: proto, port: port}]; len(those) > 0 {
		return those[0], true
	}
	return hostPort{}, false
}
