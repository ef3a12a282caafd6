package hostnet

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// containerMAC is the hardware address of a container's end: one of those that are for
// everyone to give (IEEE 802 section 8.4.4), made from the address it is the best known
// by, its first of IPv4 or else of IPv6, as Docker does. Neighbours who knew a container
// that had the address before know this one, and nothing need be said to a thousand of
// them.
func containerMAC(addrs []netip.Prefix) net.HardwareAddr {
	if i := known(addrs); i >= 0 && !is6(addrs[i]) {
		return append(net.HardwareAddr{0x02, 'o'}, addrs[i].Addr().AsSlice()...)
	} else if i >= 0 {
		sum := fnv.New64a()
		sum.Write(addrs[i].Addr().AsSlice())
		return append(net.HardwareAddr{0x06}, sum.Sum(nil)[:5]...)
	}
	return newMAC()
}

// known is the index of the address that a hardware address is made from, -1 of none.
func known(addrs []netip.Prefix) int {
	if i := slices.IndexFunc(addrs, func(p netip.Prefix) bool { return !is6(p) }); i >= 0 {
		return i
	}
	return min(len(addrs), 1) - 1
}

// announce tells the neighbours on a bridge where the addresses of IPv6 are now that
// the hardware address is not made from.
func (c *cable) announce(container *Handle, index int) error {
	for i, a := range c.Addrs {
		if !is6(a) || i == known(c.Addrs) {
			continue
		}
		if err := container.advertise(index, a.Addr(), c.containerMAC); err != nil {
			return fmt.Errorf("announce %v: %w", a.Addr(), err)
		}
	}
	return nil
}

// advertise sends an unsolicited neighbour advertisement (RFC 4861 section 7.2.6). The
// kernel would too, with ndisc_notify, which can only be set below /proc/sys.
func (h *Handle) advertise(index int, addr netip.Addr, mac net.HardwareAddr) error {
	message := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // section 4.4; the override flag, and a checksum for the kernel to fill in
	message = append(message, addr.AsSlice()...)
	message = append(message, 2, 1) // target link-layer address, eight bytes (section 4.6.1)
	message = append(message, mac...)
	return h.namespace.do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.As16()}); err != nil {
			return err
		}
		all := netip.MustParseAddr("ff02::1").As16()
		return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: all, ZoneId: uint32(index)})
	})
}
