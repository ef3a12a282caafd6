package wireguard

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/overlayd/overlayd/packet"
)

// Config is what an engine needs to run.
type Config struct {
	PrivateKey [32]byte
	Device     packet.Device // read and written by the engine, closed by its owner
	Stages     packet.Chain

	ListenPort uint16 // UDP, the same for both families; 0: the system chooses
	FwMark     uint32 // SO_MARK of outgoing datagrams; 0: none

	Logger *slog.Logger // never nil; never sees a secret

	// Unreachable is called, off the data path, each time a peer did not answer
	// handshakes for some seconds, so that its endpoint's name can be resolved
	// again. It may call the engine, except for Close, which waits for it. It may
	// be called for several peers at once.
	Unreachable func(peer [32]byte)
}

// Peer is the wanted state of one peer.
type Peer struct {
	PublicKey    [32]byte
	PresharedKey [32]byte       // all zero: none
	Endpoint     netip.AddrPort // zero: leave as it is, or wait to be called
	AllowedIPs   []netip.Prefix // masked; no prefix belongs to two peers
	Keepalive    time.Duration  // zero: none
}

// PeerStatus is a peer as it is now.
type PeerStatus struct {
	Peer
	LastHandshake time.Time // zero: never
	RxBytes       uint64    // of datagrams, their headers included, as wg(8) counts
	TxBytes       uint64
	RxPackets     uint64 // IP packets, each segment counted
	TxPackets     uint64
}

// Stats counts everything since the engine started.
type Stats struct {
	RxPackets uint64 // from peers, before the stages; each segment counted
	TxPackets uint64 // to peers, after the stages
	RxBytes   uint64 // of those packets
	TxBytes   uint64
	Bounces   uint64                    // answered by a stage
	Drops     [packet.NumReasons]uint64 // by packet.Reason
}
