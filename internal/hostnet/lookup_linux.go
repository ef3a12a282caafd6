package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LookupRoute asks the kernel where it sends a packet from src to dst that comes
// in through a link, or, when that is 0, that the host itself sends; then src may
// be invalid. Rules for routing and checks of the source count. local is whether
// the host takes the packet for itself.
//
// The error wraps what the kernel answers such a packet with: unix.ENETUNREACH or
// unix.EHOSTUNREACH when there is no route or the host does not forward,
// unix.EXDEV when the source cannot come from there.
func (h *Handle) LookupRoute(dst, src netip.Addr, from int) (r Route, local bool, err error) {
	list, err := h.netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: src.AsSlice(), IifIndex: from})
	if err == nil && len(list) == 0 {
		err = errors.New("the kernel names none")
	}
	if err != nil {
		return Route{}, false, fmt.Errorf("look up route to %v: %w", dst, err)
	}
	found := list[0]
	r = Route{
		Dst:     netip.PrefixFrom(dst, dst.BitLen()),
		Gateway: addrOf(found.Gw),
		Src:     addrOf(found.Src),
		Index:   found.LinkIndex,
	}
	return r, found.Type == unix.RTN_LOCAL, nil
}
