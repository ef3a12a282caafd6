package daemon

import (
	"log/slog"
	"net"
)

// A Mode says what the node's own overlay is made of.
type Mode string

const (
	ModeAuto     Mode = "auto"     // a TUN device if the system gives one, else as rootless
	ModeTUN      Mode = "tun"      // a TUN device of the kernel
	ModeRootless Mode = "rootless" // a TCP/IP stack in the daemon, which needs no privilege
)

// Config is what a daemon is made from.
type Config struct {
	// DataDir is where it keeps what survives. Default: /var/lib/overlayd as root,
	// else overlayd in $XDG_STATE_HOME.
	DataDir string
	// Endpoint is its socket. Default: run/overlayd.sock in DataDir if that is
	// given, else client.DefaultEndpoint.
	Endpoint string
	// Listener is the socket, made by somebody else, such as systemd; it is closed
	// in the end, and its file stays. Default: it makes Endpoint.
	Listener net.Listener
	// Mode. Default: ModeAuto.
	Mode Mode
	// Zone is the origin of the names it serves. Default: overlay.internal.
	Zone string
	// Version is what it says of itself. Default: from the build.
	Version string
	// Logger never sees a secret. Default: slog.Default().
	Logger *slog.Logger
}
