package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/overlay"
)

// defaultCluster is where addresses come from until the node's overlay is set up.
var defaultCluster = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}

// defaultPort is the node's UDP port until it is told another one.
const defaultPort = 51420

// A global is the owner of the node's own overlay.
type global struct {
	change sync.Mutex   // held by who sets up or tears down, all the while
	use    sync.RWMutex // for reading by who relies on the overlay staying as it is
	view   atomic.Pointer[globalView]

	leaving bool        // it is being torn down; guarded by use
	rest    *globalView // what is left of one that is off the record; nil: nothing; guarded by change
}

// A globalView is the node's own overlay at a moment, never changed. There is one
// before it is set up too, with the default cluster and no device.
type globalView struct {
	state.Global
	device *device // nil: not set up
}

func (g *global) load() *globalView { return g.view.Load() }

// pools are where addresses of the node's own network come from: its slice, or the
// clusters; of the families that have a slice the slice.
func (v *globalView) pools() []netip.Prefix { return poolsOf(v.Global) }

func poolsOf(g state.Global) []netip.Prefix {
	pools := slices.Clone(g.Cluster)
	for i, c := range pools {
		for _, s := range g.Slice {
			if c.Contains(s.Addr()) {
				pools[i] = s
			}
		}
	}
	return pools
}

// globalOverlay is the node's own overlay, which stays until release is called. When
// it is not set up the error is an Error that is wire.NotReady. Who holds it may not
// wait for setupGlobal or teardownGlobal; to ask once more while holding it may wait
// for ever.
func (d *Daemon) globalOverlay() (v *globalView, release func(), err error) {
	d.global.use.RLock()
	if v = d.global.load(); v.device == nil || d.global.leaving {
		d.global.use.RUnlock()
		return nil, nil, failed(wire.NotReady, "global overlay not set up: send setup_global_overlay first")
	}
	return v, d.global.use.RUnlock, nil
}

// setupGlobal brings the node's own overlay up, or makes the one there is what is
// asked for: all of it or, on error, nothing. The same again gives the same answer.
func (d *Daemon) setupGlobal(ctx context.Context, r wire.SetupGlobalOverlay) (wire.BridgeName, error) {
	want, err := parseGlobal(r)
	if err != nil {
		return wire.BridgeName{}, err
	}
	d.global.change.Lock()
	defer d.global.change.Unlock()
	if err := d.removeGlobalRest(); err != nil {
		return wire.BridgeName{}, because(err, "the node's overlay was not set up, as what is left of the one torn down cannot be removed")
	}
	now := d.global.load()
	if at, led := d.ports.led(wire.UDP, want.Port); led {
		return wire.BridgeName{}, &Error{Code: wire.Conflict, Field: "wg_port", Msg: fmt.Sprintf("%v is published, and leads to a container: give another, or send unpublish_port first", at)}
	}
	var before *tunnel
	d.global.use.Lock()
	if now.device == nil {
		err = d.createGlobal(want)
	} else {
		before = now.device.now.Load()
		err = d.changeGlobal(now, want)
	}
	d.global.use.Unlock()
	is := d.global.load()
	if is.device != nil && is.device.now.Load() != before { // also when it was put back
		d.renewed(is.device)
	}
	if err != nil {
		return wire.BridgeName{}, err
	}
	return wire.BridgeName{Name: is.device.name}, nil
}

// parseGlobal reads what is asked for. Addresses and interface are not known yet.
func parseGlobal(r wire.SetupGlobalOverlay) (g state.Global, err error) {
	if err := errors.Join(checkName("deployment", r.Deployment, true), checkName("instance_id", r.InstanceID, true)); err != nil {
		return g, err
	}
	cluster, err := parseNetworks("cluster_cidr", r.ClusterCIDR)
	if err != nil {
		return g, err
	}
	if len(cluster) == 0 {
		return g, invalid("cluster_cidr", "is empty: give a prefix such as 10.200.0.0/16, or one of IPv4 and one of IPv6 with a comma between them")
	}
	for _, c := range cluster {
		if c.Addr().BitLen()-c.Bits() < 2 {
			return g, invalid("cluster_cidr", "%v has no room for addresses: its length may be at most %d", c, c.Addr().BitLen()-2)
		}
	}
	slice, err := parseNetworks("slice_cidr", r.SliceCIDR)
	if err != nil {
		return g, err
	}
	for _, s := range slice {
		if s.Addr().BitLen()-s.Bits() < 2 {
			return g, invalid("slice_cidr", "%v has no room for addresses: its length may be at most %d", s, s.Addr().BitLen()-2)
		}
		if !slices.ContainsFunc(cluster, func(c netip.Prefix) bool { return c.Contains(s.Addr()) && c.Bits() < s.Bits() }) {
			return g, invalid("slice_cidr", "%v is no part of cluster_cidr, which is %s: give a longer prefix that lies in it", s, join(cluster))
		}
	}
	if r.WGPort == 0 {
		return g, invalid("wg_port", "0 is no port: give one such as %d", defaultPort)
	}
	return state.Global{
		Deployment: r.Deployment,
		InstanceID: r.InstanceID,
		Cluster:    cluster,
		Slice:      slice,
		Port:       r.WGPort,
		NAT:        r.NATEnabled,
	}, nil
}

