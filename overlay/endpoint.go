package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An endpoint is a parsed "host:port": either an address, or a name and the
// addresses it had when it was last resolved.
type endpoint struct {
	text string // as it was given
	name string // empty: an address
	port uint16

	addrs    []netip.Addr
	at       int       // index in addrs of the one in use
	advanced time.Time // when at or addrs was last changed by advance
}

// addr is the address to send to; zero when there is no endpoint.
func (e *endpoint) addr() netip.AddrPort {
	if len(e.addrs) == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(e.addrs[e.at], e.port)
}

// advance takes newly resolved addresses after the one in use did not answer:
// the next one if that is still among them, the first if it is not. So each is
// tried in turn, whichever family comes first.
func (e *endpoint) advance(addrs []netip.Addr) {
	at := slices.Index(addrs, e.addrs[e.at]) + 1
	e.addrs, e.at = addrs, at%len(addrs)
	e.advanced = time.Now()
}

// settle is how long after a change of address a handshake that fails was sent to
// the address before: it may be that of the moment of the change, which is given
// up 5 to 5.4 seconds later, when the first one goes to the new address.
const settle = 7500 * time.Millisecond

// settled reports whether a handshake that fails now says something about the
// address in use.
func (e *endpoint) settled() bool { return time.Since(e.advanced) > settle }

// parseEndpoint reads "host:port"; empty is no endpoint.
func parseEndpoint(s string) (endpoint, error) {
	if s == "" {
		return endpoint{}, nil
	}
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		var addrErr *net.AddrError
		if errors.As(err, &addrErr) {
			err = errors.New(addrErr.Err)
		}
		return endpoint{}, fmt.Errorf("%w: want host:port or [v6 address]:port", err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return endpoint{}, errors.New("the port must be a number from 1 to 65535")
	}
	e := endpoint{text: s, port: uint16(port)}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !reachable(addr) {
			return endpoint{}, errors.New("nothing can be sent to that address")
		}
		e.addrs = []netip.Addr{addr.Unmap()}
		return e, nil
	}
	if !isHostName(host) {
		return endpoint{}, errors.New("the host is neither an IP address nor a name")
	}
	e.name = host
	return e, nil
}

// reachable reports whether addr can be one host's.
func reachable(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() &&
		addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// isHostName checks the form of RFC 1123 section 2.1, with underscores, which
// are in use, and bounds of RFC 1035 section 2.3.4. A last label of digits alone is a
// mistyped address, since no top-level domain is one (RFC 3696 section 2).
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	label := ""
	for label = range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return strings.Trim(label, "0123456789") != ""
}

// resolve looks a name up. The addresses are at least one, distinct, and in the
// resolver's order, which for net.Resolver is that of RFC 6724.
func resolve(ctx context.Context, r Resolver, name string) ([]netip.Addr, error) {
	found, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		if a = a.Unmap(); reachable(a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no usable address", Name: name, IsNotFound: true}
	}
	return addrs, nil
}
