package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overlayd/overlayd/packet"
)

// A TUN is a packet.Device that is a network interface of the host: what the
// host's own TCP/IP stack sends to it is read from it, and what is written to it
// the host receives.
//
// The interface is there from OpenTUN to Close and goes with the process, its
// addresses and routes with it. As WireGuard's own interfaces on Linux it has no
// IPv6 link-local address and no multicast, so that the host sends nothing
// through it of its own accord.
//
// Segmentation offload works both ways where the kernel has it: superpackets of
// TCP, and of UDP from Linux 6.2 on, are read and written whole.
//
// ReadBatch drops what is malformed, and WriteBatch what the host refuses;
// Batch.Drops then says why. Events keeps the latest events when nobody receives
// them. When somebody else removes the interface, ReadBatch and WriteBatch return
// a *TUNError that is fs.ErrNotExist.
type TUN struct {
	tunDevice
}

var _ packet.Device = (*TUN)(nil)

// TUNConfig is what OpenTUN makes. OpenTUN copies it.
type TUNConfig struct {
	// Name is the interface's name: 1 to 15 printable ASCII characters other than
	// "/" and ":". One "%d" in it stands for the lowest number that is free.
	// Default: "ovl%d".
	Name string

	// MTU is the largest packet in bytes: from 576 to 65475, and at least 1280
	// when there are IPv6 addresses or routes (RFC 8200 section 5). Default: 1420,
	// which WireGuard over IPv6 fits into an Ethernet frame.
	MTU int

	// Addrs are the interface's addresses, each with the length of its network,
	// which is reachable through the interface. Default: none.
	Addrs []netip.Prefix

	// Routes are further networks that are reachable through the interface.
	// Default: none.
	Routes []netip.Prefix

	// Lanes is how many queues the interface has, at most 256. The kernel keeps a
	// flow on one of them. Default: 1.
	Lanes int
}

// OpenTUN makes a network interface, in the calling thread's network namespace,
// gives it its addresses and routes, and sets it up; they are of use when it
// returns. It wants CAP_NET_ADMIN, and Linux: elsewhere the error is
// errors.ErrUnsupported.
//
// The error is a *ConfigError, or else a *TUNError. After an error there is no
// interface.
func OpenTUN(config TUNConfig) (*TUN, error) {
	config, err := config.checked()
	if err != nil {
		return nil, err
	}
	return openTUN(config)
}

var (
	// ErrTUNUnavailable is under the error of OpenTUN where the system has no TUN
	// driver, or keeps the process from it. Its text says what would help; a
	// netstack needs neither.
	ErrTUNUnavailable = errors.New("the system offers no TUN device")

	// ErrNameInUse is under the error of OpenTUN when there is an interface of that
	// name. It is not taken over, whatever it is.
	ErrNameInUse = errors.New("an interface has this name")
)

// A TUNError is an interface that could not be made, or that failed.
type TUNError struct {
	Name string // the interface's
	Op   string // "create", "configure", "read" or "write"
	Err  error  // why, and what to do where that is known
}

func (e *TUNError) Error() string {
	return fmt.Sprintf("overlay: TUN %s: %s: %v", e.Name, e.Op, e.Err)
}

func (e *TUNError) Unwrap() error { return e.Err }

const (
	defaultTUNName = "ovl%d"
	defaultMTU     = 1420
	minMTU6        = 1280 // RFC 8200 section 5

	maxLinkName = 15  // IFNAMSIZ of linux/if.h, less the final zero
	maxLanes    = 256 // MAX_TAP_QUEUES of linux/if_tap.h
)

// checked is c, cloned and with its defaults, or what is wrong with it.
func (c TUNConfig) checked() (TUNConfig, error) {
	c.Name = cmp.Or(c.Name, defaultTUNName)
	c.MTU = cmp.Or(c.MTU, defaultMTU)
	c.Lanes = cmp.Or(c.Lanes, 1)
	c.Addrs, c.Routes = slices.Clone(c.Addrs), slices.Clone(c.Routes)

	if err := checkLinkName(c.Name); err != nil {
		return c, &ConfigError{Field: "Name", Value: c.Name, Err: err}
	}
	if c.Lanes < 1 || c.Lanes > maxLanes {
		return c, &ConfigError{Field: "Lanes", Value: strconv.Itoa(c.Lanes), Err: fmt.Errorf("must be from 1 to %d", maxLanes)}
	}
	seen := make(map[netip.Addr]bool)
	for _, p := range c.Addrs {
		err := checkPrefix(p)
		switch a := p.Addr(); {
		case err != nil:
		case a.IsUnspecified() || a.IsMulticast():
			err = errors.New("is no address an interface can have")
		case seen[a]:
			err = errors.New("is given twice")
		}
		if err != nil {
			return c, &ConfigError{Field: "Addrs", Value: p.String(), Err: err}
		}
		seen[p.Addr()] = true
	}
	for i, p := range c.Routes {
		err := checkPrefix(p)
		switch {
		case err != nil:
		case p != p.Masked():
			err = fmt.Errorf("has bits set past its length: %v would do", p.Masked())
		case slices.Contains(c.Routes[:i], p):
			err = errors.New("is given twice")
		}
		if err != nil {
			return c, &ConfigError{Field: "Routes", Value: p.String(), Err: err}
		}
	}
	least := minMTU
	if slices.ContainsFunc(slices.Concat(c.Addrs, c.Routes), func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		least = minMTU6
	}
	if c.MTU < least || c.MTU > maxMTU {
		return c, &ConfigError{Field: "MTU", Value: strconv.Itoa(c.MTU), Err: fmt.Errorf("must be from %d to %d bytes", least, maxMTU)}
	}
	return c, nil
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("is no prefix: an address and a length, such as 10.200.0.1/16, is needed")
	case p.Addr().Is4In6():
		return fmt.Errorf("is an IPv4 address in an IPv6 one: use %v", p.Addr().Unmap())
	}
	return nil // a netip.Prefix has no zone
}

// checkLinkName refuses what Linux would (dev_valid_name, and the two names that
// sysctl has a meaning for), and what is not readable in a log.
func checkLinkName(name string) error {
	before, after, numbered := strings.Cut(name, "%d")
	switch {
	case len(name) > maxLinkName:
		return fmt.Errorf("is longer than %d bytes", maxLinkName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == ':' }):
		return errors.New(`must be of printable ASCII characters other than "/" and ":"`)
	case strings.Contains(before+after, "%"):
		return errors.New(`must have no "%" but in one "%d"`)
	case !numbered && slices.Contains([]string{".", "..", "all", "default"}, name):
		return errors.New("is reserved")
	}
	return nil
}
