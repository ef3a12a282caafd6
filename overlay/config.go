package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/overlayd/overlayd/internal/wireguard"
	"github.com/overlayd/overlayd/packet"
)

// Config is what a node is made of. New copies it.
type Config struct {
	// PrivateKey is the node's identity. Required.
	PrivateKey PrivateKey

	// Device is where packets come from and go to. Required. Once New has
	// succeeded it is the node's, which closes it; after an error from New it is
	// still the caller's, and nothing was read from it.
	Device packet.Device

	// Stages look at every packet: in this order on the way to peers, in reverse
	// order on the way from them. Default: none.
	Stages []packet.Stage

	// ListenPort is the UDP port, the same for IPv4 and IPv6. Default: one the
	// system chooses; see Node.ListenPort.
	ListenPort uint16

	// FwMark marks outgoing datagrams for policy routing (SO_MARK on Linux, which
	// wants CAP_NET_ADMIN). Default: none.
	FwMark uint32

	// Engine is the implementation of WireGuard. Default: EngineDefault.
	Engine Engine

	// Resolver looks up endpoints that are host names. Default:
	// net.DefaultResolver.
	Resolver Resolver

	// Logger never sees a secret. Default: slog.Default().
	Logger *slog.Logger
}

// A Resolver finds the addresses of a host name; net.Resolver is one. A lookup
// ends with its context: Close waits for that.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// The bounds of a device's MTU: what every IPv4 host takes (RFC 791 section
// 3.1), and what a UDP datagram over IPv4 carries beside 32 bytes of WireGuard.
const (
	minMTU = 576
	maxMTU = 65535 - 20 - 8 - 32
)

var (
	errRequired      = errors.New("is required")
	errUnknownEngine = errors.New("is not an engine of this version")
)

// checked is c, cloned and with its defaults, or what is wrong with it.
func (c Config) checked() (Config, error) {
	switch {
	case c.PrivateKey.IsZero():
		return c, &ConfigError{Field: "PrivateKey", Err: errRequired}
	case c.Device == nil:
		return c, &ConfigError{Field: "Device", Err: errRequired}
	}
	if mtu := c.Device.MTU(); mtu < minMTU || mtu > maxMTU {
		return c, &ConfigError{Field: "Device.MTU", Value: strconv.Itoa(mtu),
			Err: fmt.Errorf("must be from %d to %d bytes", minMTU, maxMTU)}
	}
	if lanes := c.Device.Lanes(); lanes < 1 {
		return c, &ConfigError{Field: "Device.Lanes", Value: strconv.Itoa(lanes), Err: errors.New("must be at least 1")}
	}
	if i := slices.Index(c.Stages, nil); i >= 0 {
		return c, &ConfigError{Field: fmt.Sprintf("Stages[%d]", i), Err: errors.New("is nil")}
	}
	c.Stages = slices.Clone(c.Stages)
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

func (c Config) engine(unreachable func([32]byte)) wireguard.Config {
	return wireguard.Config{
		PrivateKey:  c.PrivateKey,
		Device:      c.Device,
		Stages:      c.Stages,
		ListenPort:  c.ListenPort,
		FwMark:      c.FwMark,
		Logger:      c.Logger,
		Unreachable: unreachable,
	}
}
