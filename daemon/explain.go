package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
)

// The verdicts of an Explanation.
const (
	verdictDelivered = "delivered" // it stays on this host
	verdictSent      = "sent"      // to a peer
	verdictForwarded = "forwarded" // to the outside
	verdictDropped   = "dropped"
)

// Reasons of a drop besides those of package packet.
const (
	reasonNoContainer = "no_container" // the address is nobody's
	reasonNoRoute     = "no_route"     // the kernel knows no way
	reasonNotReady    = "not_ready"    // there is no overlay
)

// explain follows a packet by what the daemon has set up and by the routes of the
// kernel. It sends nothing.
func (d *Daemon) explain(r wire.Explain) (wire.Explanation, error) {
	src, dst := r.Src.Unmap(), r.Dst.Unmap()
	switch {
	case !src.IsValid() || src.IsUnspecified() || src.IsMulticast() || src.Zone() != "":
		return wire.Explanation{}, invalid("src", "%v is no address that a host sends from", src)
	case !dst.IsValid() || dst.IsUnspecified() || dst.IsMulticast() || dst.Zone() != "":
		return wire.Explanation{}, invalid("dst", "%v is no address of one host", dst)
	case src.Is4() != dst.Is4():
		return wire.Explanation{}, invalid("dst", "%v and %v are of two families", src, dst)
	case !slices.Contains([]wire.Proto{"", wire.TCP, wire.UDP, wire.ICMP}, r.Proto):
		return wire.Explanation{}, invalid("proto", "%q is none of %q, %q and %q", r.Proto, wire.TCP, wire.UDP, wire.ICMP)
	case r.Port != 0 && r.Proto == wire.ICMP:
		return wire.Explanation{}, invalid("port", "%q has no ports", wire.ICMP)
	}
	t := tracer{d: d, dst: dst, proto: r.Proto, port: r.Port}
	t.src = d.locate(src)
	t.trace()
	return t.Explanation, nil
}

// A tracer follows one packet.
type tracer struct {
	wire.Explanation
	d     *Daemon
	src   station
	dst   netip.Addr
	proto wire.Proto
	port  uint16

	peerOf *device            // whose peer it is sent to; nil unless it is sent
	peer   overlay.PeerStatus // that peer
}

func (t *tracer) hop(part, format string, args ...any) {
	t.Path = append(t.Path, wire.Hop{Part: part, Detail: fmt.Sprintf(format, args...)})
}

func (t *tracer) end(verdict string) { t.Verdict = verdict }

func (t *tracer) drop(reason, part, format string, args ...any) {
	t.hop(part, format, args...)
	t.Verdict, t.Reason = verdictDropped, reason
}

func (t *tracer) trace() {
	t.hop("source", "%v is %s", t.src.addr, t.src.text)
	if t.src.kind == atNobody {
		t.drop(reasonNoContainer, "source", "nothing sends from %v", t.src.addr)
		return
	}
	published := t.translate()
	to := t.d.locate(t.dst)
	switch {
	case to.kind == atHere:
		t.hop("route", "%v is %s", t.dst, to.text)
		t.end(verdictDelivered)
	case t.src.kind == atOutside && t.d.inCluster(t.dst) && !published:
		t.drop(packet.Filtered.String(), "filter", "the overlay's addresses are not taken from outside: publish_port makes a port of %v one of the host", t.dst)
	case t.d.host == nil:
		t.rootless(to)
	default:
		t.route(to)
	}
}

// translate follows a published port, and reports whether it is one. Packets to ::1
// cannot be led elsewhere: Linux lets them leave by no other link.
func (t *tracer) translate() bool {
	at := hostPort{t.proto, t.dst, t.port}
	if t.port == 0 || t.dst == netip.IPv6Loopback() || t.d.locate(t.dst).kind != atHere {
		return false
	}
	p := &t.d.ports
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, published := range p.byPort[at.anywhere()] {
		to := p.table[published]
		if to.Addr().Is4() == t.dst.Is4() && (published.every() || published.ip == t.dst) {
			t.hop("nat", "%v is published: it leads to %v", published, to)
			t.dst, t.port = to.Addr(), to.Port()
			return true
		}
	}
	return false
}

// rootless is the way of a packet of the node's own TCP/IP stack.
func (t *tracer) rootless(to station) {
	v := t.d.global.load()
	if v == nil || v.device == nil {
		t.drop(reasonNotReady, "device", "the node's overlay is not set up: setup_global_overlay does that")
		return
	}
	t.hop("route", "the node's own TCP/IP stack sends everything to its peers")
	t.device(v.device, to)
}

