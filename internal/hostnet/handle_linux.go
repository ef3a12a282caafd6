package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Handle reaches one network namespace, whatever thread it is used from. Its
// methods are safe for use by several goroutines; after Close there are none to
// be called. Errors wrap the system's: unix.EEXIST for what is there already,
// unix.ENODEV for a link that is not, unix.EPERM without CAP_NET_ADMIN.
type Handle struct {
	netlink *netlink.Handle
}

// Open returns a handle on the calling thread's network namespace.
func Open() (*Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Handle{h}, nil
}

// Close releases the handle. What it changed stays.
func (h *Handle) Close() { h.netlink.Close() }

// Link returns a link by its index.
func (h *Handle) Link(index int) (Link, error) {
	l, err := found(h.netlink.LinkByIndex(index))
	if err != nil {
		return Link{}, fmt.Errorf("look up link %d: %w", index, err)
	}
	return l, nil
}

// LinkByName returns a link by its name.
func (h *Handle) LinkByName(name string) (Link, error) {
	l, err := found(h.netlink.LinkByName(name))
	if err != nil {
		return Link{}, fmt.Errorf("look up link %s: %w", name, err)
	}
	return l, nil
}

func found(l netlink.Link, err error) (Link, error) {
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return Link{}, unix.ENODEV
	}
	if err != nil {
		return Link{}, err
	}
	a := l.Attrs()
	return Link{Index: a.Index, Name: a.Name, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}, nil
}

// SetMTU sets the largest packet a link takes.
func (h *Handle) SetMTU(index, mtu int) error {
	if err := h.netlink.LinkSetMTU(byIndex(index), mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	return nil
}

// SetQueue sets how many packets may wait to be transmitted by a link.
func (h *Handle) SetQueue(index, packets int) error {
	if err := h.netlink.LinkSetTxQLen(byIndex(index), packets); err != nil {
		return fmt.Errorf("set the transmit queue's length to %d: %w", packets, err)
	}
	return nil
}

// SetUp sets a link up.
func (h *Handle) SetUp(index int) error {
	if err := h.netlink.LinkSetUp(byIndex(index)); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// SetQuiet keeps the kernel from speaking on a link of its own accord: no IPv6
// link-local address, and so no router solicitations, and no multicast. Linux
// makes its own WireGuard interfaces so. It is for a link that is still down.
func (h *Handle) SetQuiet(index int) error {
	err := h.netlink.LinkSetIP6AddrGenMode(byIndex(index), addrGenModeNone)
	// A kernel without IPv6 has nothing to keep quiet.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("set IPv6 address generation off: %w", err)
	}
	if err := h.netlink.LinkSetMulticastOff(byIndex(index)); err != nil {
		return fmt.Errorf("set multicast off: %w", err)
	}
	return nil
}

// AddAddr gives an address to a link that is up; the rest of the prefix becomes
// reachable through it. The address is of use when AddAddr returns. An IPv6
// address is not probed for duplicates (RFC 4862 section 5.4): whoever gives it
// out knows that there are none.
func (h *Handle) AddAddr(index int, addr netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	} else {
		a.Broadcast = net.IPv4zero // none
	}
	err := h.netlink.AddrAdd(byIndex(index), a)
	if err == nil && addr.Addr().Is6() {
		err = h.awaitLocal(a.IP)
	}
	if err != nil {
		return fmt.Errorf("add address %v: %w", addr, err)
	}
	return nil
}

// awaitLocal waits for the kernel to take packets to an IPv6 address as its own,
// which it sees to in the background (addrconf_dad_work), in less than a
// millisecond unless it is busy.
func (h *Handle) awaitLocal(ip net.IP) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		routes, err := h.netlink.RouteGet(ip)
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the kernel does not use it: %w", os.ErrDeadlineExceeded)
		}
	}
}

// AddRoute makes a prefix reachable through a link that is up, without a gateway.
func (h *Handle) AddRoute(index int, dst netip.Prefix) error {
	err := h.netlink.RouteAdd(&netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(dst),
		Scope:     netlink.SCOPE_LINK,
		Protocol:  unix.RTPROT_STATIC,
	})
	if err != nil {
		return fmt.Errorf("add route %v: %w", dst, err)
	}
	return nil
}

func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
