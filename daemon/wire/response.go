package wire

import "net/netip"

// A Response is the answer to a request: one of the types in this file and in
// extension.go.
type Response interface {
	Result() string // "ok", "err", …
}

var responses = newUnion[Response]("result", UnknownResult, Response.Result,
	OK{}, IP{}, Attached{}, GuestConfig{}, BridgeName{}, Status{}, ServiceOverlay{}, Err{},

	Hello{}, Attachments{}, Services{}, Leases{}, Peers{}, DNS{},
	PeersSet{}, Port{}, Ports{}, Resolved{}, Explanation{}, Pong{},
)

// OK says that it is done.
type OK struct{}

// IP is an address that was reserved.
type IP struct {
	IP netip.Addr `json:"ip"`
}

// Attached says where a container is on the overlay. From Gateway on the fields
// are extensions.
type Attached struct {
	IP            netip.Addr     `json:"ip"`
	NamespaceGUID string         `json:"namespace_guid,omitzero"` // Windows: of the HCN namespace
	Gateway       netip.Addr     `json:"gateway,omitzero"`
	PrefixLen     uint8          `json:"prefix_len,omitzero"` // of the subnet IP is in
	MTU           uint32         `json:"mtu,omitzero"`
	Interface     string         `json:"interface,omitzero"` // its name in the container
	GlobalIP      netip.Addr     `json:"global_ip,omitzero"` // on the node's own network, if it joined
	DNSServer     netip.Addr     `json:"dns_server,omitzero"`
	Addresses     []netip.Prefix `json:"addresses,omitzero"` // all it has, of both families, with their subnets' lengths
}

// GuestConfig is what a guest needs to run WireGuard itself.
type GuestConfig struct {
	OverlayIP  netip.Addr `json:"overlay_ip"`
	PrefixLen  uint8      `json:"prefix_len"`
	PrivateKey Secret     `json:"private_key"` // empty if the guest brought its own key
	PublicKey  string     `json:"public_key"`  // the guest's
	ListenPort uint16     `json:"listen_port"`
	Peers      []PeerSpec `json:"peers"` // the node, at its address on the overlay: put one there that the guest reaches, and keep the port
	DNSServer  netip.Addr `json:"dns_server,omitzero"`
	DNSDomain  string     `json:"dns_domain,omitzero"`

	Addresses []netip.Prefix `json:"addresses,omitzero"` // extension: all it has, of both families, with the lengths of what they are of
}

// BridgeName is the name of the network interface that was set up.
type BridgeName struct {
	Name string `json:"name"`
}

// ServiceOverlay is the network of a service. The last four fields are there if
// Mode is ModeDedicated.
type ServiceOverlay struct {
	Name        string     `json:"name"` // of the bridge
	Mode        Mode       `json:"mode"` // the one in force, never ModeAuto
	WGPublicKey string     `json:"wg_public_key,omitzero"`
	WGPort      uint16     `json:"wg_port,omitzero"`
	OverlayIP   netip.Addr `json:"overlay_ip,omitzero"`
	Subnet      string     `json:"subnet,omitzero"`
}

// Status is how the node is. From Version on the fields are extensions.
type Status struct {
	Interface         string             `json:"interface,omitzero"` // the node's own device
	NodeIP            netip.Addr         `json:"node_ip,omitzero"`
	PublicKey         string             `json:"public_key,omitzero"`
	OverlayCIDR       string             `json:"overlay_cidr,omitzero"` // of all nodes
	SliceCIDR         string             `json:"slice_cidr,omitzero"`   // of this node
	PeerCount         uint32             `json:"peer_count"`            // of the node's own device
	ServiceCount      uint32             `json:"service_count"`
	Peers             []PeerStatus       `json:"peers,omitzero"`
	DedicatedServices []DedicatedService `json:"dedicated_services,omitzero"`

	Version         string         `json:"version,omitzero"` // of the daemon
	BootID          string         `json:"boot_id,omitzero"` // another one after each start of the daemon
	Mode            string         `json:"mode,omitzero"`    // "tun" or "rootless"
	Uptime          uint64         `json:"uptime_secs,omitzero"`
	ListenPort      uint16         `json:"listen_port,omitzero"`
	MTU             uint32         `json:"mtu,omitzero"`
	Addresses       []netip.Prefix `json:"addresses,omitzero"` // all the node's, of both families
	AttachmentCount uint32         `json:"attachment_count,omitzero"`
	Leases          []PoolStatus   `json:"leases,omitzero"`
	DNS             DNSStatus      `json:"dns,omitzero"`
	NAT             NATStatus      `json:"nat,omitzero"`
	Drops           []DropCount    `json:"drops,omitzero"`
	Warnings        []string       `json:"warnings,omitzero"` // a sentence each
}

