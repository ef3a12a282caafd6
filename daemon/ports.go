package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
)

// maxPorts bounds how many ports are published.
const maxPorts = 16_384

// ports is the owner of the published ports.
type ports struct {
	// writers are held while the ports of an address are published or dropped. An
	// address's is by its hash.
	writers [64]sync.Mutex

	mu     sync.RWMutex                // protects the rest; never held while anything is waited for
	table  map[hostPort]netip.AddrPort // where each leads
	byAddr map[netip.Addr][]hostPort   // those that lead to an address
	byPort map[hostPort][]hostPort     // those of a port, whatever the host's address
}

// openPorts takes the ports on record up again. Those of containers that are gone
// it strikes, so leases are known by then to be of the living. The rules get them
// with openFirewall.
func (d *Daemon) openPorts(recorded []wire.PublishedPort) error {
	p := &d.ports
	p.table = make(map[hostPort]netip.AddrPort)
	p.byAddr = make(map[netip.Addr][]hostPort)
	p.byPort = make(map[hostPort][]hostPort)
	if d.host == nil { // the next run may have a host again
		return nil
	}
	var gone []hostPort
	var rules []hostnet.Forward
	for _, r := range recorded {
		at := hostPort{r.Proto, r.HostIP, r.HostPort}
		if !d.publishable(r.IP) {
			gone = append(gone, at)
			continue
		}
		to := netip.AddrPortFrom(r.IP, r.TargetPort)
		p.put(at, to)
		rules = append(rules, at.forward(to))
	}
	if err := d.strikePorts(gone); err != nil {
		return err
	}
	return d.addRules(rules...)
}

// publishable reports whether an address is that of a container, a guest or a
// reservation on this node.
func (d *Daemon) publishable(a netip.Addr) bool {
	l, ok := d.leases.Lookup(a)
	return ok && slices.Contains([]string{kindContainer, kindGuest, kindReserved}, l.Owner.Kind)
}

func (d *Daemon) publishPort(ctx context.Context, r wire.PublishPort) (wire.Port, error) {
	if err := d.checkPublish(&r); err != nil {
		return wire.Port{}, err
	}
	p := &d.ports
	writer := p.writer(r.IP)
	writer.Lock()
	defer writer.Unlock()
	if !d.publishable(r.IP) {
		return wire.Port{}, &Error{Code: wire.NotFound, Field: "ip",
			Msg: fmt.Sprintf("no container, guest or reservation on this node has the address %v: attach_container and allocate_ip give one", r.IP)}
	}
	to := netip.AddrPortFrom(r.IP, r.TargetPort)
	at, there, err := d.claimPort(hostPort{r.Proto, r.HostIP, r.HostPort}, to)
	if err != nil {
		return wire.Port{}, err
	}
	var s steps
	if !there {
		err = s.do("publish.rules",
			func() error { return d.addRules(at.forward(to)) },
			func() error { return d.removeRules(at.forward(to)) })
	}
	if err == nil { // once more if it was there: its end may have been begun, and failed
		err = s.do("publish.record", func() error {
			return d.store.Update(func(tx *state.Tx) error {
				tx.PutPort(at.published(to))
				return nil
			})
		}, nil)
	}
	if err != nil && !there {
		err = s.rollback(err)
		p.mu.Lock()
		p.take(at)
		p.mu.Unlock()
	}
	if err != nil {
		return wire.Port{}, because(err, "publish %v", at)
	}
	return wire.Port{PublishedPort: at.published(to)}, nil
}

// checkPublish refuses what makes no sense, whatever there is.
func (d *Daemon) checkPublish(r *wire.PublishPort) error {
	r.IP, r.HostIP = r.IP.Unmap(), r.HostIP.Unmap()
	switch {
	case d.host == nil:
		return failed(wire.Unsupported, "ports of the host lead to containers only in the mode %q, and this daemon runs in the mode %q", ModeTUN, d.mode)
	case r.Proto != wire.TCP && r.Proto != wire.UDP:
		return invalid("proto", "%q has no ports: give %q or %q", r.Proto, wire.TCP, wire.UDP)
	case r.TargetPort == 0:
		return invalid("target_port", "is missing: give the port the container listens on, from 1 to 65535")
	case !r.HostIP.IsValid():
	case r.HostIP.Is4() != r.IP.Is4():
		return invalid("host_ip", "%v and %v are of two families", r.HostIP, r.IP)
	case r.HostIP.IsMulticast() || r.HostIP.Zone() != "":
		return invalid("host_ip", "%v is no address that the host can have", r.HostIP)
	}
	return nil
}

// claimPort takes a port of the host, or finds a free one, and reports whether it
// was published in just this way before.
func (d *Daemon) claimPort(at hostPort, to netip.AddrPort) (_ hostPort, there bool, err error) {
	p := &d.ports
	if had, there := p.same(at, to); there {
		return had, true, nil
	}
	if at.port == 0 {
		at, err = p.claimFree(at, to)
		return at, false, err
	}
	if err := p.claim(at, to); err != nil {
		return at, false, err
	}
	if err := portFree(at, to.Addr()); err != nil {
		p.mu.Lock()
		p.take(at)
		p.mu.Unlock()
		return at, false, err
	}
	return at, false, nil
}

