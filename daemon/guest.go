package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// guestKeepalive is how often a guest sends something: its node knows no endpoint
// of it and answers where it calls from.
const guestKeepalive = 25 * time.Second

func checkGuestID(id string) error { return checkName("handle.id", id, false) }

// attachGuest makes a guest a peer of the node's own device. What it sends to the
// clusters goes through the node, and so does what is sent to it.
func (d *Daemon) attachGuest(ctx context.Context, id string, r wire.AttachContainer) (wire.Response, error) {
	if err := checkGuestID(id); err != nil {
		return nil, err
	}
	if err := checkName("service", r.Service, false); err != nil {
		return nil, err
	}
	var key overlay.PublicKey
	if r.PublicKey != "" {
		var err error
		if key, err = overlay.ParsePublicKey(r.PublicKey); err != nil {
			return nil, invalid("public_key", "%v", err)
		}
	}
	// A guest has no interface on the service's bridge, so the service need not be.
	s, release, err := d.service(r.Service)
	switch {
	case errors.Is(err, wire.NotFound):
		s, release = nil, func() {}
	case err != nil:
		return nil, err
	}
	defer release()
	g, leave, err := d.globalOverlay()
	if errors.Is(err, wire.NotReady) {
		return nil, failed(wire.NotReady, "guest %q needs the global overlay to be set up: send setup_global_overlay first", id)
	}
	if err != nil {
		return nil, err
	}
	defer leave()
	at, err := d.attachments.claim(ctx, container{guest: id})
	if err != nil {
		return nil, because(err, "attach guest %q", id)
	}
	defer d.attachments.yield(at)

	if at.record != nil && at.struck {
		if err := d.remove(at, "detached"); err != nil {
			return nil, err
		}
	}
	switch was := at.record; {
	case was == nil:
		err = d.attachNewGuest(ctx, at, s, g, id, key, r)
	case was.Service != r.Service:
		return nil, &Error{Code: wire.Conflict, Field: "service", Msg: fmt.Sprintf("guest %q is attached to service %q: detach it from there first", id, was.Service)}
	case r.PublicKey == "" && was.PrivateKey.IsZero():
		return nil, &Error{Code: wire.Conflict, Field: "public_key", Msg: fmt.Sprintf("guest %q is attached with a key of its own: send it, or detach the guest first", id)}
	case r.PublicKey != "" && was.PublicKey != key:
		return nil, &Error{Code: wire.Conflict, Field: "public_key", Msg: fmt.Sprintf("guest %q is attached with another key: detach it first", id)}
	default:
		err = d.attachGuestAgain(ctx, at, g, r)
	}
	if err != nil {
		return nil, because(err, "attach guest %q", id)
	}
	return guestConfig(at.record, g)
}

func (d *Daemon) attachNewGuest(ctx context.Context, at *attachment, s *service, g *globalView, id string, key overlay.PublicKey, r wire.AttachContainer) error {
	a := &state.Attachment{
		ID:         newAttachmentID(),
		Guest:      id,
		Service:    r.Service,
		JoinGlobal: r.JoinGlobal,
		PublicKey:  key,
		Since:      time.Now().Unix(),
	}
	d.setDNS(a, r)
	if r.PublicKey == "" {
		private, err := overlay.GeneratePrivateKey()
		if err != nil {
			return err
		}
		a.PrivateKey, a.PublicKey = private, private.Public()
	}
	if key == d.public || !d.attachments.takeKey(a.PublicKey) {
		return keyTaken(a.PublicKey)
	}
	err := checkGuestKey(a.PublicKey, g)
	if err == nil {
		var st steps
		if err = d.guestSteps(ctx, &st, a, s, g, r); err != nil {
			err = st.rollback(err)
		}
	}
	if err != nil {
		d.attachments.freeKey(a.PublicKey)
		return err
	}
	d.attachments.set(at, a)
	d.announce(a)
	return nil
}

func (d *Daemon) guestSteps(ctx context.Context, st *steps, a *state.Attachment, s *service, g *globalView, r wire.AttachContainer) error {
	pools := g.pools()
	if s != nil {
		pools = s.Subnets
	}
	err := st.do("guest.lease",
		func() error { return d.lease(a, pools, nil) },
		func() error { return d.release(a, nil) })
	if err != nil {
		return err
	}
	err = st.do("guest.peer",
		func() error { return g.device.setGuest(ctx, a.PublicKey, addrsOf(a.Addrs)) },
		func() error { return g.device.removeGuest(a.PublicKey) })
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return st.do("guest.record", func() error { return d.put(a, r) }, nil)
}

// attachGuestAgain answers as before; the peer is made anew if it is not there.
func (d *Daemon) attachGuestAgain(ctx context.Context, at *attachment, g *globalView, r wire.AttachContainer) error {
	a := *at.record
	a.JoinGlobal = r.JoinGlobal
	changeDNS(&a, r)
	if err := d.updateFor(at, &a, r); err != nil {
		return err
	}
	return g.device.setGuest(ctx, a.PublicKey, addrsOf(a.Addrs))
}

// checkGuestKey refuses a key that a peer has already.
func checkGuestKey(key overlay.PublicKey, g *globalView) error {
	for _, p := range g.device.peers() {
		if p.PublicKey == key.String() {
			return keyTaken(key)
		}
	}
	return nil
}

func keyTaken(key overlay.PublicKey) error {
	return &Error{Code: wire.Conflict, Field: "public_key", Msg: fmt.Sprintf("%v is the key of the node, of a peer or of another guest: a guest wants one of its own", key)}
}

// disconnectGuest takes a guest off the node's device.
func (d *Daemon) disconnectGuest(a *state.Attachment) error {
	if device := d.global.load().device; device != nil {
		return device.removeGuest(a.PublicKey)
	}
	return nil
}

// guestConfig is what a guest on record needs to know. Its one peer is the node,
// whose endpoint the guest's host replaces by one that it reaches.
func guestConfig(a *state.Attachment, g *globalView) (wire.Response, error) {
	c := wire.GuestConfig{
		OverlayIP:  first(a.Addrs),
		PrefixLen:  uint8(a.Addrs[0].Bits()),
		PublicKey:  a.PublicKey.String(),
		ListenPort: g.Port,
		DNSServer:  a.DNSServer,
		DNSDomain:  a.DNSDomain,
		Addresses:  a.Addrs,
	}
	if !a.PrivateKey.IsZero() {
		text, err := a.PrivateKey.MarshalText()
		if err != nil {
			return nil, err
		}
		c.PrivateKey = wire.Secret(text)
	}
	clusters := make([]string, len(g.Cluster))
	for i, p := range g.Cluster {
		clusters[i] = p.String()
	}
	c.Peers = []wire.PeerSpec{{
		PublicKey:  g.device.node().PublicKey().String(),
		Endpoint:   netip.AddrPortFrom(first(g.Addrs), g.Port).String(),
		AllowedIPs: strings.Join(clusters, ","),
		Keepalive:  uint64(guestKeepalive / time.Second),
	}}
	return c, nil
}
