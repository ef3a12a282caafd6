package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ErrUnknownPeer is returned when a change names a peer the node does not have.
var ErrUnknownPeer = errors.New("overlay: no such peer")

var errClosed = fmt.Errorf("overlay: node: %w", net.ErrClosed)

// A ConfigError is a setting that was refused; nothing was changed.
type ConfigError struct {
	Peer  PublicKey // the peer it concerns; zero: the node itself
	Field string    // the field of Config or Peer
	Value string    // the offending value, when it is no secret
	Err   error     // why, and what would do
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString("overlay: ")
	if !e.Peer.IsZero() {
		fmt.Fprintf(&b, "peer %v: ", e.Peer)
	}
	b.WriteString(e.Field)
	if e.Value != "" {
		fmt.Fprintf(&b, " %q", e.Value)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

func (e *ConfigError) Unwrap() error { return e.Err }

// An OverlapError is an allowed prefix that was refused because another peer
// has addresses of it; nothing was changed.
type OverlapError struct {
	Peer   PublicKey // the peer that was to get Prefix
	Prefix netip.Prefix
	Owner  PublicKey    // the peer that has Owned
	Owned  netip.Prefix // what overlaps Prefix
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("overlay: allowed IPs %v of peer %v overlap %v of peer %v: an address belongs to one peer",
		e.Prefix, e.Peer, e.Owned, e.Owner)
}
