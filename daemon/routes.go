package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// routes is the owner of the host's routes to what lies behind peers.
//
// A prefix that a peer's own endpoint lies in is not routed: the sealed packets
// would go into the tunnel that they come from. Nor is a default route, which would
// take the host off its network: who wants one sets it for the traffic that is to
// take it. Both still are the peer's.
//
// What is routed is guarded too: when its device is gone, because it is made anew, or
// because the daemon ended, what is for the prefix is refused and not sent in the
// clear by the host's default route. What is not routed is not guarded: neither the
// way to a peer's endpoint nor the host's own out is ever cut. A guard gives way to
// any route of the host's to the same prefix or to a part of it.
type routes struct {
	mu       sync.Mutex
	wanted   bart.Table[*route]
	made     map[netip.Prefix]hostnet.Route
	guarded  map[netip.Prefix]bool
	aside    map[netip.Prefix]string // what is not routed, and why
	underlay bart.Table[int]         // addresses of peers' endpoints, and how many are there

	held atomic.Pointer[[]string] // warnings
}

// A route is a prefix that is to be reached through a device.
type route struct {
	device *device
	onLink bool // it comes with the device's address
}

// A detour is a change of what is routed, and of where peers are.
type detour struct {
	device    *device
	from, to  []netip.Prefix // the device's routes that go and come
	gone, new []netip.Addr   // endpoints
}

func (t detour) back() detour {
	return detour{device: t.device, from: t.to, to: t.from, gone: t.new, new: t.gone}
}

// reroute changes routes: all of it, or, on error, nothing.
func (d *Daemon) reroute(t detour) error {
	if d.host == nil {
		return nil
	}
	r := &d.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	touched := r.plan(t)
	err := d.align(touched)
	if err != nil {
		touched = r.plan(t.back())
		err = errors.Join(err, d.align(touched))
	}
	r.warn()
	return err
}

// expect takes a detour over into what is wanted, for remake to make it so.
func (d *Daemon) expect(t detour) {
	if d.host == nil {
		return
	}
	r := &d.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan(t)
}

// plan takes a detour over into what is wanted, and returns the prefixes that it
// may make a difference to.
func (r *routes) plan(t detour) (touched []netip.Prefix) {
	for _, p := range t.from {
		if w, ok := r.wanted.Get(p); ok && w.device == t.device && !w.onLink {
			r.wanted.Delete(p)
			touched = append(touched, p)
		}
	}
	for _, p := range t.to {
		if _, ok := r.wanted.Get(p); !ok && t.device.has(p.Addr()) {
			r.wanted.Insert(p, &route{device: t.device})
			touched = append(touched, p)
		}
	}
	for _, a := range t.gone {
		touched = append(touched, r.count(a, -1)...)
	}
	for _, a := range t.new {
		touched = append(touched, r.count(a, 1)...)
	}
	return touched
}

// count counts the endpoints at an address, and returns the prefixes around it when
// there is the first or none any more.
func (r *routes) count(a netip.Addr, by int) (touched []netip.Prefix) {
	single := netip.PrefixFrom(a, a.BitLen())
	was, _ := r.underlay.Get(single)
	is := max(was+by, 0)
	if is == 0 {
		r.underlay.Delete(single)
	} else {
		r.underlay.Insert(single, is)
	}
	if (was == 0) != (is == 0) {
		for p := range r.wanted.Supernets(single) {
			touched = append(touched, p)
		}
	}
	return touched
}

// holds is an endpoint in a prefix, which for that is not routed.
func (r *routes) holds(p netip.Prefix) (netip.Addr, bool) {
	for single := range r.underlay.Subnets(p) {
		return single.Addr(), true
	}
	return netip.Addr{}, false
}

// align makes the host's routes to prefixes what is wanted.
func (d *Daemon) align(touched []netip.Prefix) error {
	r := &d.routes
	var errs []error
	for _, p := range touched {
		w, ok := r.wanted.Get(p)
		delete(r.aside, p)
		if ok {
			if why := r.hindrance(p, w); why != "" {
				r.setAside(p, why)
				ok = false
			}
		}
		was, there := r.made[p]
		if !ok || w.onLink {
			if there {
				errs = append(errs, d.host.DeleteRoute(was))
				delete(r.made, p)
			}
			errs = append(errs, d.guard(p, false))
			continue
		}
		errs = append(errs, d.guard(p, true)) // first, as there may be no way yet
		is := hostnet.Route{Dst: p, Src: w.device.source(p.Addr()), Index: w.device.link().Index}
		if there && was == is {
			continue
		}
		if err := d.setRoute(is, there && was.Index == is.Index); err != nil {
			errs = append(errs, err)
			continue
		}
		if r.made == nil {
			r.made = make(map[netip.Prefix]hostnet.Route)
		}
		r.made[p] = is
	}
	return errors.Join(errs...)
}

