package wire

import (
	"maps"
	"net/netip"
	"slices"
)

// An Event is something that happened, sent to clients that subscribed: one of
// the types in this file. PeerHealthChanged and NATEndpointChanged are the
// contract's, the others extensions.
type Event interface {
	Kind() string // "peer_health_changed", …
}

var events = newUnion[Event]("event", UnknownEvent, Event.Kind,
	PeerHealthChanged{}, NATEndpointChanged{},
	AttachmentChanged{}, LeasesLow{}, Degraded{}, Recovered{})

// EventKinds are the names of all events, sorted.
func EventKinds() []string { return slices.Sorted(maps.Keys(events.types)) }

// PeerHealthChanged says that a peer began or ceased to answer.
type PeerHealthChanged struct {
	Pubkey  string `json:"pubkey"`
	Healthy bool   `json:"healthy"`
}

// NATEndpointChanged says that a peer is reached at another address.
type NATEndpointChanged struct {
	Pubkey   string `json:"pubkey"`
	Endpoint string `json:"endpoint"` // host:port
}

// AttachmentChanged says that a container was attached or is no longer, whether
// it was detached or died.
type AttachmentChanged struct {
	Handle   Handle     `json:"handle"`
	Service  string     `json:"service"`
	IP       netip.Addr `json:"ip"`
	Attached bool       `json:"attached"`
	Reason   string     `json:"reason,omitzero"` // why it is no longer, in words
}

// LeasesLow says that a pool is nearly used up.
type LeasesLow struct {
	Pool    netip.Prefix `json:"pool"`
	Service string       `json:"service,omitzero"` // whose it is; "": the node's
	Used    uint64       `json:"used"`
	Size    uint64       `json:"size"`
}

// Degraded says that a part of the daemon does not work as it should.
type Degraded struct {
	Part   string `json:"part"`   // as in "dns"
	Reason string `json:"reason"` // in words
}

// Recovered says that a part that was Degraded works again.
type Recovered struct {
	Part string `json:"part"`
}

func (PeerHealthChanged) Kind() string  { return "peer_health_changed" }
func (NATEndpointChanged) Kind() string { return "nat_endpoint_changed" }
func (AttachmentChanged) Kind() string  { return "attachment_changed" }
func (LeasesLow) Kind() string          { return "leases_low" }
func (Degraded) Kind() string           { return "degraded" }
func (Recovered) Kind() string          { return "recovered" }
