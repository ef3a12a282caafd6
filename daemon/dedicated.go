package daemon

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
)

// portBand is how many UDP ports there are for devices of services: those that
// follow the node's own.
const portBand = 256

// addDevice takes the steps that give a service a device of its own.
func (d *Daemon) addDevice(st *steps, s *service, g *globalView) error {
	if d.host == nil {
		return &Error{Code: wire.Unsupported, Field: "mode", Msg: "a dedicated overlay wants the host's network, which the daemon cannot change in mode " + string(ModeRootless) + ": run it as root with --mode tun, or set the service up as shared"}
	}
	owner := serviceOwner(s.Name, s.Bridge)
	addrs := deviceAddrs(s.Subnets)
	err := st.do("setup_service.address", func() error {
		return d.leases.Update(func(tx *ipam.Tx) error {
			for _, a := range addrs {
				if _, err := tx.AllocateAddr(a.Addr(), owner); err != nil {
					return err
				}
			}
			return nil
		})
	}, func() error { return d.releaseDevice(s.Service) })
	if err != nil {
		return err
	}
	if s.PrivateKey, err = overlay.GeneratePrivateKey(); err != nil {
		return err
	}
	s.Mode = wire.ModeDedicated
	return st.do("setup_service.device", func() error {
		base := g.Port
		if g.device == nil {
			base = defaultPort
		}
		last := min(int(base)+portBand, 65535)
		for port := int(base) + 1; port <= last; port++ {
			if !d.portFree(uint16(port)) {
				continue
			}
			s.Port = uint16(port)
			v, err := d.openDevice(s.Name, d.serviceTunnel(s, g))
			if errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			if err != nil {
				return d.portError("", s.Port, err)
			}
			s.device, s.Interface = v, v.link().Name
			return nil
		}
		return failed(wire.Exhausted, "the UDP ports for dedicated overlays, %d to %d, are exhausted: tear one down, or end what else has them", base+1, last)
	}, func() error { return s.device.close() })
}

// serviceTunnel is what a service's own device is made from.
func (d *Daemon) serviceTunnel(s *service, g *globalView) tunnelConfig {
	name := s.Interface
	if name == "" {
		name = linkName(suffixDedicated, g.Deployment, g.InstanceID, s.Name)
	}
	return tunnelConfig{name: name, alias: d.alias(kindDedicated, s.Name), key: s.PrivateKey, port: s.Port, addrs: deviceAddrs(s.Subnets)}
}

// portFree reports whether a UDP port is nobody's: no service's on record, nor any
// program's in either family, nor one that leads to a container.
func (d *Daemon) portFree(port uint16) bool {
	if _, led := d.ports.led(wire.UDP, port); led {
		return false
	}
	for _, s := range d.allServices() {
		if s.Port == port {
			return false
		}
	}
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenPacket(network, ":"+strconv.Itoa(int(port)))
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.EADDRINUSE) {
			return false
		}
	}
	return true
}

// releaseDevice gives the addresses of a service's own device back.
func (d *Daemon) releaseDevice(s state.Service) error {
	owner := serviceOwner(s.Name, s.Bridge)
	return d.leases.Update(func(tx *ipam.Tx) error {
		for _, a := range deviceAddrs(s.Subnets) {
			if l, ok := tx.Lookup(a.Addr()); ok && l.Owner.Is(owner) {
				if err := tx.Release(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// vacant refuses to change whose device a service's containers talk through.
func (d *Daemon) vacant(s *service) error {
	if n := d.attachmentCount()[s.Name]; n > 0 {
		attached := fmt.Sprintf("%d containers attached: detach them", n)
		if n == 1 {
			attached = "1 container attached: detach it"
		}
		return &Error{Code: wire.Conflict, Field: "mode", Msg: fmt.Sprintf("service %q is %s and has %s, or tear the service down, first", s.Name, s.Mode, attached)}
	}
	return nil
}

// dedicate gives a shared service a device of its own.
func (d *Daemon) dedicate(p *place, was *service) error {
	g, release := d.still(p)
	defer release()
	if err := d.vacant(was); err != nil {
		return err
	}
	s := &service{Service: was.Service, bridge: was.bridge, gateways: was.gateways}
	var st steps
	err := d.addDevice(&st, s, g)
	if err == nil {
		err = st.do("setup_service.firewall", func() error { return d.admitService(was, s, g) }, func() error { return d.admitService(s, was, g) })
	}
	if err == nil {
		err = st.do("setup_service.record", func() error {
			return d.store.Update(func(tx *state.Tx) error { tx.PutService(s.Service); return nil })
		}, nil)
	}
	if err != nil {
		return st.rollback(because(err, "service %q is shared as before", was.Name))
	}
	p.now.Store(s)
	return nil
}

// share takes a dedicated service's own device from it.
func (d *Daemon) share(p *place, was *service) error {
	g, release := d.still(p)
	defer release()
	if err := d.vacant(was); err != nil {
		return err
	}
	s := &service{Service: was.Service, bridge: was.bridge, gateways: was.gateways}
	s.Mode, s.Interface, s.PrivateKey, s.Port = wire.ModeShared, "", overlay.PrivateKey{}, 0
	var st steps
	err := st.do("share_service.record", func() error {
		return d.store.Update(func(tx *state.Tx) error {
			tx.PutService(s.Service)
			for _, key := range was.device.clients() {
				tx.DeletePeer(was.Name, key.String())
			}
			return nil
		})
	}, nil)
	if err != nil {
		return because(err, "service %q is dedicated as before", was.Name)
	}
	p.now.Store(s)
	err = errors.Join(
		st.do("share_service.firewall", func() error { return d.admitService(was, s, g) }, nil),
		st.do("share_service.device", was.device.close, nil),
		st.do("share_service.address", func() error { return d.releaseDevice(was.Service) }, nil),
	)
	if err != nil {
		return because(err, "service %q is shared now, but not all that was its own went", was.Name)
	}
	return nil
}
