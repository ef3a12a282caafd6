package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddr gives an address to a link that is up; the rest of the prefix becomes
// reachable through it. The address is of use when AddAddr returns. One that the
// link has already is no error, but with another length of its prefix it may be. An
// IPv6 address is not probed for duplicates (RFC 4862 section 5.4): whoever gives
// it out knows that there are none.
func (h *Handle) AddAddr(index int, addr netip.Prefix) error {
	err := h.addAddr(index, addr)
	if err == nil && addr.Addr().Is6() {
		err = h.awaitLocal(index, addr.Addr())
	}
	if err != nil {
		return fmt.Errorf("add address %v: %w", addr, err)
	}
	return nil
}

// addAddr is AddAddr without the wait for the kernel to use the address.
func (h *Handle) addAddr(index int, addr netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	} else {
		a.Broadcast = net.IPv4zero // none
	}
	err := h.netlink.AddrAdd(byIndex(index), a)
	if errors.Is(err, unix.EEXIST) {
		// For IPv6 the length may be another: an address is on a link once.
		has, listed := h.Addrs(index)
		if listed == nil && slices.Contains(has, addr) {
			return nil
		}
	}
	return err
}

// awaitLocal waits for the kernel to take packets to an IPv6 address of a link as its
// own, which it sees to in the background (addrconf_dad_work). That is in vain when the
// link is gone, or down.
func (h *Handle) awaitLocal(index int, addr netip.Addr) error {
	return await(func() error {
		routes, err := h.netlink.RouteGet(addr.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if err != nil && !noWay(err) {
			return fmt.Errorf("look up its route: %w", err)
		}
		link, gone := h.Link(index)
		if gone != nil {
			return gone
		}
		if !link.Up {
			return fmt.Errorf("%s is down: %w", link.Name, unix.ENETDOWN)
		}
		switch {
		case err != nil:
			return fmt.Errorf("the kernel does not use it on %s (%w): %w", link.Name, err, errNotYet)
		case len(routes) > 0:
			return fmt.Errorf("the kernel does not use it on %s, but sends what is for it to link %d: %w", link.Name, routes[0].LinkIndex, errNotYet)
		}
		return fmt.Errorf("the kernel does not use it on %s: %w", link.Name, errNotYet)
	})
}

// noWay reports whether an error is the kernel's for a destination it has no route to,
// or one that says so: unreachable, prohibit or blackhole (ip-route(8)).
func noWay(err error) bool {
	for _, no := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// DeleteAddr takes an address from a link. One that the link has not is no error.
func (h *Handle) DeleteAddr(index int, addr netip.Prefix) error {
	err := h.netlink.AddrDel(byIndex(index), &netlink.Addr{IPNet: ipNet(addr)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete address %v: %w", addr, err)
	}
	return nil
}

// Addrs returns the addresses of a link, IPv4's first.
func (h *Handle) Addrs(index int) ([]netip.Prefix, error) {
	var addrs []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := complete(func() ([]netlink.Addr, error) {
			return h.netlink.AddrList(byIndex(index), family)
		})
		if noFamily(family, err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range list {
			addrs = append(addrs, prefixOf(a.IPNet))
		}
	}
	return addrs, nil
}

// complete repeats a listing during which something changed, which may make the
// kernel leave out what did not.
func complete[T any](list func() ([]T, error)) ([]T, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		l, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || time.Now().After(deadline) {
			return l, err
		}
	}
}

// noFamily reports whether an error says that the kernel does not know IPv6.
func noFamily(family int, err error) bool {
	return family == netlink.FAMILY_V6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP))
}

// hasIPv6 reports whether the kernel knows IPv6, on whatever links it is allowed.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return !errors.Is(err, unix.EAFNOSUPPORT)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the inverse of ipNet, and the zero Prefix for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones)
}
