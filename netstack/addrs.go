package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var errBadPrefix = errors.New("not a valid prefix")

// Addrs are the stack's addresses.
func (s *Stack) Addrs() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addrs)
}

// SetAddrs makes addrs the stack's addresses, all of them and no others. Nothing
// happens to the connections of addresses that stay; TCP connections of an
// address that goes are reset. On an error nothing has changed.
func (s *Stack) SetAddrs(addrs []netip.Prefix) error {
	for i, p := range addrs {
		if err := s.checkAddr(p); err != nil {
			return err
		}
		if hasAddr(addrs[:i], p.Addr()) {
			return fmt.Errorf("netstack: address %s is listed twice", p.Addr())
		}
	}
	if !s.enter() {
		return errStackClosed
	}
	defer s.leave()
	s.changing.Lock()
	defer s.changing.Unlock()
	have := s.Addrs()
	for i, p := range addrs {
		if hasAddr(have, p.Addr()) {
			continue
		}
		if err := s.addAddr(p.Addr()); err != nil {
			for _, q := range addrs[:i] {
				if !hasAddr(have, q.Addr()) {
					s.ip.RemoveAddress(nicID, toAddress(q.Addr()))
				}
			}
			return fmt.Errorf("netstack: adding address %s: %s", p.Addr(), err)
		}
	}
	own := make(ownAddrs, len(addrs))
	for _, p := range addrs {
		own[p.Addr()] = struct{}{}
	}
	s.own.Store(&own)
	for _, p := range have {
		if !hasAddr(addrs, p.Addr()) {
			s.resetConnsOf(p.Addr())
			s.ip.RemoveAddress(nicID, toAddress(p.Addr())) // fails only if it were not there
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = slices.Clone(addrs)
	s.installRoutes()
	return nil
}

func (s *Stack) addAddr(a netip.Addr) tcpip.Error {
	// Prefixes of the full length keep gVisor from taking an address for the
	// broadcast of another's prefix: there are none on an overlay.
	return s.ip.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          protocolOf(a),
		AddressWithPrefix: toAddress(a).WithPrefix(),
	}, stack.AddressProperties{})
}

// resetConnsOf ends the TCP connections of local address a.
func (s *Stack) resetConnsOf(a netip.Addr) {
	var gone []tcpip.Endpoint
	s.mu.Lock()
	for k := range s.sockets {
		if c, ok := k.(*tcpConn); ok && c.local.AddrPort().Addr().Unmap() == a {
			gone = append(gone, c.ep)
		}
	}
	s.mu.Unlock()
	for _, ep := range gone {
		ep.Abort()
	}
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
	s.installRoutes()
	return nil
}

// installRoutes makes gVisor's routes those of addrs and routes; the caller holds
// mu.
func (s *Stack) installRoutes() {
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
