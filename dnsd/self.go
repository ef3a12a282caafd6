package dnsd

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// self is the addresses a server listens on, so that it never asks itself.
type self struct {
	mu      sync.Mutex // protects the rest
	addrs   map[netip.AddrPort]int
	hosts   []netip.Addr // of this machine, for wildcard addresses
	checked time.Time
}

// checkHosts is how long the machine's addresses are taken to stay the same.
const checkHosts = 5 * time.Second

func (s *self) add(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addrs == nil {
		s.addrs = make(map[netip.AddrPort]int)
	}
	s.addrs[a]++
}

func (s *self) remove(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addrs[a]--; s.addrs[a] == 0 {
		delete(s.addrs, a)
	}
}

// isSelf reports whether what is sent to an address would come to this server.
func (s *Server) isSelf(a netip.AddrPort) bool {
	s.self.mu.Lock()
	defer s.self.mu.Unlock()
	if s.self.addrs[netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())] > 0 {
		return true
	}
	for listens := range s.self.addrs {
		if listens.Port() == a.Port() && listens.Addr().IsUnspecified() {
			return a.Addr().IsLoopback() || slices.Contains(s.self.machine(), a.Addr().WithZone(""))
		}
	}
	return false
}

// machine is the addresses of this machine.
func (s *self) machine() []netip.Addr {
	if s.checked.IsZero() || time.Since(s.checked) > checkHosts {
		s.checked = time.Now()
		s.hosts = nil
		addrs, _ := net.InterfaceAddrs() // without them only loopback is known
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				s.hosts = append(s.hosts, p.Addr().Unmap().WithZone(""))
			}
		}
	}
	return s.hosts
}
