package hostnet

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// CheckVeth returns nil when what AddVeth made of v is whole, else an error that says
// what is not.
func (h *Handle) CheckVeth(v Veth) error {
	if err := h.checkVeth(v.known()); err != nil {
		return fmt.Errorf("cable from %s to %s: %w", v.Host, v.Container, err)
	}
	return nil
}

func (h *Handle) checkVeth(v Veth) error {
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
	if err := v.checkEnds(host, end); err != nil {
		return err
	}
	if err := h.checkMaster(v, host); err != nil {
		return fmt.Errorf("%s on the host: %w", v.Host, err)
	}
	if err := container.checkAddrs(v, end.Attrs().Index); err != nil {
		return fmt.Errorf("%s in the container: %w", v.Container, err)
	}
	if err := container.checkRoutes(v.routes(end.Attrs().Index)); err != nil {
		return fmt.Errorf("%s in the container: %w", v.Container, err)
	}
	if v.Bridge == 0 {
		if err := h.checkRoutes(v.hostRoutes(host.Attrs().Index)); err != nil {
			return fmt.Errorf("%s on the host: %w", v.Host, err)
		}
	}
	return nil
}

// checkEnds checks that both are ends of one cable, and as they are to be.
func (v Veth) checkEnds(host, end netlink.Link) error {
	if err := v.checkPair(host, end); err != nil {
		return err
	}
	for _, l := range []netlink.Link{host, end} {
		if is := toLink(l); is.MTU != v.MTU {
			return fmt.Errorf("%s has MTU %d, not %d", is.Name, is.MTU, v.MTU)
		} else if !is.Up {
			return fmt.Errorf("%s is down", is.Name)
		}
	}
	return nil
}

// checkPair checks that both are ends of one cable of ours.
func (v Veth) checkPair(host, end netlink.Link) error {
	for _, l := range []netlink.Link{host, end} {
		if is := toLink(l); is.Kind != "veth" {
			return fmt.Errorf("%s is a %s: %w", is.Name, is.Kind, ErrForeign)
		}
	}
	// The index of a link's other end is in the namespace of that.
	if host.Attrs().ParentIndex != end.Attrs().Index || end.Attrs().ParentIndex != host.Attrs().Index {
		return fmt.Errorf("%s is not the other end of %s: %w", v.Container, v.Host, ErrForeign)
	}
	if alias := host.Attrs().Alias; alias != v.Alias {
		return fmt.Errorf("%s has alias %q, not %q: %w", v.Host, alias, v.Alias, ErrForeign)
	}
	return nil
}

func (h *Handle) checkMaster(v Veth, host netlink.Link) error {
	a := host.Attrs()
	if a.MasterIndex != v.Bridge {
		return fmt.Errorf("a port of link %d, not %d", a.MasterIndex, v.Bridge)
	}
	if a.Group != cableGroup {
		return fmt.Errorf("in link group %d, not %d", a.Group, cableGroup)
	}
	return nil
}

func (h *Handle) checkAddrs(v Veth, index int) error {
	has, err := h.Addrs(index)
	if err != nil {
		return err
	}
	for _, a := range v.Addrs {
		if !slices.Contains(has, a) {
			return fmt.Errorf("address %v is missing", a)
		}
	}
	return nil
}

func (h *Handle) checkRoutes(routes []Route) error {
	if len(routes) == 0 {
		return nil
	}
	has, err := h.Routes(routes[0].Index)
	if err != nil {
		return err
	}
	for _, want := range routes {
		if !slices.ContainsFunc(has, func(r Route) bool { return r.Dst == want.Dst && r.Gateway == want.Gateway }) {
			return fmt.Errorf("the route to %v is missing", want.Dst)
		}
	}
	return nil
}
