package daemon

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// Bounds of what clients may ask for.
const (
	maxLabel    = 128    // bytes of a service, deployment or instance
	maxServices = 1024   // on a node
	maxPeers    = 16_384 // of a device
	maxPrefixes = 4096   // of allowed IPs of a peer
)

// checkName refuses what is no name of a service, or of a deployment or instance,
// which may be empty.
func checkName(field, name string, emptyOK bool) error {
	switch {
	case name == "" && emptyOK:
		return nil
	case name == "":
		return invalid(field, "is empty: give 1 to %d characters", maxLabel)
	case len(name) > maxLabel:
		return invalid(field, "has %d bytes, and may have at most %d", len(name), maxLabel)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == '/' }):
		return invalid(field, `%q has characters that cannot be printed, or "/"`, name)
	case strings.TrimSpace(name) != name:
		return invalid(field, "%q begins or ends with a space", name)
	}
	return nil
}

// parsePrefixes reads prefixes with commas between them. Bits past a prefix's
// length are refused, since they are mostly a mistake.
func parsePrefixes(field, list string) ([]netip.Prefix, error) {
	if list == "" {
		return nil, nil
	}
	var all []netip.Prefix
	seen := make(map[netip.Prefix]bool)
	for item := range strings.SplitSeq(list, ",") {
		if len(all) == maxPrefixes {
			return nil, invalid(field, "has more than %d prefixes", maxPrefixes)
		}
		item = strings.Trim(item, " ")
		p, err := netip.ParsePrefix(item)
		switch {
		case err != nil:
			return nil, invalid(field, "%q is not a prefix such as 10.200.0.0/16", short(item))
		case p.Addr().Is4In6():
			return nil, invalid(field, "%v is an IPv4 prefix in IPv6 form: write it as IPv4", p)
		case p != p.Masked():
			return nil, invalid(field, "%v has bits set past its length: write %v", p, p.Masked())
		case seen[p]:
			return nil, invalid(field, "%v is there twice", p)
		}
		seen[p] = true
		all = append(all, p)
	}
	return all, nil
}

// parseNetworks reads at most one prefix of a family, IPv4's first in the result,
// each of a network of hosts.
func parseNetworks(field, list string) ([]netip.Prefix, error) {
	all, err := parsePrefixes(field, list)
	if err != nil {
		return nil, err
	}
	for i, p := range all {
		if err := checkNetwork(field, p); err != nil {
			return nil, err
		}
		for _, other := range all[:i] {
			if other.Addr().BitLen() == p.Addr().BitLen() {
				return nil, invalid(field, "%v and %v are of the same family: give one of each at most", other, p)
			}
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare) // IPv4 first
	return all, nil
}

// shortest is the shortest a network may be: a larger one takes too much of what
// the host reaches otherwise. For IPv6 that is all unique local addresses (RFC 4193).
const shortest = 8

// special are no networks that hosts can have addresses of (RFC 6890).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast and reserved
	netip.MustParsePrefix("::/8"),        // unspecified, loopback, mapped
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

func checkNetwork(field string, p netip.Prefix) error {
	if p.Bits() < shortest {
		return invalid(field, "%v is too large: its length must be at least %d", p, shortest)
	}
	return checkOrdinary(field, p)
}

// checkOrdinary refuses prefixes that hold addresses no host has.
func checkOrdinary(field string, p netip.Prefix) error {
	if p.Bits() == 0 {
		return nil
	}
	for _, s := range special {
		if s.Overlaps(p) {
			return invalid(field, "%v overlaps %v, which is reserved for other purposes", p, s)
		}
	}
	return nil
}

// parseKey reads a public key.
func parseKey(field, text string) (overlay.PublicKey, error) {
	key, err := overlay.ParsePublicKey(text)
	if err != nil {
		var why *overlay.KeyError
		if errors.As(err, &why) {
			return key, invalid(field, "is not a public key: %s", why.Why)
		}
		return key, invalid(field, "is not a public key")
	}
	return key, nil
}

// parsePeer reads a peer, whose fields have names that begin with at.
func parsePeer(at string, s wire.PeerSpec) (overlay.Peer, error) {
	key, err := parseKey(at+"public_key", s.PublicKey)
	if err != nil {
		return overlay.Peer{}, err
	}
	allowed, err := parseAllowed(at+"allowed_ips", s.AllowedIPs)
	if err != nil {
		return overlay.Peer{}, err
	}
	if err := checkEndpoint(at+"endpoint", s.Endpoint); err != nil {
		return overlay.Peer{}, err
	}
	const most = 65535 // 16 bits of seconds in every implementation
	if s.Keepalive > most {
		return overlay.Peer{}, invalid(at+"persistent_keepalive_secs", "is %d, and may be at most %d", s.Keepalive, most)
	}
	return overlay.Peer{
		PublicKey:  key,
		Endpoint:   s.Endpoint,
		AllowedIPs: allowed,
		Keepalive:  time.Duration(s.Keepalive) * time.Second,
	}, nil
}

// parseAllowed reads allowed IPs, in the order of the addresses.
func parseAllowed(field, list string) ([]netip.Prefix, error) {
	all, err := parsePrefixes(field, list)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if err := checkOrdinary(field, p); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all, nil
}

// checkEndpoint refuses what cannot be told a peer's address from: but for
// link-local ones addresses have no zone (RFC 4007 section 6).
func checkEndpoint(field, endpoint string) error {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil // the device says what is wrong
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() != "" && !a.IsLinkLocalUnicast() {
		return invalid(field, "%q has a zone, which only link-local addresses have", short(endpoint))
	}
	return nil
}

// join is prefixes with commas between them.
func join(prefixes []netip.Prefix) string {
	var b strings.Builder
	for i, p := range prefixes {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// short is what a stranger sent, for a message.
func short(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// shortKey is enough of a public key, or of what was sent for one, to tell it from
// others in a message.
func shortKey(key string) string {
	const most = 8 // of 44 characters of base64
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "…"
	}
	if strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) || key == "" {
		return strconv.Quote(key)
	}
	return key
}

// quote is a name as it is told, for a message.
func quote(s string) string { return strconv.Quote(short(s)) }
