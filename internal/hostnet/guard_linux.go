package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Guards are known by their type, by who they say has set them, a number that
// nobody has in rt_protos of iproute2, and by a metric that any other way to the same
// prefix is better than.
const (
	guardProtocol = 0x6f
	guardMetric   = 1 << 30
)

// AddGuard has the host refuse, as unreachable, what is for a prefix and has no way
// of its own: neither one to the whole prefix, through whatever link, nor one to a
// part of it. Without a guard it would take the way to all that is around the prefix,
// such as the default route. A guard that is there is no error.
func (h *Handle) AddGuard(dst netip.Prefix) error {
	err := h.netlink.RouteAdd(guard(dst))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add guard of %v: %w", dst, err)
	}
	return nil
}

// DeleteGuard removes a guard. One that is not there is no error.
func (h *Handle) DeleteGuard(dst netip.Prefix) error {
	err := h.netlink.RouteDel(guard(dst))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete guard of %v: %w", dst, err)
	}
	return nil
}

// Guards returns the prefixes that have a guard.
func (h *Handle) Guards() (guards []netip.Prefix, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := complete(func() ([]netlink.Route, error) {
			like := &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNREACHABLE, Protocol: guardProtocol}
			return h.netlink.RouteListFiltered(family, like, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PROTOCOL)
		})
		if noFamily(family, err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list guards: %w", err)
		}
		for _, r := range list {
			if r.Priority == guardMetric {
				guards = append(guards, toRoute(r, family).Dst)
			}
		}
	}
	return guards, nil
}

func guard(dst netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(dst), Type: unix.RTN_UNREACHABLE, Protocol: guardProtocol, Priority: guardMetric, Table: unix.RT_TABLE_MAIN}
}
