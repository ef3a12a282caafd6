package wire

import (
	"net/netip"
	"slices"
)

// Version is the version of the contract described here.
const Version = 1

// Pipelining is the feature of answering the requests of one connection at once
// and in any order. Without it they are answered one by one.
const Pipelining = "pipelining"

// extensions are the requests only later daemons take.
var extensions = []Request{
	HelloRequest{}, SubscribeEvents{},
	ListAttachments{}, ListServices{}, ListLeases{}, ListPeers{}, ListDNS{},
	SetPeers{}, PublishPort{}, UnpublishPort{}, ListPorts{},
	Resolve{}, Explain{}, Ping{},
}

// IsExtension reports whether r is an op that a daemon may not know. One that
// does not answer HelloRequest with Hello knows none of them, and may hang up
// when it is asked.
func IsExtension(r Request) bool {
	return slices.ContainsFunc(extensions, func(e Request) bool { return e.Op() == r.Op() })
}

// HelloRequest is the first request on a connection, if the client wants to know
// whom it talks to or asks for features. Result: Hello.
type HelloRequest struct {
	Client   string   `json:"client"`            // name and version, for logs
	Versions []uint32 `json:"versions"`          // of the contract, that the client speaks
	Features []string `json:"features,omitzero"` // that it wants
}

// Hello says who answers, and what holds on this connection.
type Hello struct {
	Version   uint32   `json:"version"`             // of the contract, one of the client's
	Features  []string `json:"features,omitzero"`   // of those the client wants, the ones it gets
	BootID    string   `json:"boot_id"`             // another one after each start of the daemon
	Build     string   `json:"build"`               // version of the daemon
	Platform  string   `json:"platform"`            // as in "linux/amd64"
	Mode      string   `json:"mode"`                // "tun" or "rootless"
	PublicKey string   `json:"public_key,omitzero"` // the node's
}

// SubscribeEvents asks for events on this connection, in place of those asked for
// before. They begin to come after the result, OK. A client that does not read
// them is disconnected.
type SubscribeEvents struct {
	Events []string `json:"events,omitzero"` // kinds; none: all
}

// ListAttachments asks for the attached containers. Result: Attachments.
type ListAttachments struct {
	Service string `json:"service,omitzero"` // only those of this one
}

// Attachments are the attached containers.
type Attachments struct {
	Attachments []Attachment `json:"attachments"`
}

// An Attachment is a container on the overlay.
type Attachment struct {
	Handle        Handle         `json:"handle"`
	Service       string         `json:"service"`
	IP            netip.Addr     `json:"ip"`
	GlobalIP      netip.Addr     `json:"global_ip,omitzero"`
	Addresses     []netip.Prefix `json:"addresses,omitzero"`      // all it has, of both families
	Interface     string         `json:"interface,omitzero"`      // its name in the container
	HostInterface string         `json:"host_interface,omitzero"` // the other end's, on the host
	Since         int64          `json:"since_unix_secs"`
}

// ListServices asks for the services that are set up. Result: Services.
type ListServices struct{}

// Services are the services that are set up.
type Services struct {
	Services []Service `json:"services"`
}

// A Service is the network of a service on this node.
type Service struct {
	Service         string         `json:"service"`
	Mode            Mode           `json:"mode"`
	Name            string         `json:"name"` // of the bridge
	Subnets         []netip.Prefix `json:"subnets"`
	Gateways        []netip.Addr   `json:"gateways,omitzero"` // one in each subnet
	AttachmentCount uint32         `json:"attachment_count"`

	// Of a dedicated one.
	Interface  string     `json:"interface,omitzero"` // its WireGuard device
	PublicKey  string     `json:"public_key,omitzero"`
	ListenPort uint16     `json:"listen_port,omitzero"`
	OverlayIP  netip.Addr `json:"overlay_ip,omitzero"`
	PeerCount  uint32     `json:"peer_count,omitzero"`
}

// ListLeases asks for the addresses that are given out. Result: Leases.
type ListLeases struct {
	Service string `json:"service,omitzero"` // only those of this one's subnets
}

// Leases are the addresses that are given out.
type Leases struct {
	Leases []Lease `json:"leases"`
}

// A Lease is an address and who has it.
type Lease struct {
	IP    netip.Addr   `json:"ip"`
	Pool  netip.Prefix `json:"pool"`
	Kind  string       `json:"kind"`  // what the owner is: "node", "service", "container", "guest"
	Owner string       `json:"owner"` // which one: of a container its process, of a guest its id
	Since int64        `json:"since_unix_secs"`
}

// ListPeers asks for the peers of one device, or of all. Result: Peers.
type ListPeers struct {
	Scope PeerScope `json:"scope,omitzero"` // nil, and absent: all
}

// Peers are WireGuard peers.
type Peers struct {
	Peers []Peer `json:"peers"`
}

// A Peer is a peer and the device it belongs to.
type Peer struct {
	PeerStatus
	Scope PeerScope `json:"scope"`
}

// ListDNS asks for the names that are served. Result: DNS.
type ListDNS struct{}

