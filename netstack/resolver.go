package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const dnsPort = 53

// serverDelay is how long a DNS server may take before the next one is asked too.
const serverDelay = time.Second

var errNoServers = errors.New("netstack: no DNS servers are set")

// Resolver asks the stack's DNS servers, through the stack. It is package net's
// own resolver in Go, which also reads the machine's hosts file.
func (s *Stack) Resolver() *net.Resolver { return s.resolver }

// SetDNS makes servers the ones that are asked from now on, in order of
// preference. Port 0 means 53.
func (s *Stack) SetDNS(servers []netip.AddrPort) error {
	servers = slices.Clone(servers)
	for i, a := range servers {
		if !a.Addr().IsValid() || a.Addr().IsUnspecified() || a.Addr().Zone() != "" {
			return fmt.Errorf("netstack: DNS server %s: not a usable address", a)
		}
		if a.Port() == 0 {
			a = netip.AddrPortFrom(a.Addr(), dnsPort)
		}
		servers[i] = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	s.servers.Store(&servers)
	return nil
}

// lookup resolves host into addresses of network's families that the stack has,
// the two families in turn.
func (s *Stack) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	has4, has6 := s.families()
	has4, has6 = has4 && family(network) != 6, has6 && family(network) != 4
	asked := "ip"
	switch {
	case has4 && !has6:
		asked = "ip4"
	case has6 && !has4:
		asked = "ip6"
	}
	// With the final dot, the search list in the machine's resolv.conf is left out.
	found, err := s.resolver.LookupNetIP(ctx, asked, strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return nil, err
	}
	var first, second []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); a.Is4() == found[0].Unmap().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	addrs := make([]netip.Addr, 0, len(found))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			addrs = append(addrs, first[i])
		}
		if i < len(second) {
			addrs = append(addrs, second[i])
		}
	}
	return addrs, nil
}

// families says of which families the stack has addresses.
func (s *Stack) families() (has4, has6 bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.addrs {
		if p.Addr().Is4() {
			has4 = true
		} else {
			has6 = true
		}
	}
	return has4, has6
}

// dialDNS is the Dial of Resolver, which has the address of one of the machine's
// own servers in mind.
func (s *Stack) dialDNS(ctx context.Context, network, _ string) (net.Conn, error) {
	servers := *s.servers.Load()
	if len(servers) == 0 {
		return nil, errNoServers
	}
	if network != "udp" {
		return race(ctx, "tcp", servers, s.dialTCP)
	}
	pc, err := s.ListenPacket("udp", "")
	if err != nil {
		return nil, err
	}
	return &dnsConn{udpConn: pc.(*udpConn), servers: servers}, nil
}

// A dnsConn is a connection to several DNS servers. A query goes to the first,
// and to each of the others when those before it are silent or out of reach;
// whichever answers first is read from.
type dnsConn struct {
	*udpConn
	servers []netip.AddrPort

	mu       sync.Mutex
	query    []byte
	asked    int       // how many servers have the query
	deadline time.Time // for the whole
}

// Write asks the first server.
func (c *dnsConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.query = append(c.query[:0], b...)
	c.asked = 0
	return len(b), c.askLocked()
}

// askLocked asks the next server that can be reached. It fails when there is
// none and none was asked before.
func (c *dnsConn) askLocked() (err error) {
	for c.asked < len(c.servers) {
		server := c.servers[c.asked]
		c.asked++
		if _, err = c.udpConn.WriteToUDPAddrPort(c.query, server); err == nil {
			return nil
		}
	}
	return err
}

// Read waits for an answer.
func (c *dnsConn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		wait, more := c.deadline, c.asked < len(c.servers)
		if next := time.Now().Add(serverDelay); more && (wait.IsZero() || next.Before(wait)) {
			wait = next
		} else {
			more = false
		}
		c.mu.Unlock()
		if err := c.udpConn.SetReadDeadline(wait); err != nil {
			return 0, err
		}
		n, from, err := c.udpConn.ReadFromUDPAddrPort(b)
		switch {
		case err == nil && slices.Contains(c.servers, from):
			return n, nil
		case err == nil:
		case more && isTimeout(err):
			c.mu.Lock()
			c.askLocked() // those asked before may still answer
			c.mu.Unlock()
		default:
			return 0, err
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// ReadFrom implements net.PacketConn, by which package net knows that messages
// have no length in front.
func (c *dnsConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, nil, err
}

// SetDeadline bounds the whole exchange.
func (c *dnsConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.udpConn.SetWriteDeadline(t)
}
