package daemon

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func guestRequest(id string) wire.AttachContainer {
	return wire.AttachContainer{Handle: wire.GuestManaged{ID: id}, Service: "web"}
}

func TestAGuestIsAPeerOfTheNode(t *testing.T) {
	b := newAttachBed(t)
	g := b.d.global.load()
	c := b.setup(guestRequest("vm")).(wire.GuestConfig)

	private, err := overlay.ParsePrivateKey(string(c.PrivateKey))
	require.NoError(t, err)
	require.Equal(t, private.Public().String(), c.PublicKey)
	require.True(t, b.d.lookService("web").Subnets[0].Contains(c.OverlayIP))
	require.EqualValues(t, b.d.lookService("web").Subnets[0].Bits(), c.PrefixLen)
	require.EqualValues(t, 51820, c.ListenPort)
	require.Equal(t, []wire.PeerSpec{{
		PublicKey:  b.d.public.String(),
		Endpoint:   netip.AddrPortFrom(first(g.Addrs), 51820).String(),
		AllowedIPs: "10.200.0.0/16,fd00:200::/48",
		Keepalive:  25,
	}}, c.Peers)

	require.Len(t, c.Addresses, 2, "of both families")
	require.Equal(t, netip.PrefixFrom(c.OverlayIP, int(c.PrefixLen)), c.Addresses[0])
	require.True(t, c.Addresses[1].Addr().Is6())

	leases, err := b.d.listLeases(wire.ListLeases{})
	require.NoError(t, err)
	at := slices.IndexFunc(leases.Leases, func(l wire.Lease) bool { return l.IP == c.OverlayIP })
	require.Equal(t, "vm", leases.Leases[at].Owner, "as in the list of attachments")

	peers := g.device.peers()
	require.Len(t, peers, 1)
	require.Equal(t, c.PublicKey, peers[0].PublicKey)
	require.Contains(t, peers[0].AllowedIPs, c.OverlayIP.String()+"/32")
	require.Contains(t, peers[0].AllowedIPs, "/128")
	require.Empty(t, peers[0].Endpoint)
	routes := ipJSON(t, b.host, "route", "show", c.OverlayIP.String())
	require.Len(t, routes, 2)
	require.Equal(t, g.device.link().Name, routes[0]["dev"])
	require.Equal(t, "unreachable", routes[1]["type"], "for when the device is gone")

	require.Equal(t, c, b.setup(guestRequest("vm")), "the same again, the private key included")
	list, err := b.d.listAttachments(wire.ListAttachments{})
	require.NoError(t, err)
	require.Equal(t, wire.GuestManaged{ID: "vm"}, list.Attachments[0].Handle)
	require.Empty(t, list.Attachments[0].Interface)

	b.restart()
	require.Equal(t, c, b.setup(guestRequest("vm")))
	require.Len(t, b.d.global.load().device.peers(), 1)

	b.detachGuest("vm")
	b.isEmpty()
	require.Empty(t, b.d.global.load().device.peers())
	require.Empty(t, ipJSON(t, b.host, "route", "show", c.OverlayIP.String()))
	b.detachGuest("vm")
}

func TestAGuestMayHaveAKeyOfItsOwn(t *testing.T) {
	b := newAttachBed(t)
	private, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	r := guestRequest("vm")
	r.PublicKey = private.Public().String()
	c := b.setup(r).(wire.GuestConfig)
	require.Empty(t, c.PrivateKey)
	require.Equal(t, r.PublicKey, c.PublicKey)
	require.Equal(t, c, b.setup(r))

	refused := func(r wire.AttachContainer, code wire.Code, field string) {
		t.Helper()
		_, err := b.call(r)
		require.Error(t, err)
		require.Equal(t, code, reply(err).Code, "%v", err)
		require.Equal(t, field, reply(err).Field, "%v", err)
	}
	refused(guestRequest("vm"), wire.Conflict, "public_key")
	other := r
	other.Handle = wire.GuestManaged{ID: "other"}
	refused(other, wire.Conflict, "public_key")
	r.PublicKey = b.d.public.String()
	r.Handle = wire.GuestManaged{ID: "node"}
	refused(r, wire.Conflict, "public_key")
	r.PublicKey = "no key"
	refused(r, wire.InvalidRequest, "public_key")
	r = guestRequest("vm")
	r.Service = "other"
	refused(r, wire.Conflict, "service")
	for _, id := range []string{"", " a", "a/b", "a\nb", strings.Repeat("x", 1<<20)} {
		refused(guestRequest(id), wire.InvalidRequest, "handle.id")
	}
	require.Equal(t, 1, b.count())
	require.Len(t, b.leased(), 2)
	b.detachGuest("vm")
	b.isEmpty()
}

func TestAGuestNeedsTheNodesOwnOverlay(t *testing.T) {
	b := newBareAttachBed(t)
	_, err := b.call(guestRequest("vm"))
	require.Equal(t, wire.NotReady, reply(err).Code)
	require.ErrorContains(t, err, "global overlay to be set up")
	b.isEmpty()
}

func TestAGuestOfAServiceThatIsNotSetUpIsOnTheNodesOwnNetwork(t *testing.T) {
	b := newAttachBed(t)
	r := guestRequest("vm")
	r.Service = "elsewhere"
	c := b.setup(r).(wire.GuestConfig)
	require.True(t, netip.MustParsePrefix("10.200.1.0/24").Contains(c.OverlayIP))
	require.EqualValues(t, 24, c.PrefixLen)
	b.setup(wire.TeardownGlobalOverlay{})
	b.isEmpty()
}

func TestManyClientsAttachOneGuestOnce(t *testing.T) {
	b := newAttachBed(t)
	answers := make([]wire.Response, 16)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = b.d.attach(context.Background(), guestRequest("vm")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		require.Equal(t, answers[0], a)
	}
	require.Equal(t, 1, b.count())
	require.Len(t, b.leased(), 2)
	b.detachGuest("vm")
	b.isEmpty()
}
