package wire

import "net/netip"

// A Handle names a container on this host: a LinuxPID, WindowsContainer or
// GuestManaged. Handles can be compared.
type Handle interface {
	Platform() string // "linux_pid", "windows_container", "guest_managed"
}

var handles = newUnion[Handle]("platform", "", Handle.Platform,
	LinuxPID{}, WindowsContainer{}, GuestManaged{})

// A LinuxPID is a container by a process in its network namespace.
type LinuxPID struct {
	PID uint32 `json:"pid"`
}

// A WindowsContainer is a container by its id, or by its HCN namespace's GUID, in
// lower case with hyphens and without braces.
type WindowsContainer struct {
	ContainerID string     `json:"container_id"`
	IP          netip.Addr `json:"ip,omitzero"` // to have that address
}

// A GuestManaged is a virtual machine, or anything else that runs WireGuard itself.
type GuestManaged struct {
	ID string `json:"id"`
}

func (LinuxPID) Platform() string         { return "linux_pid" }
func (WindowsContainer) Platform() string { return "windows_container" }
func (GuestManaged) Platform() string     { return "guest_managed" }

// A PeerScope says which WireGuard device a peer belongs to: GlobalScope or
// ServiceScope. nil in a request that has a scope means GlobalScope.
type PeerScope interface {
	Scope() string // "global", "service"
}

var scopes = newUnion[PeerScope]("scope", "", PeerScope.Scope, GlobalScope{}, ServiceScope{})

// GlobalScope is the node's own device.
type GlobalScope struct{}

// ServiceScope is the device of a service in ModeDedicated.
type ServiceScope struct {
	Service string `json:"service"`
}

func (GlobalScope) Scope() string  { return "global" }
func (ServiceScope) Scope() string { return "service" }

// A Mode says whose WireGuard device the traffic of a service takes.
type Mode string

const (
	ModeAuto      Mode = "auto"      // what the daemon thinks best
	ModeShared    Mode = "shared"    // the node's
	ModeDedicated Mode = "dedicated" // one of its own, with its own key and port
)

func (Mode) words() []string { return []string{"auto", "shared", "dedicated"} }

// A DNSMode says what becomes of the addresses a name has.
type DNSMode string

const (
	DNSReplace DNSMode = ""    // the one of the same family makes room
	DNSAdd     DNSMode = "add" // they stay
)

func (DNSMode) words() []string { return []string{"add"} }

// A Proto is a transport protocol.
type Proto string

const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	ICMP Proto = "icmp" // of either family; it has no ports
)

func (Proto) words() []string { return []string{"tcp", "udp", "icmp"} }

// A PeerSpec is the wanted state of a WireGuard peer.
type PeerSpec struct {
	PublicKey  string `json:"public_key"`
	Endpoint   string `json:"endpoint"`                  // host:port
	AllowedIPs string `json:"allowed_ips"`               // prefixes with commas between them
	Keepalive  uint64 `json:"persistent_keepalive_secs"` // 0: none
}

// A Secret is a private key. What prints or logs it, encoding/json included,
// shows "(secret)"; string(s) is the text itself.
type Secret string

// String is "(secret)".
func (Secret) String() string { return "(secret)" }

// GoString is "(secret)".
func (Secret) GoString() string { return "(secret)" }

// MarshalText is "(secret)".
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }
