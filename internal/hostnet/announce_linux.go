package hostnet

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announce tells the neighbours on a bridge where the addresses are now, who may know
// them from a container that had them before. For IPv4 the kernel does so (arp_notify)
// when a link is given a hardware address, be it the one that it has.
func (c *cable) announce(container *Handle, index int) error {
	err := container.netlink.LinkSetHardwareAddr(byIndex(index), c.containerMAC)
	for _, a := range c.Addrs {
		if err == nil && a.Addr().Is6() {
			err = container.advertise(index, a.Addr(), c.containerMAC)
		}
	}
	if err != nil {
		return fmt.Errorf("announce the addresses: %w", err)
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