// createGlobal makes the overlay of a node that has none.
func (d *Daemon) createGlobal(want state.Global) error {
	if err := d.checkHost("cluster_cidr", want.Cluster); err != nil {
		return err
	}
	before := d.global.load()
	var s steps
	err := s.do("setup_global.lease", func() (err error) {
		want.Addrs, err = d.leaseGlobal(want)
		return err
	}, d.unleaseGlobal)
	if err == nil {
		err = s.do("setup_global.plan", func() error { return d.settleGlobal(want) }, func() error {
			d.plan.leave(localPrefixes(want))
			return nil
		})
	}
	var v *device
	if err == nil {
		err = s.do("setup_global.device", func() (err error) {
			v, err = d.openDevice("", d.globalTunnel(want))
			return d.portError("wg_port", want.Port, err)
		}, func() error { return v.close() })
	}
	if err == nil {
		want.Interface = v.link().Name
		err = s.do("setup_global.firewall", func() error { return d.admitGlobal(before.Global, want) }, func() error { return d.admitGlobal(want, before.Global) })
	}
	if err == nil {
		err = s.do("setup_global.record", func() error {
			return d.recordNode(func(n *state.Node) { n.Global = &want }, nil)
		}, nil)
	}
	if err != nil {
		return s.rollback(because(err, "the node's overlay was not set up"))
	}
	d.publishGlobal(&globalView{want, v})
	return nil
}

// publishGlobal makes a view that of everybody, and its addresses serve names.
func (d *Daemon) publishGlobal(v *globalView) {
	before := d.global.load()
	d.global.view.Store(v)
	for _, a := range before.Addrs {
		if !slices.Contains(v.Addrs, a) {
			d.quitNames(a.Addr())
		}
	}
	for _, a := range v.Addrs {
		d.serveNames(a.Addr())
	}
	d.leasesChanged(v.pools()...)
}

// globalTunnel is what the node's device is made from.
func (d *Daemon) globalTunnel(g state.Global) tunnelConfig {
	name := g.Interface
	if name == "" {
		name = linkName(suffixGlobal, g.Deployment, g.InstanceID)
	}
	return tunnelConfig{name: name, alias: d.alias(kindGlobal, ""), key: d.key, port: g.Port, addrs: g.Addrs}
}

// portError says which port is in use, or which name.
func (d *Daemon) portError(field string, port uint16, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &Error{Code: wire.Conflict, Field: field, Msg: fmt.Sprintf("UDP port %d is in use: give another, or end what has it", port)}
	case errors.Is(err, overlay.ErrNameInUse):
		return &Error{Code: wire.Conflict, Msg: "an interface that is not the daemon's has the name of its own: remove it", Err: err}
	}
	return err
}

// settleGlobal makes the node's addresses its own in the plan.
func (d *Daemon) settleGlobal(g state.Global) error {
	err := d.plan.settle("this node", localPrefixes(g))
	var c *clash
	if errors.As(err, &c) {
		field := "slice_cidr"
		if len(g.Slice) == 0 {
			field = "cluster_cidr"
		}
		return &Error{Code: wire.Conflict, Field: field, Msg: c.Error() + ": take it from the peer first"}
	}
	return err
}

