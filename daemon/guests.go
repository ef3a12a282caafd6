package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/overlayd/overlayd/overlay"
)

// setGuest makes a guest on this host a peer, with routes to it, besides those
// that clients set; setPeers leaves it alone. Its key must not be another peer's.
func (v *device) setGuest(ctx context.Context, key overlay.PublicKey, addrs []netip.Addr) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errDeviceClosed
	}
	if _, taken := v.set[key]; taken {
		return invalid("public_key", "%v is the key of a peer: a guest needs one of its own", key)
	}
	p := overlay.Peer{PublicKey: key}
	for _, a := range addrs {
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(a, a.BitLen()))
	}
	was, there := v.guests[key]
	before := func() error {
		if there {
			return v.node().SetPeer(context.WithoutCancel(ctx), was)
		}
		return v.node().RemovePeer(key)
	}
	way := detour{device: v, from: was.AllowedIPs, to: p.AllowedIPs}
	var s steps
	err := s.do("guest.node", func() error {
		if last := v.d.roaming.take(v.scope, key); !there && last.IsValid() {
			return v.welcome(ctx, p, last)
		}
		if err := v.node().SetPeer(ctx, p); err != nil {
			return v.refused(err, "")
		}
		return nil
	}, before)
	if err == nil {
		err = s.do("guest.routes", func() error { return v.d.reroute(way) }, func() error { return v.d.reroute(way.back()) })
	}
	if err == nil {
		err = s.do("guest.proxy", func() error { return v.d.answerFor(p.AllowedIPs) }, nil)
	}
	if err != nil {
		return s.rollback(err)
	}
	v.guests[key] = p
	return nil
}

// welcome takes a guest in that was there before the daemon was started anew, at the
// address it called from.
func (v *device) welcome(ctx context.Context, p overlay.Peer, last netip.AddrPort) error {
	t := v.now.Load()
	p.Endpoint = last.String()
	t.called.Store(p.PublicKey, true)
	err := t.node.SetPeer(ctx, p)
	if err == nil {
		err = t.nudge(ctx, p)
	}
	if err != nil {
		return v.refused(err, "")
	}
	return nil
}

// removeGuest undoes setGuest. One that is not there is no error.
func (v *device) removeGuest(key overlay.PublicKey) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	was, there := v.guests[key]
	if v.closed || !there {
		return nil
	}
	err := v.node().RemovePeer(key)
	if errors.Is(err, overlay.ErrUnknownPeer) || errors.Is(err, net.ErrClosed) {
		err = nil // the node has ended, and the next one will not have it
	}
	if err != nil {
		return err
	}
	delete(v.guests, key)
	return errors.Join(v.d.reroute(detour{device: v, from: was.AllowedIPs}), v.d.answerNoMore(was.AllowedIPs))
}

// answerFor has the bridges of services answer for guests, whose addresses are of
// the services' subnets, but which are behind the node's device. It is done whole or
// not at all.
func (d *Daemon) answerFor(guests []netip.Prefix) error {
	for i, p := range guests {
		s := d.serviceAround(p)
		if d.host == nil || s == nil {
			continue
		}
		if err := d.host.SetProxy(s.bridge.Index, p.Addr()); err != nil {
			return errors.Join(err, d.answerNoMore(guests[:i]))
		}
	}
	return nil
}

func (d *Daemon) answerNoMore(guests []netip.Prefix) error {
	var errs []error
	for _, p := range guests {
		if s := d.serviceAround(p); d.host != nil && s != nil {
			errs = append(errs, d.host.DeleteProxy(s.bridge.Index, p.Addr()))
		}
	}
	return errors.Join(errs...)
}

// serviceAround is the service that a prefix lies in a subnet of, nil if none.
func (d *Daemon) serviceAround(p netip.Prefix) *service {
	if name := d.serviceAt(p); name != "" {
		return d.lookService(name)
	}
	return nil
}

// guestsOf are the guests that are in a service.
func (v *device) guestsOf(s *service) (in []netip.Prefix) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, g := range v.guests {
		for _, p := range g.AllowedIPs {
			for _, subnet := range s.Subnets {
				if subnet.Contains(p.Addr()) {
					in = append(in, p)
				}
			}
		}
	}
	return in
}
