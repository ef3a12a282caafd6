package overlay

import (
	"fmt"

	"github.com/overlayd/overlayd/internal/wireguard"
)

// An Engine is an implementation of the WireGuard protocol and its data path.
// All of them speak the same protocol.
type Engine uint8

const (
	EngineDefault     Engine = iota // our own: each batch runs to completion
	EngineWireGuardGo               // golang.zx2c4.com/wireguard/device
)

// String is the name by which flags and reports know the engine.
func (e Engine) String() string {
	switch e {
	case EngineDefault:
		return "default"
	case EngineWireGuardGo:
		return "wireguard-go"
	}
	return fmt.Sprintf("engine(%d)", uint8(e))
}

// An engine runs from its construction until Close, or until its device or
// socket fails. The device is its owner's, who closes it before the engine so
// that reads end. AllowedIPs it is given are sorted, without duplicates, and no
// prefix is two peers'.
type engine interface {
	// SetPeers makes peers the whole set, in one change. Those that stay keep
	// their sessions, counters and, where Endpoint is zero, endpoint.
	SetPeers(peers []wireguard.Peer) error
	// SetPeer adds a peer or changes it in place.
	SetPeer(p wireguard.Peer) error
	// RemovePeer reports whether there was such a peer.
	RemovePeer(key [32]byte) bool
	Peers() []wireguard.PeerStatus
	Stats() wireguard.Stats
	// Port is the UDP port in use.
	Port() uint16
	// Done is closed when the engine ends; Err is why, if by itself.
	Done() <-chan struct{}
	Err() error
	// Close is idempotent, wipes secrets, and returns when the engine's
	// goroutines have ended.
	Close() error
}

func newEngine(kind Engine, cfg wireguard.Config) (engine, error) {
	switch kind {
	case EngineDefault:
		e, err := wireguard.New(cfg)
		if err != nil {
			return nil, err
		}
		return e, nil
	case EngineWireGuardGo:
		return newWireGuardGo(cfg)
	}
	return nil, &ConfigError{Field: "Engine", Value: kind.String(), Err: errUnknownEngine}
}