// route follows the kernel's routes.
func (t *tracer) route(to station) {
	var src netip.Addr
	if t.src.kind != atOutside { // by where that comes in is not known
		src = t.src.addr
	}
	r, local, err := t.d.host.LookupRoute(t.dst, src, t.src.link)
	switch {
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EINVAL):
		t.drop(packet.Filtered.String(), "route", "the kernel does not take packets from %v there (rp_filter): %v", t.src.addr, err)
		return
	case err != nil:
		t.drop(reasonNoRoute, "route", "the kernel has no way to %v: %v", t.dst, err)
		return
	case local:
		t.hop("route", "%v is the host's own", t.dst)
		t.end(verdictDelivered)
		return
	}
	link, err := t.d.host.Link(r.Index)
	if err != nil {
		t.drop(reasonNoRoute, "route", "the link of the route to %v is gone: %v", t.dst, err)
		return
	}
	if r.Gateway.IsValid() {
		t.hop("route", "to %v through %s by %v", t.dst, link.Name, r.Gateway)
	} else {
		t.hop("route", "to %v through %s", t.dst, link.Name)
	}
	for _, v := range t.d.devices() {
		if v.link().Index == link.Index {
			t.device(v, to)
			return
		}
	}
	if _, _, ours := t.d.owned(link); ours {
		t.container(to)
		return
	}
	t.leave(link.Name, r.Src)
}

// container is the end of a packet on a bridge, or on a link of a container.
func (t *tracer) container(to station) {
	if to.kind != atContainer && to.kind != atReserved {
		t.drop(reasonNoContainer, "service", "%v is %s", t.dst, to.text)
		return
	}
	t.hop("service", "%v is %s", t.dst, to.text)
	t.end(verdictDelivered)
}

// device is the end of a packet on a WireGuard device.
func (t *tracer) device(v *device, to station) {
	whose := "the node's device"
	if v.scope != "" {
		whose = fmt.Sprintf("the device of service %q", v.scope)
	}
	key, prefix, ok := v.behind(t.dst)
	if !ok {
		t.drop(packet.NoPeer.String(), "peer", "no peer of %s has %v among its allowed IPs: add_peer or add_allowed_ip gives it to one; "+
			"the service or the node it belonged to may have been torn down", whose, t.dst)
		return
	}
	t.hop("peer", "%v is behind %v of %s, by its allowed %v", t.dst, key, whose, prefix)
	p, ok := peerOf(v, key)
	switch {
	case !ok:
		t.drop(packet.NoPeer.String(), "peer", "%v was removed a moment ago", key)
		return
	case !p.Addr.IsValid() && p.Endpoint == "":
		t.drop(packet.NoEndpoint.String(), "peer", "%v has no endpoint, and did not call yet: add_peer gives it one, or it calls this node by itself", key)
		return
	case !p.Addr.IsValid():
		t.drop(packet.NoEndpoint.String(), "peer", "the endpoint %s of %v is not resolved: it is tried again, and add_peer gives it another", p.Endpoint, key)
		return
	case p.LastHandshake.IsZero():
		t.hop("peer", "%v never answered at %v: there was no handshake with it", key, p.Addr)
	case !t.d.healthy(v.scope, key, p.LastHandshake):
		t.hop("peer", "%v does not answer at %v: its last handshake was %v ago", key, p.Addr, age(p.LastHandshake))
	default:
		t.hop("peer", "%v is at %v, and its last handshake was %v ago", key, p.Addr, age(p.LastHandshake))
	}
	t.peerOf, t.peer = v, p
	t.end(verdictSent)
}

func age(at time.Time) time.Duration { return max(0, time.Since(at)).Truncate(time.Second) }

// peerOf is a peer of a device.
func peerOf(v *device, key overlay.PublicKey) (overlay.PeerStatus, bool) {
	for _, p := range v.node().Peers() {
		if p.PublicKey == key {
			return p, true
		}
	}
	return overlay.PeerStatus{}, false
}

// leave is the end of a packet that goes out by a link that is not ours.
func (t *tracer) leave(link string, from netip.Addr) {
	if t.d.inCluster(t.dst) {
		t.drop(packet.Filtered.String(), "filter", "the overlay's addresses are not sent out by %s in the clear: no device of ours leads to %v", link, t.dst)
		return
	}
	rules := t.d.firewall.load()
	if slices.ContainsFunc(rules.Inside, func(p netip.Prefix) bool { return p.Contains(t.src.addr) }) {
		if from.IsValid() && from != t.src.addr {
			t.hop("nat", "%v is masqueraded behind %v of %s", t.src.addr, from, link)
		} else {
			t.hop("nat", "%v is masqueraded behind the address of %s", t.src.addr, link)
		}
	}
	t.end(verdictForwarded)
}
