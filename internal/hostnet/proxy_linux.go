package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SetProxy has the host answer on a link for an address that it reaches through
// another one, so that neighbours send it what is for that address (proxy ARP, RFC
// 1027, and neighbour discovery, RFC 4861 section 7.2.8). It goes with the link.
func (h *Handle) SetProxy(index int, addr netip.Addr) error {
	if addr.Is6() {
		link, err := h.Link(index)
		if err == nil {
			err = h.namespace.do(func() error {
				return WriteSysctl("net.ipv6.conf."+strings.ReplaceAll(link.Name, ".", "/")+".proxy_ndp", "1")
			})
		}
		if err != nil {
			return fmt.Errorf("answer for %v: %w", addr, err)
		}
	}
	if err := h.netlink.NeighSet(proxyOf(index, addr)); err != nil {
		return fmt.Errorf("answer for %v: %w", addr, err)
	}
	return nil
}

// DeleteProxy undoes SetProxy for an address. One that is not there is no error.
func (h *Handle) DeleteProxy(index int, addr netip.Addr) error {
	err := h.netlink.NeighDel(proxyOf(index, addr))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("answer no longer for %v: %w", addr, err)
	}
	return nil
}

func proxyOf(index int, addr netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Flags: netlink.NTF_PROXY, IP: addr.AsSlice()}
}
