// Package state keeps what the daemon knows across restarts and reboots: in one
// crash-safe file, and the node's private key in another. Leases are package
// ipam's and have a file of their own.
//
// The store is not where the daemon looks things up: it loads everything once,
// when it starts, and then only writes.
package state

import (
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// A Node is what there is one of.
type Node struct {
	// Installation tells the links of this overlayd from another's. It is here so that
	// it stays when the node's key is lost.
	Installation string `json:"installation,omitempty"`

	ID         uint64 `json:"id"`                    // the cluster's number for this node
	ClusterKey string `json:"cluster_key,omitempty"` // the public key the cluster knows this node by
	DNSServer  string `json:"dns_server,omitempty"`  // the last one a container was attached with
	DNSDomain  string `json:"dns_domain,omitempty"`

	Global *Global `json:"global,omitempty"` // nil: not set up

	// Sysctls are the values of what the daemon changed, before it did.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

// A Global is the node's own overlay, as it was set up.
type Global struct {
	Deployment string         `json:"deployment"`
	InstanceID string         `json:"instance_id"`
	Cluster    []netip.Prefix `json:"cluster"`
	Slice      []netip.Prefix `json:"slice,omitempty"`
	Port       uint16         `json:"port"`
	NAT        bool           `json:"nat"`
	Addrs      []netip.Prefix `json:"addrs"`     // the node's, with the clusters' lengths
	Interface  string         `json:"interface"` // "": there is none, the node is rootless
}

// A Service is the network of a service on this node.
type Service struct {
	Name    string         `json:"name"`
	Mode    wire.Mode      `json:"mode"` // ModeShared or ModeDedicated
	Bridge  string         `json:"bridge"`
	Subnets []netip.Prefix `json:"subnets"`

	// Of a dedicated one.
	Interface  string             `json:"interface,omitempty"`
	PrivateKey overlay.PrivateKey `json:"private_key,omitzero"`
	Port       uint16             `json:"port,omitempty"`
}

// A Peer is a peer as it was asked for.
type Peer struct {
	Service string `json:"service,omitempty"` // whose device has it; "": the node's
	wire.PeerSpec
}

// An Attachment is a container on the overlay.
type Attachment struct {
	ID         string         `json:"id"`              // tells it from all others, also from later ones of the same handle
	PID        uint32         `json:"pid,omitempty"`   // of a wire.LinuxPID
	Guest      string         `json:"guest,omitempty"` // the id of a wire.GuestManaged
	Service    string         `json:"service"`
	JoinGlobal bool           `json:"join_global,omitempty"`
	Addrs      []netip.Prefix `json:"addrs"`            // of the service, with its subnets' lengths
	Global     []netip.Prefix `json:"global,omitempty"` // of the node's own network
	DNSServer  netip.Addr     `json:"dns_server,omitzero"`
	DNSDomain  string         `json:"dns_domain,omitempty"`
	Since      int64          `json:"since"` // Unix seconds

	// Of a wire.LinuxPID.
	Boot       string `json:"boot,omitempty"`        // boot id of the host
	Namespace  uint64 `json:"namespace,omitempty"`   // inode of its network namespace
	Link       string `json:"link,omitempty"`        // the host's end of eth0
	GlobalLink string `json:"global_link,omitempty"` // and of eth1

	// Of a wire.GuestManaged.
	PublicKey  overlay.PublicKey  `json:"public_key,omitzero"`
	PrivateKey overlay.PrivateKey `json:"private_key,omitzero"` // zero: the guest has its own
}

// A Record is an address of a name.
type Record struct {
	Name string     `json:"name"` // relative to the zone
	IP   netip.Addr `json:"ip"`
}

// A State is everything there is.
type State struct {
	Node        Node
	Services    []Service
	Peers       []Peer
	Attachments []Attachment
	Records     []Record
	Ports       []wire.PublishedPort
}