func (d *Daemon) unpublishPort(ctx context.Context, r wire.UnpublishPort) error {
	switch {
	case r.Proto != wire.TCP && r.Proto != wire.UDP:
		return invalid("proto", "%q has no ports: give %q or %q", r.Proto, wire.TCP, wire.UDP)
	case r.HostPort == 0:
		return invalid("host_port", "is missing: give the one that was published")
	}
	p := &d.ports
	at := hostPort{r.Proto, r.HostIP.Unmap(), r.HostPort}
	p.mu.RLock()
	to, ok := p.table[at]
	p.mu.RUnlock()
	if !ok {
		return nil
	}
	writer := p.writer(to.Addr())
	writer.Lock()
	defer writer.Unlock()
	return d.dropThese([]hostPort{at}, func(is netip.AddrPort) bool { return is == to })
}

// dropPorts unpublishes the ports that lead to addresses whose leases have just been
// released: not before, so that none is published after it. Those it cannot drop
// degrade "ports", and are tried again.
func (d *Daemon) dropPorts(released ...ipam.Lease) {
	for _, l := range released {
		if err := d.dropPortsOf(l.Addr); err != nil {
			d.degrade(partPorts, err)
		}
	}
}

func (d *Daemon) dropPortsOf(a netip.Addr) error {
	p := &d.ports
	writer := p.writer(a)
	writer.Lock()
	defer writer.Unlock()
	p.mu.RLock()
	those := slices.Clone(p.byAddr[a])
	p.mu.RUnlock()
	return d.dropThese(those, func(to netip.AddrPort) bool { return to.Addr() == a })
}

// sweepPorts drops the ports whose containers are gone: dropPorts may have failed.
func (d *Daemon) sweepPorts() {
	p := &d.ports
	var gone []netip.Addr
	p.mu.RLock()
	for a := range p.byAddr {
		if !d.publishable(a) {
			gone = append(gone, a)
		}
	}
	p.mu.RUnlock()
	var failed error
	for _, a := range gone {
		failed = errors.Join(failed, d.dropPortsOf(a))
	}
	if failed != nil {
		d.degrade(partPorts, failed)
		return
	}
	d.recovered(partPorts)
}

// dropThese unpublishes ports that lead where they are expected to: they are
// struck from the record, then their rules go, then they are forgotten. The lock
// of their address is held.
func (d *Daemon) dropThese(those []hostPort, expected func(netip.AddrPort) bool) error {
	p := &d.ports
	var rules []hostnet.Forward
	p.mu.RLock()
	those = slices.DeleteFunc(those, func(at hostPort) bool {
		to, ok := p.table[at]
		if ok = ok && expected(to); ok {
			rules = append(rules, at.forward(to))
		}
		return !ok
	})
	p.mu.RUnlock()
	if len(those) == 0 {
		return nil
	}
	var s steps
	err := s.do("unpublish.record", func() error { return d.strikePorts(those) }, nil)
	if err == nil {
		err = s.do("unpublish.rules", func() error { return d.removeRules(rules...) }, nil)
	}
	if err != nil {
		return because(err, "unpublish %v", those[0])
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range those {
		p.take(at)
	}
	return nil
}

func (d *Daemon) strikePorts(those []hostPort) error {
	if len(those) == 0 {
		return nil
	}
	return d.store.Update(func(tx *state.Tx) error {
		for _, at := range those {
			tx.DeletePort(at.proto, at.ip, at.port)
		}
		return nil
	})
}

func (d *Daemon) addRules(rules ...hostnet.Forward) error {
	if len(rules) == 0 {
		return nil
	}
	return d.updateFirewall(func(f *hostnet.Firewall) { f.Ports = append(f.Ports, rules...) })
}

func (d *Daemon) removeRules(rules ...hostnet.Forward) error {
	gone := make(map[hostnet.Forward]bool, len(rules))
	for _, r := range rules {
		gone[r] = true
	}
	return d.updateFirewall(func(f *hostnet.Firewall) {
		f.Ports = slices.DeleteFunc(f.Ports, func(r hostnet.Forward) bool { return gone[r] })
	})
}

// listPorts is in the order of the ports.
func (d *Daemon) listPorts() (wire.Ports, error) {
	p := &d.ports
	p.mu.RLock()
	list := make([]wire.PublishedPort, 0, len(p.table))
	for at, to := range p.table {
		list = append(list, at.published(to))
	}
	p.mu.RUnlock()
	slices.SortFunc(list, func(a, b wire.PublishedPort) int {
		return cmp.Or(cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.Proto, b.Proto), a.HostIP.Compare(b.HostIP))
	})
	return wire.Ports{Ports: list}, nil
}

// portCount never waits.
func (d *Daemon) portCount() int {
	d.ports.mu.RLock()
	defer d.ports.mu.RUnlock()
	return len(d.ports.table)
}
