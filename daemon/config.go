package daemon

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
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
	// else, on Linux, overlayd in $XDG_STATE_HOME
	// or in ~/.local/state.
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

// socketGroup is the group that may use the socket besides the daemon's user.
const socketGroup = "overlayd"

// checked is c with its defaults, or what is wrong with it.
func (c Config) checked() (Config, error) {
	c, err := c.located()
	if err != nil {
		return c, err
	}
	if c.Listener == nil {
		if err := client.CheckEndpoint(c.Endpoint); err != nil {
			return c, err
		}
	}
	c.Mode = cmp.Or(c.Mode, ModeAuto)
	switch c.Mode {
	case ModeAuto, ModeTUN, ModeRootless:
	default:
		return c, fmt.Errorf("mode %q is none: it is %s, %s or %s", c.Mode, ModeAuto, ModeTUN, ModeRootless)
	}
	c.Zone = cmp.Or(strings.TrimSuffix(c.Zone, "."), "overlay.internal")
	c.Version = cmp.Or(c.Version, buildVersion())
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// located is c with the places it lives in.
func (c Config) located() (Config, error) {
	if c.Endpoint == "" && c.Listener == nil {
		var err error
		if c.DataDir != "" {
			c.Endpoint = client.DataDirEndpoint(c.DataDir)
		} else if c.Endpoint, err = client.DefaultEndpoint(); err != nil {
			return c, err
		}
	}
	if c.DataDir == "" {
		dir, err := defaultDataDir()
		if err != nil {
			return c, &Error{Code: wire.InvalidRequest, Msg: "data folder", Err: err}
		}
		c.DataDir = dir
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("data folder %s: %w", c.DataDir, err)
	}
	c.DataDir = dir
	return c, nil
}

// buildVersion is the version of the module that the program was built from.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return cmp.Or(strings.Trim(info.Main.Version, "()"), "devel")
	}
	return "devel"
}

// newBootID tells one run of the daemon from all others.
func newBootID() string { return strings.ToLower(rand.Text()) }
