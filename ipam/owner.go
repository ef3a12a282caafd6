package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"time"
	"unicode/utf8"
)

// An Owner is who holds an address or a subnet. Kind and ID are its identity;
// the rest is kept with what it holds, for finding out later whether it lives.
type Owner struct {
	Kind string // what it is: "node", "service", "container", "guest"
	ID   string // which one

	Boot   string            // boot id of the system it runs on, "" if it does not matter
	NetNS  uint64            // inode of its network namespace, 0 if it has none of its own
	Labels map[string]string // whatever else the caller wants to find again
}

// The kinds whose subnets are placed by the rule of [Tx.Assign] and which
// [Authority.Snapshot] knows.
const (
	KindNode    = "node"    // a node, by its id
	KindService = "service" // a service on a node
)

// String is the owner's identity, for messages.
func (o Owner) String() string { return fmt.Sprintf("%s %q", o.Kind, o.ID) }

// Is reports whether o and p are the same owner.
func (o Owner) Is(p Owner) bool { return o.Kind == p.Kind && o.ID == p.ID }

// equal reports whether the two say the same in every field.
func (o Owner) equal(p Owner) bool {
	return o.Is(p) && o.Boot == p.Boot && o.NetNS == p.NetNS && maps.Equal(o.Labels, p.Labels)
}

func (o Owner) clone() Owner {
	o.Labels = maps.Clone(o.Labels)
	return o
}

// An owner is kept with each address, so its size is bounded.
const (
	maxKindLen  = 64
	maxIDLen    = 1024
	maxBootLen  = 128
	maxLabels   = 64
	maxLabelLen = 1024 // of name and value together
)

// check reports what is wrong with an owner as an identity to be stored.
func (o Owner) check() error {
	switch {
	case o.Kind == "" || len(o.Kind) > maxKindLen || !utf8.ValidString(o.Kind):
		return fmt.Errorf("%w: an owner's kind is 1 to %d bytes of UTF-8, not %.80q", ErrInvalid, maxKindLen, o.Kind)
	case o.ID == "" || len(o.ID) > maxIDLen || !utf8.ValidString(o.ID):
		return fmt.Errorf("%w: an owner's id is 1 to %d bytes of UTF-8, not %.80q", ErrInvalid, maxIDLen, o.ID)
	case o.Boot != "" && (len(o.Boot) > maxBootLen || !utf8.ValidString(o.Boot)):
		return fmt.Errorf("%w: a boot id is at most %d bytes of UTF-8, not %.80q", ErrInvalid, maxBootLen, o.Boot)
	case len(o.Labels) > maxLabels:
		return fmt.Errorf("%w: %d labels are more than %d", ErrInvalid, len(o.Labels), maxLabels)
	}
	for k, v := range o.Labels {
		if len(k)+len(v) > maxLabelLen || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: label %.80q and its value are at most %d bytes of UTF-8", ErrInvalid, k, maxLabelLen)
		}
	}
	return nil
}

// checkNode reports what is wrong with the node of a service's subnet.
func checkNode(node string) error {
	if len(node) > maxIDLen || !utf8.ValidString(node) {
		return fmt.Errorf("%w: a node is at most %d bytes of UTF-8, not %.80q", ErrInvalid, maxIDLen, node)
	}
	return nil
}

// A Lease is one address and who holds it.
type Lease struct {
	Addr  netip.Addr
	Pool  netip.Prefix // the innermost pool or subnet the address is from
	Owner Owner
	Since time.Time // when it was given to this owner
}

// Prefix is the address with the length of its pool, as an interface wants it.
func (l Lease) Prefix() netip.Prefix { return netip.PrefixFrom(l.Addr, l.Pool.Bits()) }
