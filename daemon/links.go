package daemon

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/overlay"
)

// maxLinkName is IFNAMSIZ of linux/if.h less the final zero.
const maxLinkName = 15

// The kinds of links, for their aliases, and the letters their names end in.
const (
	kindGlobal    = "global"    // the node's WireGuard device
	kindBridge    = "bridge"    // of a service
	kindDedicated = "dedicated" // the WireGuard device of a service
	kindEth0      = "eth0"      // the host's end of a container's first interface
	kindEth1      = "eth1"      // and of its second

	suffixGlobal    = "g"
	suffixBridge    = "b"
	suffixDedicated = "d"
)

// linkName is the name of a link of ours: what it is of, and a suffix for what it
// is. One that would be too long for a link, or hard to read in a terminal, is
// made of a hash of the same instead; who has such a link its alias says. Parts that
// are empty, as the deployment's before the node's overlay is set up, are left out,
// unless what remains might be another's name as well.
func linkName(suffix string, parts ...string) string {
	named := slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return part == "" })
	plain := len(named) == len(parts) || !strings.Contains(strings.Join(named, ""), "-")
	name := strings.Join(slices.Concat([]string{"ovl"}, named, []string{suffix}), "-")
	if plain && len(name) <= maxLinkName && !strings.ContainsFunc(name, unusual) {
		return name
	}
	h := newFNV()
	for _, part := range append(parts, suffix) {
		h = h.add(part)
	}
	room := maxLinkName - len("ovl-") - len("-") - len(suffix)
	return "ovl-" + fmt.Sprintf("%016x", uint64(h))[:room] + "-" + suffix
}

func unusual(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
}

// fnv is FNV-1a, 64 bits, of strings that each end in a byte no UTF-8 has.
type fnv uint64

func newFNV() fnv { return 0xcbf29ce484222325 }

func (h fnv) add(s string) fnv {
	const prime = 0x100000001b3
	for i := range len(s) {
		h = (h ^ fnv(s[i])) * prime
	}
	return (h ^ 0xff) * prime
}

// aliasPrefix begins the alias of every link of overlayd, whichever installation.
const aliasPrefix = "overlayd:"

// installation is what tells this overlayd's links from another's on the same host
// (state.Node.Installation): it follows from the node's first key.
func installation(key overlay.PublicKey) string { return hex.EncodeToString(key[:4]) }

// alias is what a link of ours carries: whose it is, what kind of link, and of
// which service or attachment.
func (d *Daemon) alias(kind, owner string) string {
	return aliasPrefix + d.installation + ":" + kind + ":" + owner
}

// owned is the kind and owner in a link's alias, and whether the link is ours.
func (d *Daemon) owned(l hostnet.Link) (kind, owner string, ok bool) {
	rest, ok := strings.CutPrefix(l.Alias, aliasPrefix+d.installation+":")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}
