package hostnet

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link returns a link by its index.
func (h *Handle) Link(index int) (Link, error) {
	l, err := found(h.netlink.LinkByIndex(index))
	if err != nil {
		return Link{}, fmt.Errorf("look up link %d: %w", index, err)
	}
	return toLink(l), nil
}

// LinkByName returns a link by its name.
func (h *Handle) LinkByName(name string) (Link, error) {
	l, err := found(h.netlink.LinkByName(name))
	if err != nil {
		return Link{}, fmt.Errorf("look up link %s: %w", name, err)
	}
	return toLink(l), nil
}

// Links returns every link of the namespace.
func (h *Handle) Links() ([]Link, error) {
	// A change while the kernel lists, in several messages, may make it leave out
	// what did not change.
	for deadline := time.Now().Add(5 * time.Second); ; {
		links, complete, err := h.someLinks()
		if err == nil && !complete && time.Now().After(deadline) {
			err = netlink.ErrDumpInterrupted
		}
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		if complete {
			return links, nil
		}
	}
}

// someLinks lists the links there are once, and tells whether those are all.
func (h *Handle) someLinks() (links []Link, complete bool, err error) {
	list, err := h.netlink.LinkList()
	complete = err == nil
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false, err
	}
	links = make([]Link, len(list))
	for i, l := range list {
		links[i] = toLink(l)
	}
	return links, complete, nil
}

// found makes one error of a missing link's several.
func found(l netlink.Link, err error) (netlink.Link, error) {
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, unix.ENODEV
	}
	return l, err
}

func toLink(l netlink.Link) Link {
	a := l.Attrs()
	kind := l.Type()
	if kind == "tuntap" { // as the module calls what is "tun" to the kernel
		kind = "tun"
	}
	return Link{
		Index:  a.Index,
		Name:   a.Name,
		MTU:    a.MTU,
		Up:     a.Flags&net.FlagUp != 0,
		Kind:   kind,
		Alias:  a.Alias,
		Master: a.MasterIndex,
		MAC:    a.HardwareAddr.String(),
	}
}

// DeleteLink removes a link, of a cable both ends. One that is gone is no error.
//
// When it returns nobody sees the link any more, nor its addresses and routes. The
// kernel is not done then: it goes on to wait until no processor can be at work on the
// link (rcu_barrier in netdev_run_todo), some ten milliseconds, for many at once about
// as long. Calls do not wait for each other, nor others for them; Close does.
func (h *Handle) DeleteLink(index int) error {
	freed := make(chan error, 1)
	h.deleting.Go(func() { freed <- h.request(unix.RTM_DELLINK, 0, index) })
	look := time.NewTicker(200 * time.Microsecond)
	defer look.Stop()
	for {
		select {
		case err := <-freed:
			if err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("delete link %d: %w", index, err)
			}
			return nil
		case <-look.C:
			// The answer waits for who is at work on links, and so for the removal once
			// it has begun.
			if _, err := h.Link(index); errors.Is(err, unix.ENODEV) {
				return nil
			}
		}
	}
}

// deleteNew removes a link that the caller has just made: by its name when it could
// not be looked up. One that is gone is no error.
func (h *Handle) deleteNew(name string, index int) error {
	if index != 0 {
		return h.DeleteLink(index)
	}
	err := h.request(unix.RTM_DELLINK, 0, 0, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// request sends a request about a link on a socket of its own: what would keep others
// waiting, or what the netlink module has no call for.
func (h *Handle) request(kind, flags, index int, attrs ...*nl.RtAttr) error {
	return h.namespace.do(func() error {
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK|flags)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		req.AddData(msg)
		for _, a := range attrs {
			req.AddData(a)
		}
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// SetAlias sets the free text of a link, of 255 bytes at most.
func (h *Handle) SetAlias(index int, alias string) error {
	if err := h.netlink.LinkSetAlias(byIndex(index), alias); err != nil {
		return fmt.Errorf("set alias: %w", err)
	}
	return nil
}

// SetMaster makes a link a port of a bridge, of 0 of none.
func (h *Handle) SetMaster(index, master int) error {
	if err := h.netlink.LinkSetMasterByIndex(byIndex(index), master); err != nil {
		return fmt.Errorf("make it a port of link %d: %w", master, err)
	}
	return nil
}

// SetMTU sets the largest packet a link takes.
func (h *Handle) SetMTU(index, mtu int) error {
	if err := h.netlink.LinkSetMTU(byIndex(index), mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	return nil
}

// SetQueue sets how many packets may wait to be transmitted by a link.
func (h *Handle) SetQueue(index, packets int) error {
	if err := h.netlink.LinkSetTxQLen(byIndex(index), packets); err != nil {
		return fmt.Errorf("set the transmit queue's length to %d: %w", packets, err)
	}
	return nil
}

// SetUp sets a link up.
func (h *Handle) SetUp(index int) error {
	if err := h.netlink.LinkSetUp(byIndex(index)); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// SetQuiet keeps the kernel from speaking on a link of its own accord: no IPv6
// link-local address, and so no router solicitations, and no multicast. Linux
// makes its own WireGuard interfaces so. It is for a link that is still down.
func (h *Handle) SetQuiet(index int) error {
	if err := h.setNoLinkLocal(index); err != nil {
		return err
	}
	if err := h.netlink.LinkSetMulticastOff(byIndex(index)); err != nil {
		return fmt.Errorf("set multicast off: %w", err)
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// setNoLinkLocal keeps the kernel from giving a link that is down an IPv6 address
// when it comes up.
func (h *Handle) setNoLinkLocal(index int) error {
	err := h.netlink.LinkSetIP6AddrGenMode(byIndex(index), addrGenModeNone)
	// A kernel without IPv6 has nothing to keep quiet.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("set IPv6 address generation off: %w", err)
	}
	return nil
}

// awaitRunning waits until packets pass a link that is up: the kernel hears in the
// background (linkwatch) that its other end, or the first port of a bridge, is up,
// and until then it drops what it is to send.
func (h *Handle) awaitRunning(index int) error {
	return await(func() error {
		l, err := h.netlink.LinkByIndex(index)
		if err != nil {
			return err
		}
		a := l.Attrs()
		// A bridge that never was without a carrier has no state (RFC 2863) until it is.
		idle := l.Type() == "bridge" && a.OperState == netlink.OperUnknown && a.RawFlags&unix.IFF_LOWER_UP != 0
		if a.OperState != netlink.OperUp && !idle {
			return fmt.Errorf("%s is not running, but %s: %w", a.Name, a.OperState, errNotYet)
		}
		return nil
	})
}

// errNotYet is under the error of what await is to try again.
var errNotYet = errors.New("not yet")

// awaitTime is for how long the kernel is waited for: what is awaited takes it less than
// a millisecond unless it is busy.
var awaitTime = 5 * time.Second

// await calls f until it returns another error than errNotYet, or none, for
// awaitTime.
func await(f func() error) error {
	for deadline := time.Now().Add(awaitTime); ; time.Sleep(100 * time.Microsecond) {
		err := f()
		if !errors.Is(err, errNotYet) || time.Now().After(deadline) {
			return err
		}
	}
}

func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}
