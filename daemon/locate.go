package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
)

// A station is where an address is.
type station struct {
	addr netip.Addr
	kind stationKind
	text string // in words
	link int    // index of the link by which the host sees it; 0: none, or not known
}

type stationKind uint8

const (
	atOutside   stationKind = iota // of the overlay
	atHere                         // on this host itself
	atContainer                    // attached to a service
	atGuest                        // a peer on this host
	atReserved                     // by allocate_ip, for whoever asked
	atRemote                       // behind a peer
	atNobody                       // of the overlay, but nobody has it
)

// locate finds out where an address is.
func (d *Daemon) locate(a netip.Addr) station {
	s := station{addr: a}
	lease, leased := d.leases.Lookup(a)
	service := d.serviceOf(a)
	switch {
	case leased && lease.Owner.Kind == kindContainer:
		s.kind = atContainer
		s.text, s.link = d.describe(a, service)
	case leased && lease.Owner.Kind == kindGuest:
		s.kind = atGuest
		s.text = fmt.Sprintf("the guest %q", d.owners()(lease))
		s.link = d.globalLink()
	case leased && lease.Owner.Kind == kindReserved:
		s.kind, s.text = atReserved, "an address reserved by allocate_ip"
		if service != nil {
			s.text = fmt.Sprintf("an address of service %q, reserved by allocate_ip", service.Name)
			s.link = service.bridge.Index
		}
	case leased && lease.Owner.Kind == ipam.KindService && service != nil:
		s.kind, s.text = atHere, fmt.Sprintf("this host's own address in service %q", service.Name)
	case d.own(a):
		s.kind, s.text = atHere, "this node's own address"
	default:
		d.elsewhere(&s, service)
	}
	return s
}

// elsewhere finds out about an address that is not leased on this node.
func (d *Daemon) elsewhere(s *station, service *service) {
	for _, v := range d.devices() {
		if key, prefix, ok := v.behind(s.addr); ok {
			s.kind, s.link = atRemote, v.link().Index
			s.text = fmt.Sprintf("behind peer %v, by its allowed %v", key, prefix)
			return
		}
	}
	switch {
	case service != nil:
		s.kind = atNobody
		s.text = fmt.Sprintf("an address of service %q that no container has: it may have been detached", service.Name)
	case d.inCluster(s.addr):
		s.kind = atNobody
		s.text = "an address of the overlay that neither a container nor a peer has: its service may have been torn down"
	default:
		s.text = "outside the overlay"
	}
}

// describe is a container by one of its addresses, and the link by which the host
// sees it.
func (d *Daemon) describe(a netip.Addr, service *service) (text string, link int) {
	if service != nil {
		link = service.bridge.Index
	}
	list, err := d.listAttachments(wire.ListAttachments{})
	if err != nil {
		return "a container", link
	}
	i := slices.IndexFunc(list.Attachments, func(at wire.Attachment) bool {
		return at.IP == a || at.GlobalIP == a || slices.ContainsFunc(at.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
	if i < 0 {
		return "a container that is just being attached or detached", link
	}
	at := list.Attachments[i]
	text = "a container"
	if pid, ok := at.Handle.(wire.LinuxPID); ok {
		text = fmt.Sprintf("the container of process %d", pid.PID)
	}
	text += fmt.Sprintf(" in service %q", at.Service)
	if service != nil {
		return fmt.Sprintf("%s, on the bridge %s", text, service.Bridge), link
	}
	return text + ", on the node's own network", 0
}

// serviceOf is the service in one of whose subnets an address is.
func (d *Daemon) serviceOf(a netip.Addr) *service {
	for _, s := range d.allServices() {
		if slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return s
		}
	}
	return nil
}

// inCluster reports whether an address is one of the overlay's.
func (d *Daemon) inCluster(a netip.Addr) bool {
	return slices.ContainsFunc(d.clusters(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// own reports whether an address is one of this host's, or of its stack's.
func (d *Daemon) own(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	for _, v := range d.devices() {
		if slices.ContainsFunc(v.addrs(), func(p netip.Prefix) bool { return p.Addr() == a }) {
			return true
		}
	}
	if d.host == nil {
		return false // a rootless node's stack does not reach them
	}
	addrs, _ := net.InterfaceAddrs() // without them only ours are known
	return slices.ContainsFunc(addrs, func(has net.Addr) bool {
		p, err := netip.ParsePrefix(has.String())
		return err == nil && p.Addr().Unmap().WithZone("") == a
	})
}

// globalLink is the index of the node's device, 0 if it has none.
func (d *Daemon) globalLink() int {
	if v := d.global.load(); v != nil && v.device != nil {
		return v.device.link().Index
	}
	return 0
}
