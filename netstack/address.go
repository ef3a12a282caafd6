package netstack

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// checkNetwork accepts transport, which is "tcp" or "udp", alone and followed by
// "4" or "6".
func checkNetwork(network, transport string) error {
	switch network {
	case transport, transport + "4", transport + "6":
		return nil
	}
	return net.UnknownNetworkError(network)
}

// family is 4 or 6 for a network of one address family, and 0 for one of both.
func family(network string) int {
	switch {
	case strings.HasSuffix(network, "4"):
		return 4
	case strings.HasSuffix(network, "6"):
		return 6
	}
	return 0
}

// inFamily reports whether network has a's family.
func inFamily(network string, a netip.Addr) bool {
	switch family(network) {
	case 4:
		return a.Is4()
	case 6:
		return a.Is6()
	}
	return true
}

// dualStack reports whether binding to local means both families.
func dualStack(network string, local netip.AddrPort) bool {
	return family(network) == 0 && local.Addr() == netip.IPv6Unspecified()
}

// splitAddr takes an address apart into its host, which may be empty, and port.
func splitAddr(ctx context.Context, network, address string) (string, uint16, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if service == "" {
		return host, 0, nil
	}
	// Service names have numbers on every machine; this asks no server.
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return "", 0, err
	}
	return host, uint16(port), nil
}

// parseHost is the address that host is the literal of, if it is one.
func parseHost(host string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err == nil
}

// localAddr is the address to bind to.
func localAddr(network, address string) (netip.AddrPort, error) {
	if address == "" {
		address = ":0"
	}
	host, port, err := splitAddr(context.Background(), network, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.IPv6Unspecified()
	switch {
	case host != "":
		var literal bool
		if addr, literal = parseHost(host); !literal {
			return netip.AddrPort{}, &net.AddrError{Err: "not an IP address", Addr: host}
		}
	case family(network) == 4:
		addr = netip.IPv4Unspecified()
	}
	if !inFamily(network, addr) {
		return netip.AddrPort{}, &net.AddrError{Err: "not of the family of " + network, Addr: host}
	}
	if addr.Zone() != "" {
		return netip.AddrPort{}, &net.AddrError{Err: "the stack has no zones", Addr: host}
	}
	return netip.AddrPortFrom(addr, port), nil
}

// toFull is a as gVisor has it: an unspecified address is left out.
func toFull(a netip.AddrPort) tcpip.FullAddress {
	full := tcpip.FullAddress{Port: a.Port()}
	if !a.Addr().IsUnspecified() {
		full.Addr = toAddress(a.Addr())
	}
	return full
}

// fromFull is the address gVisor means; one it leaves out is unspecified.
func fromFull(a tcpip.FullAddress, unspecified netip.Addr) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(a.Addr.AsSlice())
	if !ok || addr.IsUnspecified() {
		addr = unspecified
	}
	return netip.AddrPortFrom(addr.Unmap(), a.Port)
}
