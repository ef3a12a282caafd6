package netstack

import (
	"fmt"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Addrs are the stack's addresses.
func (s *Stack) Addrs() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addrs)
}

// SetAddrs makes addrs the stack's addresses, all of them and no others. Nothing
// happens to the connections of addresses that stay; those of an address that
// goes end with an error.
func (s *Stack) SetAddrs(addrs []netip.Prefix) error {
	want := make([]netip.Prefix, 0, len(addrs))
	for _, p := range addrs {
		if err := s.checkAddr(p); err != nil {
			return err
		}
		for _, q := range want {
			if p.Addr() == q.Addr() {
				return fmt.Errorf("netstack: address %s is listed twice", p.Addr())
			}
		}
		want = append(want, p)
	}
	if !s.enter() {
		return errStackClosed
	}
	defer s.leave()

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range want {
		if !hasAddr(s.addrs, p.Addr()) {
			// The full length keeps gVisor from taking an address of the prefix for a
			// broadcast: there is none on an overlay.
			if err := s.ip.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
				Protocol:          protocolOf(p.Addr()),
				AddressWithPrefix: toAddress(p.Addr()).WithPrefix(),
			}, stack.AddressProperties{}); err != nil {
				return fmt.Errorf("netstack: adding address %s: %s", p.Addr(), err)
			}
			s.addrs = append(s.addrs, p)
		}
	}
	for _, p := range s.addrs {
		if !hasAddr(want, p.Addr()) {
			if err := s.ip.RemoveAddress(nicID, toAddress(p.Addr())); err != nil {
				return fmt.Errorf("netstack: removing address %s: %s", p.Addr(), err)
			}
		}
	}
	s.addrs = want
	s.setRoutesLocked()
	return nil
}

func (s *Stack) checkAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return fmt.Errorf("netstack: address %s: %w", p, errBadPrefix)
	case a.Is4In6(), a.Zone() != "", a.IsUnspecified(), a.IsMulticast(), a.IsLoopback():
		return fmt.Errorf("netstack: %s cannot be an interface's address", a)
	case a.Is6() && s.mtu < minMTU6:
		return fmt.Errorf("netstack: MTU %d is too small for address %s: IPv6 needs %d", s.mtu, a, minMTU6)
	}
	return nil
}

func hasAddr(in []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Addr() == a })
}

// SetRoutes makes routes the destinations that are sent to the device, besides
// the prefixes of the addresses. Nil means everything.
func (s *Stack) SetRoutes(routes []netip.Prefix) error {
	for _, p := range routes {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return fmt.Errorf("netstack: route %s: %w", p, errBadPrefix)
		}
	}
	if !s.enter() {
		return errStackClosed
	}
	defer s.leave()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes = slices.Clone(routes)
	s.setRoutesLocked()
	return nil
}

// setRoutesLocked installs the routes; the caller holds mu.
func (s *Stack) setRoutesLocked() {
	var table []tcpip.Route
	add := func(p netip.Prefix) {
		table = append(table, tcpip.Route{Destination: toSubnet(p), NIC: nicID})
	}
	for _, p := range s.addrs {
		add(p)
	}
	for _, p := range s.routes {
		add(p)
	}
	if s.routes == nil {
		table = append(table,
			tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nicID},
			tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID})
	}
	s.ip.SetRouteTable(table)
}

func toAddress(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func toSubnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: toAddress(p.Masked().Addr()), PrefixLen: p.Bits()}.Subnet()
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
