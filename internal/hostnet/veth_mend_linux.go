package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// CheckInside returns nil when what AddVeth made of cables into one namespace is whole
// in there, else an error that says what is not. It takes some five messages for each,
// and does not look at the host, which tells by itself what changes there
// (WatchLinks).
func (h *Handle) CheckInside(cables ...Veth) error {
	if len(cables) == 0 {
		return nil
	}
	container, err := cables[0].Namespace.handle()
	if err != nil {
		return err
	}
	defer container.netlink.Close()
	for _, v := range cables {
		if err := container.checkInside(v.known()); err != nil {
			return fmt.Errorf("%s in the container: %w", v.Container, err)
		}
	}
	return nil
}

func (h *Handle) checkInside(v Veth) error {
	end, err := h.LinkByName(v.Container)
	switch {
	case err != nil:
		return err
	case end.MTU != v.MTU:
		return fmt.Errorf("has MTU %d, not %d", end.MTU, v.MTU)
	case !end.Up:
		return errors.New("is down")
	}
	if err := h.checkAddrs(v, end.Index); err != nil {
		return err
	}
	return h.checkRoutes(v.routes(end.Index))
}

// MendVeth puts back what is missing of what AddVeth made of v: the state of the ends,
// addresses, routes and neighbours. What others have added stays, and so do
// connections. It does not make a cable anew: without both ends of one the error is
// unix.ENODEV or ErrForeign. It is unix.EEXIST when the container has a route of its
// own in the place of one of ours, and then the rest is mended.
func (h *Handle) MendVeth(v Veth) error {
	if err := h.mendVeth(v.known()); err != nil {
		return fmt.Errorf("cable from %s to %s: %w", v.Host, v.Container, err)
	}
	return nil
}

func (h *Handle) mendVeth(v Veth) error {
	host, err := found(h.netlink.LinkByName(v.Host))
	if err != nil {
		return fmt.Errorf("%s on the host: %w", v.Host, err)
	}
	container, err := v.Namespace.handle()
	if err != nil {
		return err
	}
	defer container.netlink.Close()
	end, err := found(container.netlink.LinkByName(v.Container))
	if err != nil {
		return fmt.Errorf("%s in the container: %w", v.Container, err)
	}
	if err := v.checkPair(host, end); err != nil {
		return err
	}
	c := cable{Veth: v, link: toLink(host), hostMAC: host.Attrs().HardwareAddr, containerMAC: end.Attrs().HardwareAddr}
	if err := c.mendHost(h); err != nil {
		return fmt.Errorf("%s on the host: %w", v.Host, err)
	}
	if err := c.mendContainer(container, toLink(end)); err != nil {
		return fmt.Errorf("%s in the container: %w", v.Container, err)
	}
	return nil
}

func (c *cable) mendHost(h *Handle) error {
	if err := h.mendLink(c.link, c.MTU); err != nil {
		return err
	}
	if c.Bridge != 0 {
		if c.link.Master == c.Bridge {
			return nil
		}
		if err := h.SetMaster(c.link.Index, c.Bridge); err != nil {
			return err
		}
		return h.netlink.LinkSetHairpin(byIndex(c.link.Index), true)
	}
	if err := h.mendNeighbours(c.link.Index, addrsIn(c.Addrs), c.containerMAC); err != nil {
		return err
	}
	return h.mendRoutes(c.link.Index, c.hostRoutes(c.link.Index))
}

func (c *cable) mendContainer(container *Handle, end Link) error {
	if err := container.mendLink(end, c.MTU); err != nil {
		return err
	}
	has, err := container.Addrs(end.Index)
	if err != nil {
		return err
	}
	for _, a := range c.containerAddrs() {
		if slices.Contains(has, a) {
			continue
		}
		if err := c.addAddr(container, end.Index, a); err != nil {
			return fmt.Errorf("add address %v: %w", a, err)
		}
	}
	if err := container.mendNeighbours(end.Index, c.Via, c.hostMAC); err != nil {
		return err
	}
	for _, a := range c.Addrs {
		if a.Addr().Is6() && !slices.Contains(has, a) {
			if err := container.awaitLocal(end.Index, a.Addr()); err != nil {
				return err
			}
		}
	}
	return container.mendRoutes(end.Index, c.routes(end.Index))
}

func (h *Handle) mendLink(l Link, mtu int) error {
	if l.MTU != mtu {
		if err := h.SetMTU(l.Index, mtu); err != nil {
			return err
		}
	}
	if l.Up {
		return nil
	}
	return h.SetUp(l.Index)
}

// mendNeighbours writes neighbours down again, whom the kernel forgets with the state
// of the link (neigh_ifdown).
func (h *Handle) mendNeighbours(index int, addrs []netip.Addr, mac net.HardwareAddr) error {
	for _, a := range addrs {
		if err := h.addNeighbour(index, a, mac); err != nil {
			return err
		}
	}
	return nil
}

// mendRoutes adds the routes of a link that are missing, all that can be.
func (h *Handle) mendRoutes(index int, routes []Route) error {
	has, err := h.Routes(index)
	if err != nil {
		return err
	}
	var taken error
	for _, want := range routes {
		if slices.ContainsFunc(has, func(r Route) bool { return r.Dst == want.Dst && r.Gateway == want.Gateway }) {
			continue
		}
		switch err := h.addRoute(want); {
		case errors.Is(err, unix.EEXIST):
			taken = fmt.Errorf("there is another route to %v: %w", want.Dst, err)
		case err != nil:
			return err
		}
	}
	return taken
}

func addrsIn(prefixes []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Addr()
	}
	return addrs
}
