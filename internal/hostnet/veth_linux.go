package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// cableGroup is the group (ip-link(8)) of the host's ends of cables, by which the
// firewall knows them, however many there are: "ovl" in ASCII.
const cableGroup = 0x6f766c

// AddVeth joins a namespace to the host by a cable and returns the host's end. When
// it returns packets pass, in both directions and of both families; after an error
// nothing is left of it.
//
// The other end is made in its namespace, under its own name, and its loopback
// interface is set up. What it is for depends on Bridge: an end on a bridge gets
// default routes through Gateways; one that is routed reaches Routes by way of the
// host's addresses Via, and the host its addresses. Neither side of a routed cable
// asks who has an address: the neighbours are written down.
//
// A link of that name, on either side, is unix.EEXIST, and so is an address or a
// route the namespace or the host has already. IPv6 is left out where the kernel
// does not have it.
//
// It takes some twenty messages and no listing, whatever else is on the host.
func (h *Handle) AddVeth(v Veth) (Link, error) {
	v = v.known()
	c := cable{Veth: v, hostMAC: newMAC(), containerMAC: containerMAC(v.Addrs)}
	if err := c.add(h); err != nil {
		return Link{}, fmt.Errorf("cable from %s to %s: %w", v.Host, v.Container, err)
	}
	return c.link, nil
}

// known returns v without IPv6, if the kernel does not know it.
func (v Veth) known() Veth {
	if !hasIPv6() {
		no := func(a netip.Addr) bool { return a.Is6() }
		v.Addrs = slices.DeleteFunc(slices.Clone(v.Addrs), is6)
		v.Routes = slices.DeleteFunc(slices.Clone(v.Routes), is6)
		v.Gateways = slices.DeleteFunc(slices.Clone(v.Gateways), no)
		v.Announce = nil
		v.Via = slices.DeleteFunc(slices.Clone(v.Via), no)
	}
	return v
}

// A cable is a Veth that is being made.
type cable struct {
	Veth
	hostMAC, containerMAC net.HardwareAddr
	link                  Link // the host's end
}

func (c *cable) add(h *Handle) error {
	if c.Namespace == nil {
		return fmt.Errorf("no namespace: %w", fs.ErrInvalid)
	}
	if err := c.make(h); err != nil {
		return err
	}
	link, err := h.LinkByName(c.Host)
	if err == nil {
		c.link = link
		err = c.configure(h)
	}
	if err == nil {
		c.link, err = h.Link(link.Index)
	}
	if err != nil {
		return errors.Join(err, h.deleteNew(c.Host, link.Index)) // takes the other end with it
	}
	return nil
}

// make makes both ends.
func (c *cable) make(h *Handle) error {
	err := c.Namespace.withFD(func(fd int) error {
		return h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0,
			nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.Host)),
			nl.NewRtAttr(unix.IFLA_ADDRESS, c.hostMAC),
			nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU))),
			nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(cableGroup)),
			c.vethInfo(fd))
	})
	if errors.Is(err, unix.EEXIST) {
		if _, missing := h.LinkByName(c.Host); errors.Is(missing, unix.ENODEV) {
			return fmt.Errorf("the container has a link %s already: %w", c.Container, err)
		}
		return fmt.Errorf("the host has a link %s already: %w", c.Host, err)
	}
	return err
}

// vethInfo says what the container's end is.
func (c *cable) vethInfo(namespace int) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.Container))
	peer.AddRtAttr(unix.IFLA_ADDRESS, c.containerMAC)
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU)))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(namespace)))
	return info
}

func (c *cable) configure(h *Handle) error {
	container, err := c.enter()
	if err != nil {
		return err
	}
	defer container.netlink.Close()
	if err := c.setHost(h); err != nil {
		return fmt.Errorf("%s on the host: %w", c.Host, err)
	}
	if err := c.setContainer(container); err != nil {
		return fmt.Errorf("%s in the container: %w", c.Container, err)
	}
	if c.Bridge == 0 {
		if err := c.routeHost(h); err != nil {
			return fmt.Errorf("%s on the host: %w", c.Host, err)
		}
	}
	return c.awaitRunning(h, container)
}