// PeerStatus is how a peer is. From Address on the fields are extensions.
type PeerStatus struct {
	PublicKey     string `json:"public_key"`
	Endpoint      string `json:"endpoint"`    // as it was given; may be empty
	AllowedIPs    string `json:"allowed_ips"` // with commas between them
	LastHandshake int64  `json:"last_handshake_unix_secs"`

	Address      netip.Addr `json:"address,omitzero"` // where it is now
	Port         uint16     `json:"port,omitzero"`
	HandshakeAge uint64     `json:"handshake_age_secs,omitzero"` // of the last one, by the daemon's clock
	RxBytes      uint64     `json:"rx_bytes,omitzero"`
	TxBytes      uint64     `json:"tx_bytes,omitzero"`
	Keepalive    uint64     `json:"persistent_keepalive_secs,omitzero"`
	Healthy      bool       `json:"healthy,omitzero"`
}

// DedicatedService is the device of a service in ModeDedicated.
type DedicatedService struct {
	Service    string     `json:"service"`
	Interface  string     `json:"interface"`
	PublicKey  string     `json:"public_key"`
	ListenPort uint16     `json:"listen_port"`
	OverlayIP  netip.Addr `json:"overlay_ip"`
	Subnet     string     `json:"subnet"`
	PeerCount  uint32     `json:"peer_count"`
}

// PoolStatus is how many addresses of a pool are given out.
type PoolStatus struct {
	Pool    netip.Prefix `json:"pool"`
	Service string       `json:"service,omitzero"` // whose it is; "": the node's
	Used    uint64       `json:"used"`
	Size    uint64       `json:"size"` // addresses a host can have; 2^64-1 stands for all above
}

// DNSStatus is how the name server is.
type DNSStatus struct {
	Zone      string       `json:"zone"`
	Addresses []netip.Addr `json:"addresses,omitzero"` // where it answers, on port 53
	Names     uint32       `json:"name_count"`
	Queries   uint64       `json:"queries"`
	Failures  uint64       `json:"failures"` // queries that got no usable answer
}

// NATStatus is how the node is reached from outside.
type NATStatus struct {
	Enabled   bool   `json:"enabled"`
	Kind      string `json:"kind,omitzero"`            // of the NAT in front of the node, if one was found
	Endpoint  string `json:"public_endpoint,omitzero"` // host:port others see
	LastTick  int64  `json:"last_tick_unix_secs,omitzero"`
	PortCount uint32 `json:"port_count,omitzero"` // published ones
}

// DropCount is how many packets were dropped for a reason.
type DropCount struct {
	Reason  string `json:"reason"` // in snake case
	Packets uint64 `json:"packets"`
}

// Err says that a request was refused or failed, and changed nothing unless the
// message says so. From Code on the fields are extensions.
type Err struct {
	Message   string `json:"message"`            // for people
	Code      Code   `json:"code,omitzero"`      // for programs; "" from a daemon without extensions
	Retryable bool   `json:"retryable,omitzero"` // whether the same request may succeed later
	Field     string `json:"field,omitzero"`     // the path of the request's field at fault, as in "handle.pid"
}

func (OK) Result() string             { return "ok" }
func (IP) Result() string             { return "ip" }
func (Attached) Result() string       { return "attached" }
func (GuestConfig) Result() string    { return "guest_config" }
func (BridgeName) Result() string     { return "bridge_name" }
func (ServiceOverlay) Result() string { return "service_overlay" }
func (Status) Result() string         { return "status" }
func (Err) Result() string            { return "err" }
