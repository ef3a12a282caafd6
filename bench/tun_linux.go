package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"golang.zx2c4.com/wireguard/tun"
)

// The underlay's addresses, at the ends of the cable.
var (
	nearUnderlay = netip.MustParseAddr("192.0.2.1")
	farUnderlay  = netip.MustParseAddr("192.0.2.2")
)

const tunName = "bench0"

// checkTUN says why there can be no TUN devices in namespaces.
var checkTUN = sync.OnceValue(func() error {
	ns, err := testnet.OpenNamespace()
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("needs root, for network namespaces and TUN devices")
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("needs a TUN driver: %w", err)
	}
	return nil
})

// A tunPair is two nodes in this process, each with its socket and its TUN in a
// namespace of its own:
//
//	       10.99.0.1                                  10.99.0.2
//	near    bench0 - node - eth0 ------------ eth0 - node - bench0    far
//	                     192.0.2.1         192.0.2.2
type tunPair struct {
	pair
	near, far *testnet.Namespace
}

func newTUNPair(who side) (*tunPair, error) {
	p := new(tunPair)
	err := p.cable()
	if err == nil {
		join := p.joinOurs
		if who == theirs {
			join = p.joinTheirs
		}
		err = join()
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// cable makes the namespaces and the cable between them.
func (p *tunPair) cable() (err error) {
	for _, ns := range []**testnet.Namespace{&p.near, &p.far} {
		if *ns, err = testnet.OpenNamespace(); err != nil {
			return err
		}
		p.closeLater((*ns).Close)
	}
	return testnet.Veth(
		testnet.Port{Namespace: p.near, Name: "eth0", Addrs: []netip.Prefix{netip.PrefixFrom(nearUnderlay, 24)}},
		testnet.Port{Namespace: p.far, Name: "eth0", Addrs: []netip.Prefix{netip.PrefixFrom(farUnderlay, 24)}},
	)
}

func (p *tunPair) joinOurs() error {
	near, err := p.ourNode(p.near, nearAddr)
	if err != nil {
		return err
	}
	far, err := p.ourNode(p.far, farAddr)
	if err != nil {
		return err
	}
	return joinNodes(near, far, netip.AddrPortFrom(farUnderlay, far.ListenPort()))
}

func (p *tunPair) ourNode(ns *testnet.Namespace, addr netip.Addr) (node *overlay.Node, err error) {
	ns.Do(func() {
		var t *overlay.TUN
		t, err = overlay.OpenTUN(overlay.TUNConfig{Name: tunName, MTU: mtu, Addrs: []netip.Prefix{netip.PrefixFrom(addr, 24)}})
		if err != nil {
			return
		}
		if node, err = newNode(overlay.EngineDefault, t); err != nil {
			err = errors.Join(err, t.Close())
			return
		}
		p.closeLater(node.Close)
	})
	return node, err
}

func (p *tunPair) joinTheirs() error {
	near, err := p.theirNode(p.near, nearAddr)
	if err != nil {
		return err
	}
	far, err := p.theirNode(p.far, farAddr)
	if err != nil {
		return err
	}
	return joinWireGuardGo(near, far, farUnderlay)
}

func (p *tunPair) theirNode(ns *testnet.Namespace, addr netip.Addr) (node *theirNode, err error) {
	ns.Do(func() {
		var t tun.Device
		if t, err = tun.CreateTUN(tunName, mtu); err != nil {
			return
		}
		if node, err = newTheirNode(newSteadyTUN(t)); err != nil {
			return
		}
		p.closeLater(node.close)
		err = raise(addr)
	})
	return node, err
}

// A steadyTUN does not tell that its interface went up or down. Otherwise
// wireguard-go would open its sockets when it hears of that, which is on another
// thread and so in another namespace.
type steadyTUN struct {
	tun.Device
	events chan tun.Event
}

func newSteadyTUN(t tun.Device) *steadyTUN {
	s := &steadyTUN{Device: t, events: make(chan tun.Event)}
	go func() {
		for range t.Events() { // to its end, with the device
		}
		close(s.events)
	}()
	return s
}

func (s *steadyTUN) Events() <-chan tun.Event { return s.events }

// raise gives the TUN of the current namespace its address and sets it up.
func raise(addr netip.Addr) error {
	h, err := hostnet.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(tunName)
	if err != nil {
		return err
	}
	return errors.Join(h.SetUp(link.Index), h.AddAddr(link.Index, netip.PrefixFrom(addr, 24)))
}

// overTUN measures traffic between the kernels of two namespaces. The server and
// the traffic have processes of their own, so that what is measured of this one
// is the nodes' alone.
func overTUN(name string) func(context.Context, side, *meter, time.Duration) ([]float64, error) {
	return func(ctx context.Context, who side, m *meter, d time.Duration) ([]float64, error) {
		p, err := newTUNPair(who)
		if err != nil {
			return nil, err
		}
		defer p.close()
		stop, err := p.serve()
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		defer stop()
		traffic := func(name string, d time.Duration) (r trafficResult, err error) {
			err = spawn(ctx, p.near.Command, job{Traffic: &trafficJob{Name: name, To: serverAddr, Time: d}}, d, &r)
			return r, err
		}
		if _, err := traffic(warmUpName, d/4); err != nil {
			return nil, err
		}
		return m.measure(func() ([]float64, int64, error) {
			r, err := traffic(name, d)
			return r.Values, r.Bytes, err
		})
	}
}

// serve starts the server in the far namespace, and returns what ends it.
func (p *tunPair) serve() (stop func() error, err error) {
	cmd, err := childCommand(p.far.Command, job{Serve: &serveJob{Addr: serverAddr}})
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		stdin.Close()
		return cmd.Wait()
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}
