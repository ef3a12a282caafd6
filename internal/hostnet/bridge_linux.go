package hostnet

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// EnsureBridge makes a bridge, or takes the one of that name and makes it what is
// asked for, and tells whether it made it. It takes one that carries the alias, or
// has no alias and no ports, as one that was being made when its maker died; another
// is ErrForeign. The bridge has the addresses that are asked for and no others but
// link-local ones, all of use on return. Without IPv6 in the kernel it has those of
// IPv4. After an error nothing is left of a bridge that was made.
//
// The bridge keeps its MTU and its hardware address whatever its ports are: else
// neighbours would look for it in vain when the port it got its address from goes.
func (h *Handle) EnsureBridge(b Bridge) (_ Link, made bool, err error) {
	link, err := h.LinkByName(b.Name)
	if errors.Is(err, unix.ENODEV) {
		if err = h.addBridge(b.Name); err == nil {
			made = true
			link, err = h.LinkByName(b.Name)
		}
	}
	if err == nil && !made {
		err = h.checkOurs(link, b)
	}
	if err == nil {
		err = h.converge(link, b)
	}
	now := link
	if err == nil {
		now, err = h.Link(link.Index)
	}
	if err != nil {
		if made {
			err = errors.Join(err, h.deleteNew(b.Name, link.Index))
		}
		return Link{}, false, fmt.Errorf("bridge %s: %w", b.Name, err)
	}
	return now, made, nil
}

func (h *Handle) checkOurs(link Link, b Bridge) error {
	switch {
	case link.Kind != "bridge":
		return fmt.Errorf("there is a link of this name, a %s: %w", link.Kind, ErrForeign)
	case link.Alias == b.Alias:
		return nil
	case link.Alias != "":
		return fmt.Errorf("there is one with alias %q, not %q: %w", link.Alias, b.Alias, ErrForeign)
	}
	links, err := h.Links()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(links, func(l Link) bool { return l.Master == link.Index }); i >= 0 {
		return fmt.Errorf("there is one without alias, with %s as its port: %w", links[i].Name, ErrForeign)
	}
	return nil
}

// converge makes a bridge what it is to be. The alias, by which we know it, comes
// when it is whole but for its addresses.
func (h *Handle) converge(link Link, b Bridge) error {
	if err := h.setBridge(link); err != nil {
		return err
	}
	// The kernel has the MTU follow the ports' until one is set that is not what it
	// is already.
	if link.Alias == "" && link.MTU == b.MTU {
		if err := h.SetMTU(link.Index, b.MTU-1); err != nil {
			return err
		}
		link.MTU--
	}
	if link.MTU != b.MTU {
		if err := h.SetMTU(link.Index, b.MTU); err != nil {
			return err
		}
	}
	if err := h.setNoLinkLocal(link.Index); err != nil {
		return err
	}
	if err := h.confine(link.Name, slices.ContainsFunc(b.Addrs, is6)); err != nil {
		return err
	}
	if link.Alias != b.Alias {
		if err := h.SetAlias(link.Index, b.Alias); err != nil {
			return err
		}
	}
	if err := h.SetUp(link.Index); err != nil {
		return err
	}
	return h.setAddrs(link, b.Addrs)
}

// setAddrs gives a link these addresses and a link-local one, which the kernel
// sends neighbour solicitations from for what it forwards (ndisc_send_ns), and takes
// others from it.
func (h *Handle) setAddrs(link Link, addrs []netip.Prefix) error {
	want := slices.Clone(addrs)
	if slices.ContainsFunc(addrs, is6) {
		if !hasIPv6() {
			want = slices.DeleteFunc(want, is6)
		} else if mac, err := net.ParseMAC(link.MAC); err == nil {
			want = append(want, linkLocal(mac))
		}
	}
	has, err := h.Addrs(link.Index)
	if err != nil {
		return err
	}
	for _, a := range has {
		if !slices.Contains(want, a) && !a.Addr().IsLinkLocalUnicast() {
			if err := h.DeleteAddr(link.Index, a); err != nil {
				return err
			}
		}
	}
	// Added also when they are there: IPv4's last address may have taken others with
	// it (promote_secondaries).
	for _, a := range want {
		if err := h.AddAddr(link.Index, a); err != nil {
			return err
		}
	}
	return nil
}

// confine keeps what others send on one of the host's links from changing how the host
// reaches the world: no routes by IPv6 router advertisements. With it IPv6 is allowed
// on the link, if it is to be used and off by default. Where the kernel has no such
// parameters, or they are not ours to write (in a container they often are mounted
// read-only), they stay as they are.
func (h *Handle) confine(link string, six bool) error {
	return h.namespace.do(func() error {
		_ = writeParameter("/proc/sys/net/ipv6/conf/"+link+"/accept_ra", "0")
		if six {
			allowIPv6(link)
		}
		return nil
	})
}

// allowIPv6 turns IPv6 on for a link of the calling thread's namespace.
func allowIPv6(link string) {
	_ = writeParameter("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", "0")
}

// addBridge makes a bridge with a hardware address of its own.
func (h *Handle) addBridge(name string) error {
	return h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, newMAC()),
		bridgeInfo(nl.IFLA_BR_STP_STATE))
}

// setBridge sets what we want of every bridge, and makes the hardware address it
// has one that it keeps.
func (h *Handle) setBridge(link Link) error {
	mac, err := net.ParseMAC(link.MAC)
	if err != nil {
		return err
	}
	// Before the rest, as with spanning tree there is no forwarding without delay.
	if err := h.request(unix.RTM_NEWLINK, 0, link.Index, bridgeInfo(nl.IFLA_BR_STP_STATE)); err != nil {
		return err
	}
	return h.request(unix.RTM_NEWLINK, 0, link.Index, nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
		bridgeInfo(nl.IFLA_BR_FORWARD_DELAY, nl.IFLA_BR_MCAST_SNOOPING))
}

// bridgeInfo turns off attributes of a bridge that keep it from forwarding at once:
// spanning tree, for which there are no loops, its delay, and snooping on multicast,
// which holds back what a new port has not asked for yet.
func bridgeInfo(off ...int) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for _, attr := range off {
		zero := make([]byte, 4)
		if attr == nl.IFLA_BR_MCAST_SNOOPING {
			zero = zero[:1]
		}
		data.AddRtAttr(attr, zero)
	}
	return info
}

// newMAC returns a random address of those that are for everyone to give (IEEE 802
// section 8.4.4: bit 1 of the first byte is set, bit 0, for groups, is not).
func newMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}

// linkLocal is the IPv6 link-local address of a hardware address (RFC 4291
// appendix A).
func linkLocal(m net.HardwareAddr) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

func is6(p netip.Prefix) bool { return p.Addr().Is6() }