// enter returns a handle on the container's namespace, which is not to be closed
// with it.
//
// No parameter below /proc/sys is set there: the kernel finds it by a walk over those
// of all namespaces of which one was looked at (proc_sys_compare).
func (c *cable) enter() (*Handle, error) {
	container := &Handle{namespace: c.Namespace}
	err := c.Namespace.do(func() (err error) {
		container.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	return container, nil
}

// setHost sets the host's end up. It has no addresses.
func (c *cable) setHost(h *Handle) error {
	index := c.link.Index
	if err := h.SetAlias(index, c.Alias); err != nil { // first, as we know it by that
		return err
	}
	if err := h.setNoLinkLocal(index); err != nil {
		return err
	}
	if c.Bridge != 0 {
		if err := h.SetMaster(index, c.Bridge); err != nil {
			return err
		}
		// Where bridges hand packets to netfilter (br_netfilter) what a container sends
		// to a port published for itself leaves through where it came in.
		if err := h.netlink.LinkSetHairpin(byIndex(index), true); err != nil {
			return fmt.Errorf("set hairpin mode: %w", err)
		}
	} else if err := h.confine(c.Host, slices.ContainsFunc(c.Addrs, is6)); err != nil {
		return err
	} else if err := h.takeAnySource(c.Host, index); err != nil {
		return err
	}
	return h.SetUp(index)
}

// dummyAddress is for who needs an IPv4 address and has none (RFC 7600 section 4.8).
var dummyAddress = netip.MustParsePrefix("192.0.0.8/32")

// takeAnySource has the host take from a routed end also what it would send back on
// another way: a container that is asked through its service's bridge answers on the
// way to all clusters. The kernel does so only for a link that has an address
// (no_addr in __fib_validate_source), whichever: this one is of a scope in which it is
// never picked as a source.
func (h *Handle) takeAnySource(link string, index int) error {
	if err := h.namespace.do(func() error { loosen(link); return nil }); err != nil {
		return err
	}
	err := h.netlink.AddrAdd(byIndex(index), &netlink.Addr{
		IPNet:     ipNet(dummyAddress),
		Broadcast: net.IPv4zero, // none
		Scope:     unix.RT_SCOPE_HOST,
	})
	if err != nil {
		return fmt.Errorf("add address %v: %w", dummyAddress, err)
	}
	return nil
}

// loosen has a link of the calling thread's namespace take whatever comes from a
// source there is a way to (rp_filter 2), also where packets are else taken only from
// where their answers would go (1; RFC 3704, section 2). Of a link's value and that
// for all links the kernel takes the higher.
func loosen(link string) {
	writeParameter("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", "2")
}

// rpFilter is IPV4_DEVCONF_RP_FILTER of linux/ip.h.
const rpFilter = 8

// setInet sets a parameter of IPv4 on a link that is up.
func (h *Handle) setInet(index int, parameter uint16, value uint32) error {
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet := families.AddRtAttr(unix.AF_INET, nil)
	inet.AddRtAttr(unix.IFLA_INET_CONF, nil).AddRtAttr(int(parameter), nl.Uint32Attr(value))
	if err := h.request(unix.RTM_SETLINK, 0, index, families); err != nil {
		return fmt.Errorf("set parameter %d of IPv4: %w", parameter, err)
	}
	return nil
}

// loopback is the index of a namespace's own loopback interface (LOOPBACK_IFINDEX of
// linux/net.h).
const loopback = 1

func (c *cable) setContainer(container *Handle) error {
	if err := container.SetUp(loopback); err != nil {
		return err
	}
	end, err := container.LinkByName(c.Container)
	if err != nil {
		return err
	}
	// The kernel would probe the address it makes, in the hearing of a whole bridge.
	if err := container.setNoLinkLocal(end.Index); err != nil {
		return err
	}
	if err := container.SetUp(end.Index); err != nil {
		return err
	}
	if err := container.setInet(end.Index, rpFilter, 2); err != nil { // as loosen does
		return err
	}
	for _, a := range c.containerAddrs() {
		if err := c.addAddr(container, end.Index, a); err != nil {
			return fmt.Errorf("add address %v: %w", a, err)
		}
	}
	for _, via := range c.Via {
		if err := container.addNeighbour(end.Index, via, c.hostMAC); err != nil {
			return err
		}
	}
	for _, r := range c.routes(end.Index) {
		if err := container.addRoute(r); err != nil {
			return err
		}
	}
	for _, a := range c.Addrs {
		if a.Addr().Is6() {
			if err := container.awaitLocal(end.Index, a.Addr()); err != nil {
				return fmt.Errorf("add address %v: %w", a, err)
			}
		}
	}
	return nil
}

// containerAddrs returns the addresses of the container's end. IPv6's are first, as
// they are not of use at once, and with them is a link-local one, which the kernel
// probes its neighbours from (ndisc_send_ns).
func (c *cable) containerAddrs() []netip.Prefix {
	addrs := slices.Clone(c.Addrs)
	slices.SortStableFunc(addrs, func(a, b netip.Prefix) int { return cmp.Compare(b.Addr().BitLen(), a.Addr().BitLen()) })
	if slices.ContainsFunc(addrs, is6) {
		addrs = append(addrs, linkLocal(c.containerMAC))
	}
	return addrs
}

// addAddr adds an address, also where IPv6 is off for new links.
func (c *cable) addAddr(container *Handle, index int, a netip.Prefix) error {
	err := container.addAddr(index, a)
	if is6(a) && errors.Is(err, unix.EACCES) {
		c.Namespace.do(func() error {
			allowIPv6(c.Container)
			return nil
		})
		err = container.addAddr(index, a)
	}
	return err
}

// routes returns those of the container's end but for what comes with its
// addresses, each after the one it needs.
func (v Veth) routes(index int) (routes []Route) {
	for _, via := range v.Via {
		routes = append(routes, Route{Dst: only(via), Index: index})
	}
	for _, dst := range v.Routes {
		r := Route{Dst: dst, Index: index}
		for _, via := range v.Via {
			if via.Is6() == is6(dst) {
				r.Gateway = via
			}
		}
		routes = append(routes, r)
	}
	for _, gateway := range v.Gateways {
		everywhere, _ := gateway.Prefix(0)
		routes = append(routes, Route{Dst: everywhere, Gateway: gateway, Index: index})
	}
	return routes
}

// hostRoutes returns those of a routed cable's host.
func (v Veth) hostRoutes(index int) (routes []Route) {
	for _, a := range v.Addrs {
		routes = append(routes, Route{Dst: only(a.Addr()), Index: index})
	}
	return routes
}

// routeHost lets the host reach the container's addresses.
func (c *cable) routeHost(h *Handle) error {
	for _, r := range c.hostRoutes(c.link.Index) {
		if err := h.addRoute(r); err != nil {
			return err
		}
		if err := h.addNeighbour(r.Index, r.Dst.Addr(), c.containerMAC); err != nil {
			return err
		}
	}
	return nil
}

// awaitRunning waits until packets pass.
func (c *cable) awaitRunning(h, container *Handle) error {
	if err := h.awaitRunning(c.link.Index); err != nil {
		return err
	}
	end, err := container.LinkByName(c.Container)
	if err != nil {
		return err
	}
	if err := container.awaitRunning(end.Index); err != nil {
		return err
	}
	if c.Bridge == 0 {
		return nil
	}
	if err := h.awaitRunning(c.Bridge); err != nil {
		return err
	}
	return c.announce(container, end.Index)
}

// addNeighbour writes down the hardware address that an address on a link has.
func (h *Handle) addNeighbour(index int, addr netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	err := h.netlink.NeighSet(&netlink.Neigh{
		LinkIndex:    index,
		Family:       family,
		State:        unix.NUD_PERMANENT,
		IP:           addr.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %v: %w", addr, err)
	}
	return nil
}

// only is the prefix of one address.
func only(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