// DNS is the names that are served, one record for each address.
type DNS struct {
	Zone    string      `json:"zone"`
	Records []DNSRecord `json:"records"`
}

// A DNSRecord is a name and one address of it.
type DNSRecord struct {
	Name string     `json:"name"` // relative to the zone
	IP   netip.Addr `json:"ip"`
	TTL  uint32     `json:"ttl_secs"`
}

// SetPeers makes the peers of a device exactly those given, in one change that is
// done whole or not at all. Result: PeersSet.
type SetPeers struct {
	Peers []PeerSpec `json:"peers"`
	Scope PeerScope  `json:"scope"` // nil: GlobalScope
}

// PeersSet is how many peers were touched.
type PeersSet struct {
	Added   uint32 `json:"added"`
	Changed uint32 `json:"changed"`
	Removed uint32 `json:"removed"`
}

// PublishPort makes a port of a container one of the host. Result: Port.
type PublishPort struct {
	Proto      Proto      `json:"proto"`            // TCP or UDP
	HostIP     netip.Addr `json:"host_ip,omitzero"` // none: all of the host's
	HostPort   uint16     `json:"host_port"`        // 0: one the daemon picks
	IP         netip.Addr `json:"ip"`               // the container's
	TargetPort uint16     `json:"target_port"`
}

// Port is a port that was published.
type Port struct {
	PublishedPort
}

// A PublishedPort is a port of the host that leads to one of a container.
type PublishedPort struct {
	Proto      Proto      `json:"proto"`
	HostIP     netip.Addr `json:"host_ip,omitzero"` // none: all of the host's
	HostPort   uint16     `json:"host_port"`
	IP         netip.Addr `json:"ip"`
	TargetPort uint16     `json:"target_port"`
}

// UnpublishPort ends what PublishPort began. Result: OK.
type UnpublishPort struct {
	Proto    Proto      `json:"proto"`
	HostIP   netip.Addr `json:"host_ip,omitzero"` // as it was published
	HostPort uint16     `json:"host_port"`
}

// ListPorts asks for the published ports. Result: Ports.
type ListPorts struct{}

// Ports are the published ports.
type Ports struct {
	Ports []PublishedPort `json:"ports"`
}

// Resolve asks the daemon's name server for the addresses of a name. Result:
// Resolved.
type Resolve struct {
	Name string `json:"name"` // relative to the zone, or in full
}

// Resolved is the addresses of a name.
type Resolved struct {
	Name string       `json:"name"` // in full
	IPs  []netip.Addr `json:"ips"`
	TTL  uint32       `json:"ttl_secs"`
}

// Explain asks what would become of a packet. Result: Explanation.
type Explain struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Proto Proto      `json:"proto,omitzero"`
	Port  uint16     `json:"port,omitzero"` // where it is going to
}

// Explanation is what would become of a packet, and why.
type Explanation struct {
	Verdict string `json:"verdict"`         // "delivered", "sent" to a peer, "forwarded" to the outside, "dropped"
	Reason  string `json:"reason,omitzero"` // of a drop, in snake case as in DropCount
	Path    []Hop  `json:"path"`            // from source to verdict
}

// A Hop is one thing that would happen to a packet.
type Hop struct {
	Part   string `json:"part"`   // what does it: "filter", "nat", "route", "peer", "service", …
	Detail string `json:"detail"` // what it does, in words
}

// Ping asks the daemon to ping an address on the overlay once. Result: Pong.
type Ping struct {
	IP netip.Addr `json:"ip"`
}

// Pong says that an address answered.
type Pong struct {
	IP     netip.Addr `json:"ip"`
	RTT    uint64     `json:"rtt_usecs"`       // round trip, microseconds
	Pubkey string     `json:"pubkey,omitzero"` // of the peer it lies behind; "": on this node
}

func (HelloRequest) Op() string    { return "hello" }
func (SubscribeEvents) Op() string { return "subscribe_events" }
func (ListAttachments) Op() string { return "list_attachments" }
func (ListServices) Op() string    { return "list_services" }
func (ListLeases) Op() string      { return "list_leases" }
func (ListPeers) Op() string       { return "list_peers" }
func (ListDNS) Op() string         { return "list_dns" }
func (SetPeers) Op() string        { return "set_peers" }
func (PublishPort) Op() string     { return "publish_port" }
func (UnpublishPort) Op() string   { return "unpublish_port" }
func (ListPorts) Op() string       { return "list_ports" }
func (Resolve) Op() string         { return "resolve" }
func (Explain) Op() string         { return "explain" }
func (Ping) Op() string            { return "ping" }

func (Hello) Result() string       { return "hello" }
func (Attachments) Result() string { return "attachments" }
func (Services) Result() string    { return "services" }
func (Leases) Result() string      { return "leases" }
func (Peers) Result() string       { return "peers" }
func (DNS) Result() string         { return "dns" }
func (PeersSet) Result() string    { return "peers_set" }
func (Port) Result() string        { return "port" }
func (Ports) Result() string       { return "ports" }
func (Resolved) Result() string    { return "resolved" }
func (Explanation) Result() string { return "explanation" }
func (Pong) Result() string        { return "pong" }