// guard makes a prefix guarded, also when somebody removed the guard, or not guarded;
// routes.mu is held.
func (d *Daemon) guard(p netip.Prefix, wanted bool) (err error) {
	r := &d.routes
	if !wanted {
		if !r.guarded[p] {
			return nil
		}
		if err = d.host.DeleteGuard(p); err == nil {
			delete(r.guarded, p)
		}
		return err
	}
	if err = d.host.AddGuard(p); err == nil {
		if r.guarded == nil {
			r.guarded = make(map[netip.Prefix]bool)
		}
		r.guarded[p] = true
	}
	return err
}

// repairGuards makes what is guarded what is wanted, also of devices that are not
// there yet, and of an earlier run what was left over.
func (d *Daemon) repairGuards() error {
	if d.host == nil {
		return nil
	}
	there, err := d.host.Guards()
	if err != nil {
		return err
	}
	r := &d.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guarded = make(map[netip.Prefix]bool, len(there))
	for _, p := range there {
		r.guarded[p] = true
	}
	var errs []error
	for p, w := range r.wanted.All() {
		if !w.onLink && r.hindrance(p, w) == "" {
			errs = append(errs, d.guard(p, true))
		}
	}
	for _, p := range there {
		if w, ok := r.wanted.Get(p); !ok || w.onLink || r.hindrance(p, w) != "" {
			errs = append(errs, d.guard(p, false))
		}
	}
	return errors.Join(errs...)
}

// hindrance is why a prefix is not routed, "" when it is.
func (r *routes) hindrance(p netip.Prefix, w *route) string {
	endpoint, held := r.holds(p)
	switch {
	case p.Bits() == 0:
		return fmt.Sprintf("%v is a peer's of %s, but is not routed, since the host would lose its own way out: route what is to go there yourself", p, w.device)
	case held && w.onLink:
		return fmt.Sprintf("the endpoint %v of a peer lies in %v, which is reached through %s: give the peer an endpoint outside of the overlay", endpoint, p, w.device)
	case held:
		return fmt.Sprintf("%v is a peer's of %s, but is not routed, since the endpoint %v of a peer lies in it", p, w.device, endpoint)
	}
	return ""
}

func (r *routes) setAside(p netip.Prefix, why string) {
	if r.aside == nil {
		r.aside = make(map[netip.Prefix]string)
	}
	r.aside[p] = why
}

// setRoute makes a route, but takes none of another link's place.
func (d *Daemon) setRoute(r hostnet.Route, ours bool) error {
	if !ours {
		err := d.host.AddRoute(r.Index, r.Dst)
		if errors.Is(err, fs.ErrExist) {
			has, listed := d.host.Routes(r.Index)
			if listed != nil {
				return listed
			}
			if !slices.ContainsFunc(has, func(h hostnet.Route) bool { return h.Dst == r.Dst }) {
				return fmt.Errorf("the host has a route to %v through another interface: remove it, or give the peer other allowed IPs: %w", r.Dst, err)
			}
		} else if err != nil {
			return err
		}
	}
	if !r.Src.IsValid() {
		return nil
	}
	return d.host.SetRoute(r)
}

// onLink takes note of what a device's addresses make reachable by themselves, so
// that it is not routed once more, and is warned of when an endpoint lies in it.
func (r *routes) onLink(v *device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.of(v) {
		if w, _ := r.wanted.Get(p); w.onLink {
			r.wanted.Delete(p)
			delete(r.aside, p)
		}
	}
	for _, p := range v.addrs() {
		if p = p.Masked(); !p.IsSingleIP() {
			w := &route{device: v, onLink: true}
			r.wanted.Insert(p, w)
			if why := r.hindrance(p, w); why != "" {
				r.setAside(p, why)
			}
		}
	}
	r.warn()
}

// of are the prefixes that are reached through a device.
func (r *routes) of(v *device) (list []netip.Prefix) {
	for p, w := range r.wanted.All() {
		if w.device == v {
			list = append(list, p)
		}
	}
	return list
}

// remake makes the routes of a device once more, after its link was made anew, and
// all of them went with the one before; device.mu is held. It may have other
// addresses now, so that other prefixes are on the link, or of a family it has.
func (d *Daemon) remake(v *device) error {
	if d.host == nil {
		return nil
	}
	r := &d.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	touched := r.of(v)
	for _, p := range v.all() {
		touched = append(touched, r.plan(detour{device: v, from: p.AllowedIPs, to: p.AllowedIPs})...)
	}
	for _, p := range touched {
		delete(r.made, p)
	}
	err := d.align(touched)
	r.warn()
	return err
}

// forget drops all of a device's routes, which went with its link, and their guards.
func (d *Daemon) forget(v *device) error {
	r := &d.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, p := range r.of(v) {
		r.wanted.Delete(p)
		delete(r.made, p)
		delete(r.aside, p)
		errs = append(errs, d.guard(p, false))
	}
	r.warn()
	return errors.Join(errs...)
}

// maxWarnings bounds what status lists.
const maxWarnings = 64

// warn writes down what is set aside, for status.
func (r *routes) warn() {
	list := slices.Sorted(maps.Values(r.aside))
	list = list[:min(len(list), maxWarnings)]
	r.held.Store(&list)
}

// warnings are what is not routed. It never waits.
func (r *routes) warnings() []string {
	if held := r.held.Load(); held != nil {
		return *held
	}
	return nil
}
