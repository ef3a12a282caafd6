package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// What an [Error] wraps.
var (
	ErrExhausted  = errors.New("no free address or subnet is left")
	ErrTaken      = errors.New("already taken")
	ErrResting    = errors.New("released a moment ago and resting")
	ErrOutOfRange = errors.New("outside every pool")
	ErrNotUsable  = errors.New("not usable by a host")
	ErrNotHeld    = errors.New("not held by this owner")
	ErrNoPool     = errors.New("no such pool")
	ErrOverlap    = errors.New("overlaps what is there")
	ErrInUse      = errors.New("still in use")
	ErrInvalid    = errors.New("invalid")
)

// An Error says which operation failed, on what, for whom, and who is in the way.
type Error struct {
	Op     string       // "allocate", "release", "assign", …
	Prefix netip.Prefix // the pool or subnet, or the address with its full length
	Owner  Owner        // for whom; zero if for nobody
	Holder Owner        // who has it; zero if nobody
	Err    error        // one of this package's errors, or what the disk said
}

// Error is a sentence of the form
// "ipam: allocate 10.0.0.1 for node "b": already taken by node "a"".
func (e *Error) Error() string {
	var s strings.Builder
	s.WriteString("ipam: " + e.Op)
	switch {
	case e.Prefix.IsSingleIP():
		fmt.Fprintf(&s, " %s", e.Prefix.Addr())
	case e.Prefix.IsValid():
		fmt.Fprintf(&s, " %s", e.Prefix)
	}
	if e.Owner.Kind != "" {
		fmt.Fprintf(&s, " for %s", e.Owner)
	}
	fmt.Fprintf(&s, ": %v", e.Err)
	if e.Holder.Kind != "" {
		fmt.Fprintf(&s, " by %s", e.Holder)
	}
	return s.String()
}

// Unwrap is Err.
func (e *Error) Unwrap() error { return e.Err }

// single is an address as a prefix, for an Error.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
