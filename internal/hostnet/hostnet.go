// Package hostnet changes the network of the host: links, their addresses and
// their routes. It is the one package that does; what is built on it decides what
// the host's network is to be, and only this one knows how the system is told.
package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrForeign is under the error for a link that is there and not ours.
var ErrForeign = errors.New("it is somebody else's")

// A HeldError says that another process has the network namespace for itself.
type HeldError struct {
	PID int // 0: not known, or not of our PID namespace
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return "another overlayd runs in this network namespace: stop it, or run this one in a namespace of its own"
	}
	return fmt.Sprintf("another overlayd runs in this network namespace, as process %d: stop it, or run this one in a namespace of its own", e.PID)
}

// A Link is a network interface as it is now.
type Link struct {
	Index  int // never given to another link of the namespace while this one exists
	Name   string
	MTU    int
	Up     bool   // set up by its administrator, with or without a carrier
	Kind   string // "bridge", "veth", "tun", …
	Alias  string
	Master int // index of the bridge it is a port of; 0: none
	MAC    string
}

// A NamespaceID tells a network namespace from all others there are.
type NamespaceID struct{ Dev, Inode uint64 }

// A Route is a way to a prefix.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // invalid: on the link itself
	Src     netip.Addr // what the host sends from by preference; invalid: the kernel's choice
	Index   int        // of the link
}

// A Bridge is what EnsureBridge makes.
type Bridge struct {
	Name, Alias string
	MTU         int
	Addrs       []netip.Prefix
}

// A Veth is what AddVeth makes: a cable from the host into a namespace.
type Veth struct {
	Host      string // name of the host's end
	Alias     string // of it
	Bridge    int    // index of the bridge it is a port of; 0: none, it is routed
	Namespace *Namespace
	Container string // name of the other end
	MTU       int
	Addrs     []netip.Prefix // of the other end
	Announce  []netip.Addr   // of those, the ones of IPv6 that neighbours may know of another container with another first IPv4 address
	Gateways  []netip.Addr   // its default routes, one of a family at most
	Routes    []netip.Prefix // what else it reaches through the cable
	Via       []netip.Addr   // the host's own addresses that answer for Routes, one of a family
}

// A LinkEvent is a link that was made or changed, or that is gone.
type LinkEvent struct {
	Link Link
	Gone bool
}

// A Firewall is what the host's rules for overlays are to be.
type Firewall struct {
	Devices []string       // WireGuard devices
	Bridges []string       // of services
	Inside  []netip.Prefix // whose traffic to the outside is masqueraded
	Cluster []netip.Prefix // never masqueraded, and never outside Devices and Bridges
	Ports   []Forward
	MTU     int // to which TCP's segments are clamped
}

// A Forward is a port of the host that leads to one of a container.
type Forward struct {
	Proto    string     // "tcp" or "udp"
	HostIP   netip.Addr // invalid: every one of the host's
	HostPort uint16
	To       netip.AddrPort
}

// A DropChain is a chain of nftables that somebody else has.
type DropChain struct {
	Family, Table, Name string // as nft(8) has them
	UserChain           string // one of the table that is for rules like ours; "": none
}