// localPrefixes are what of the overlay is the node's own.
func localPrefixes(g state.Global) []netip.Prefix {
	local := slices.Clone(g.Slice)
	for _, a := range g.Addrs {
		local = append(local, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return local
}

// checkHost refuses clusters, which the field names, that hold an address the host
// has already: it would lose the way to that network.
func (d *Daemon) checkHost(field string, cluster []netip.Prefix) error {
	if d.host == nil {
		return nil
	}
	links, err := d.host.Links()
	if err != nil {
		return because(err, "the host's interfaces cannot be listed")
	}
	for _, l := range links {
		if strings.HasPrefix(l.Alias, aliasPrefix) {
			continue // of services, whose subnets the leases know
		}
		addrs, err := d.host.Addrs(l.Index)
		if err != nil {
			return because(err, "the host's addresses cannot be listed")
		}
		for _, a := range addrs {
			for _, c := range cluster {
				if c.Contains(a.Addr()) {
					return &Error{Code: wire.Conflict, Field: field, Msg: fmt.Sprintf("%v holds %v, which is an address of %s of this host: set the node's overlay up with another cluster", c, a, l.Name)}
				}
			}
		}
	}
	return nil
}

// admitGlobal makes the firewall know the node's device and clusters.
func (d *Daemon) admitGlobal(from, to state.Global) error {
	if d.host == nil {
		return nil
	}
	return d.updateFirewall(func(f *hostnet.Firewall) {
		f.Devices = swap(f.Devices, from.Interface, to.Interface)
		f.Cluster = slices.Clone(to.Cluster)
		f.MTU = tunnelMTU
	})
}

// swap is a list with one name in place of another, in order; "" is none.
func swap(list []string, out, in string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == out || s == in })
	if in != "" {
		list = append(list, in)
	}
	slices.Sort(list)
	return list
}

// changeGlobal makes an overlay that is set up another one. What it is called stays:
// the interface has its name until the overlay is torn down.
func (d *Daemon) changeGlobal(now *globalView, want state.Global) error {
	want.Interface, want.Addrs = now.Interface, now.Addrs
	moved := !slices.Equal(want.Cluster, now.Cluster) || !slices.Equal(want.Slice, now.Slice)
	if !moved && want.Port == now.Port && want.Deployment == now.Deployment && want.InstanceID == now.InstanceID && want.NAT == now.NAT {
		return nil
	}
	var s steps
	var err error
	if moved {
		if err := d.checkMove(now, want); err != nil {
			return err
		}
		err = s.do("change_global.lease", func() (err error) {
			want.Addrs, err = d.leaseGlobal(want)
			return err
		}, func() error {
			_, err := d.leaseGlobal(now.Global)
			return err
		})
		if err == nil {
			err = s.do("change_global.plan", func() error {
				d.plan.leave(localPrefixes(now.Global))
				err := d.settleGlobal(want)
				if err != nil {
					err = errors.Join(err, d.settleGlobal(now.Global))
				}
				return err
			}, func() error {
				d.plan.leave(localPrefixes(want))
				return d.settleGlobal(now.Global)
			})
		}
	}
	if err == nil && (want.Port != now.Port || !slices.Equal(want.Addrs, now.Addrs)) {
		err = s.do("change_global.device", func() error {
			return d.portError("wg_port", want.Port, now.device.change(d.globalTunnel(want)))
		}, func() error { return now.device.change(d.globalTunnel(now.Global)) })
	}
	if err == nil && moved {
		err = s.do("change_global.firewall", func() error { return d.admitGlobal(now.Global, want) }, func() error { return d.admitGlobal(want, now.Global) })
	}
	if err == nil {
		err = s.do("change_global.record", func() error {
			return d.recordNode(func(n *state.Node) { n.Global = &want }, nil)
		}, nil)
	}
	if err != nil {
		return s.rollback(because(err, "the node's overlay is as it was"))
	}
	d.publishGlobal(&globalView{want, now.device})
	return nil
}

// checkMove refuses clusters that the host has addresses in, of those that are new.
func (d *Daemon) checkMove(now *globalView, want state.Global) error {
	var fresh []netip.Prefix
	for _, c := range want.Cluster {
		if !slices.Contains(now.Cluster, c) {
			fresh = append(fresh, c)
		}
	}
	return d.checkHost("cluster_cidr", fresh)
}

// renewed is called when a device has another tunnel than a moment ago.
func (d *Daemon) renewed(v *device) {
	if v.scope == "" {
		d.rejoinGlobal()
	}
}
