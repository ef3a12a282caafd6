package wire

import (
	"maps"
	"net/netip"
	"slices"
)

// A Request is what a client asks of the daemon: one of the types in this file
// and in extension.go.
type Request interface {
	Op() string // the name of the operation, as in "attach_container"
}

// contract are the requests every daemon of the contract takes.
var contract = []Request{
	SetLocalNodeID{}, SetLocalWGPubkey{},
	SetupGlobalOverlay{}, TeardownGlobalOverlay{},
	SetupServiceOverlay{}, TeardownServiceOverlay{},
	AllocateIP{}, ReleaseIP{}, AttachContainer{}, DetachContainer{},
	AddPeer{}, RemovePeer{}, AddAllowedIP{}, RemoveAllowedIP{},
	RegisterDNS{}, UnregisterDNS{},
	StatusRequest{}, NATTick{}, Shutdown{},
}

var requests = newUnion("op", UnknownOp, Request.Op, slices.Concat(contract, extensions)...)

// Ops are the names of all operations, sorted.
func Ops() []string { return slices.Sorted(maps.Keys(requests.types)) }

// SetLocalNodeID tells the daemon the cluster's number for this node. Result: OK.
type SetLocalNodeID struct {
	NodeID uint64 `json:"node_id"`
}

// SetLocalWGPubkey tells the daemon the public key the cluster knows this node
// by. Result: OK.
type SetLocalWGPubkey struct {
	Pubkey string `json:"pubkey"`
}

// SetupGlobalOverlay brings the node's own WireGuard device up. Result:
// BridgeName, with the device's name.
type SetupGlobalOverlay struct {
	Deployment  string `json:"deployment"`
	InstanceID  string `json:"instance_id"`
	ClusterCIDR string `json:"cluster_cidr"`        // of all nodes
	SliceCIDR   string `json:"slice_cidr,omitzero"` // of this node
	WGPort      uint16 `json:"wg_port"`             // UDP
	NATEnabled  bool   `json:"nat_enabled"`         // whether to look for a way through NATs
}

// TeardownGlobalOverlay takes the node's own device down. Result: OK.
type TeardownGlobalOverlay struct{}

// SetupServiceOverlay makes the network of a service on this node. Result:
// ServiceOverlay.
type SetupServiceOverlay struct {
	Service string `json:"service"`
	Mode    Mode   `json:"mode"`
	Subnet  string `json:"subnet,omitzero"` // extension: instead of one the daemon picks
}

// TeardownServiceOverlay removes the network of a service. Result: OK.
type TeardownServiceOverlay struct {
	Service string `json:"service"`
}

// AllocateIP reserves an address of a service. Result: IP.
type AllocateIP struct {
	Service    string `json:"service"`
	JoinGlobal bool   `json:"join_global"`
}

// ReleaseIP returns an address that AllocateIP reserved. Result: OK.
type ReleaseIP struct {
	IP netip.Addr `json:"ip"`
}

// AttachContainer puts a container on the network of a service. Result:
// GuestConfig for a GuestManaged handle, else Attached.
type AttachContainer struct {
	Handle     Handle     `json:"handle"`
	Service    string     `json:"service"`
	JoinGlobal bool       `json:"join_global"`         // on the node's own network as well
	DNSServer  netip.Addr `json:"dns_server,omitzero"` // for the container to ask
	DNSDomain  string     `json:"dns_domain,omitzero"` // for it to search
	PublicKey  string     `json:"public_key,omitzero"` // extension: a guest's own key; its GuestConfig then has an empty private key
}

// DetachContainer takes a container off its networks. Result: OK.
type DetachContainer struct {
	Handle Handle `json:"handle"`
}

// AddPeer adds a peer, or changes the one with its key. Result: OK.
type AddPeer struct {
	PeerSpec
	Scope PeerScope `json:"scope"` // nil: GlobalScope
}

// RemovePeer removes a peer. Result: OK.
type RemovePeer struct {
	Pubkey string    `json:"pubkey"`
	Scope  PeerScope `json:"scope"` // nil: GlobalScope
}

// AddAllowedIP adds prefixes to what a peer may send from and is sent. Result: OK.
type AddAllowedIP struct {
	Pubkey string    `json:"pubkey"`
	CIDR   string    `json:"cidr"`
	Scope  PeerScope `json:"scope"` // nil: GlobalScope
}

// RemoveAllowedIP takes prefixes from a peer. Result: OK.
type RemoveAllowedIP struct {
	Pubkey string    `json:"pubkey"`
	CIDR   string    `json:"cidr"`
	Scope  PeerScope `json:"scope"` // nil: GlobalScope
}

// RegisterDNS gives a name an address. Result: OK.
type RegisterDNS struct {
	Name string     `json:"name"`
	IP   netip.Addr `json:"ip"`
	Mode DNSMode    `json:"mode,omitzero"` // extension: what becomes of the addresses it has
}

// UnregisterDNS removes a name. Result: OK.
type UnregisterDNS struct {
	Name string `json:"name"`
}

// StatusRequest asks how the node is. Result: Status.
type StatusRequest struct{}

// NATTick asks for one round of looking for a way through NATs. Result: OK.
type NATTick struct{}

// Shutdown asks the daemon to end. Result: OK, then the connection closes.
type Shutdown struct{}

func (SetLocalNodeID) Op() string         { return "set_local_node_id" }
func (SetLocalWGPubkey) Op() string       { return "set_local_wg_pubkey" }
func (SetupGlobalOverlay) Op() string     { return "setup_global_overlay" }
func (TeardownGlobalOverlay) Op() string  { return "teardown_global_overlay" }
func (SetupServiceOverlay) Op() string    { return "setup_service_overlay" }
func (TeardownServiceOverlay) Op() string { return "teardown_service_overlay" }
func (AllocateIP) Op() string             { return "allocate_ip" }
func (ReleaseIP) Op() string              { return "release_ip" }
func (AttachContainer) Op() string        { return "attach_container" }
func (DetachContainer) Op() string        { return "detach_container" }
func (AddPeer) Op() string                { return "add_peer" }
func (RemovePeer) Op() string             { return "remove_peer" }
func (AddAllowedIP) Op() string           { return "add_allowed_ip" }
func (RemoveAllowedIP) Op() string        { return "remove_allowed_ip" }
func (RegisterDNS) Op() string            { return "register_dns" }
func (UnregisterDNS) Op() string          { return "unregister_dns" }
func (StatusRequest) Op() string          { return "status" }
func (NATTick) Op() string                { return "nat_tick" }
func (Shutdown) Op() string               { return "shutdown" }
