package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddRoute makes a prefix reachable through a link that is up, without a gateway.
func (h *Handle) AddRoute(index int, dst netip.Prefix) error {
	return h.addRoute(Route{Dst: dst, Index: index})
}

func (h *Handle) addRoute(r Route) error {
	if err := h.netlink.RouteAdd(r.netlink()); err != nil {
		return fmt.Errorf("add route %v: %w", r.Dst, err)
	}
	return nil
}

// SetRoute makes a route through a link that is up, or puts it in the place of the
// one to the same prefix, whatever link that is through.
func (h *Handle) SetRoute(r Route) error {
	if err := h.netlink.RouteReplace(r.netlink()); err != nil {
		return fmt.Errorf("set route %v: %w", r.Dst, err)
	}
	return nil
}

// DeleteRoute removes a route through a link. One that is not there is no error.
// The gateway and the preferred source matter only where they are given.
func (h *Handle) DeleteRoute(r Route) error {
	n := r.netlink()
	n.Protocol, n.Scope = 0, unix.RT_SCOPE_NOWHERE // whichever it is
	err := h.netlink.RouteDel(n)
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete route %v: %w", r.Dst, err)
	}
	return nil
}

// Routes returns the routes through a link that somebody set: neither those the
// kernel makes for addresses, nor those a router advertised.
func (h *Handle) Routes(index int) ([]Route, error) {
	var routes []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := complete(func() ([]netlink.Route, error) {
			through := &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
			return h.netlink.RouteListFiltered(family, through, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		})
		if noFamily(family, err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			switch r.Protocol {
			case unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT:
				continue
			}
			routes = append(routes, toRoute(r, family))
		}
	}
	return routes, nil
}

func (r Route) netlink() *netlink.Route {
	n := &netlink.Route{
		LinkIndex: r.Index,
		Dst:       ipNet(r.Dst),
		Gw:        r.Gateway.AsSlice(),
		Src:       r.Src.AsSlice(),
		Protocol:  unix.RTPROT_STATIC,
	}
	if !r.Gateway.IsValid() {
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}

func toRoute(n netlink.Route, family int) Route {
	r := Route{Dst: prefixOf(n.Dst), Gateway: addrOf(n.Gw), Src: addrOf(n.Src), Index: n.LinkIndex}
	if !r.Dst.IsValid() { // to everywhere
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return r
}

// addrOf is invalid for an IP of no length.
func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
