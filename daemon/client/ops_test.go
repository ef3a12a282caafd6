package client

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func TestEveryOperationHasAMethod(t *testing.T) {
	var got wire.Request
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		got = f.Request
		ok(s, f)
	}))
	c, ctx := connected(t, s), deadline(t)
	scope := wire.ServiceScope{Service: "web"}
	peer := wire.PeerSpec{PublicKey: "k", Endpoint: "h:1", AllowedIPs: "10.0.0.0/8", Keepalive: 25}
	guest := wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"}

	none := func(err error) (any, error) { return nil, err }
	tests := []struct {
		want   wire.Request
		call   func(context.Context) (any, error)
		result any
	}{
		{wire.SetLocalNodeID{NodeID: 7}, func(ctx context.Context) (any, error) { return none(c.SetLocalNodeID(ctx, 7)) }, nil},
		{wire.SetLocalWGPubkey{Pubkey: "k"}, func(ctx context.Context) (any, error) { return none(c.SetLocalWGPubkey(ctx, "k")) }, nil},
		{wire.SetupGlobalOverlay{Deployment: "d", ClusterCIDR: "10.0.0.0/8", WGPort: 1}, func(ctx context.Context) (any, error) {
			return c.SetupGlobalOverlay(ctx, wire.SetupGlobalOverlay{Deployment: "d", ClusterCIDR: "10.0.0.0/8", WGPort: 1})
		}, "ovl-g"},
		{wire.TeardownGlobalOverlay{}, func(ctx context.Context) (any, error) { return none(c.TeardownGlobalOverlay(ctx)) }, nil},
		{wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeAuto}, func(ctx context.Context) (any, error) {
			return c.SetupServiceOverlay(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeAuto})
		}, wire.ServiceOverlay{Name: "ovl-b", Mode: wire.ModeShared}},
		{wire.TeardownServiceOverlay{Service: "web"}, func(ctx context.Context) (any, error) { return none(c.TeardownServiceOverlay(ctx, "web")) }, nil},
		{wire.AllocateIP{Service: "web", JoinGlobal: true}, func(ctx context.Context) (any, error) { return c.AllocateIP(ctx, "web", true) }, addr("10.0.0.2")},
		{wire.ReleaseIP{IP: addr("10.0.0.2")}, func(ctx context.Context) (any, error) { return none(c.ReleaseIP(ctx, addr("10.0.0.2"))) }, nil},
		{wire.AttachContainer{Handle: wire.LinuxPID{PID: 1}, Service: "web"}, func(ctx context.Context) (any, error) {
			return c.AttachContainer(ctx, wire.AttachContainer{Handle: wire.LinuxPID{PID: 1}, Service: "web"})
		}, wire.Attached{IP: addr("10.0.0.4")}},
		{guest, func(ctx context.Context) (any, error) { return c.AttachGuest(ctx, guest) }, wire.GuestConfig{OverlayIP: addr("10.0.0.3"), PrefixLen: 28}},
		{wire.DetachContainer{Handle: wire.LinuxPID{PID: 1}}, func(ctx context.Context) (any, error) { return none(c.DetachContainer(ctx, wire.LinuxPID{PID: 1})) }, nil},
		{wire.AddPeer{PeerSpec: peer, Scope: scope}, func(ctx context.Context) (any, error) { return none(c.AddPeer(ctx, peer, scope)) }, nil},
		{wire.RemovePeer{Pubkey: "k", Scope: wire.GlobalScope{}}, func(ctx context.Context) (any, error) { return none(c.RemovePeer(ctx, "k", nil)) }, nil},
		{wire.AddAllowedIP{Pubkey: "k", CIDR: "10.0.0.0/8", Scope: scope}, func(ctx context.Context) (any, error) {
			return none(c.AddAllowedIP(ctx, "k", "10.0.0.0/8", scope))
		}, nil},
		{wire.RemoveAllowedIP{Pubkey: "k", CIDR: "10.0.0.0/8", Scope: scope}, func(ctx context.Context) (any, error) {
			return none(c.RemoveAllowedIP(ctx, "k", "10.0.0.0/8", scope))
		}, nil},
		{wire.RegisterDNS{Name: "web", IP: addr("10.0.0.2"), Mode: wire.DNSAdd}, func(ctx context.Context) (any, error) {
			return none(c.RegisterDNS(ctx, wire.RegisterDNS{Name: "web", IP: addr("10.0.0.2"), Mode: wire.DNSAdd}))
		}, nil},
		{wire.UnregisterDNS{Name: "web"}, func(ctx context.Context) (any, error) { return none(c.UnregisterDNS(ctx, "web")) }, nil},
		{wire.StatusRequest{}, func(ctx context.Context) (any, error) { return c.Status(ctx) }, wire.Status{ServiceCount: 3}},
		{wire.NATTick{}, func(ctx context.Context) (any, error) { return none(c.NATTick(ctx)) }, nil},
		{wire.Shutdown{}, func(ctx context.Context) (any, error) { return none(c.Shutdown(ctx)) }, nil},

		{wire.ListAttachments{Service: "web"}, func(ctx context.Context) (any, error) { return c.ListAttachments(ctx, "web") }, canned(wire.ListAttachments{Service: "web"}).(wire.Attachments).Attachments},
		{wire.ListServices{}, func(ctx context.Context) (any, error) { return c.ListServices(ctx) }, []wire.Service{{Service: "web", Mode: wire.ModeShared}}},
		{wire.ListLeases{Service: "web"}, func(ctx context.Context) (any, error) { return c.ListLeases(ctx, "web") }, []wire.Lease{{IP: addr("10.0.0.6"), Pool: prefix("10.0.0.0/28")}}},
		{wire.ListPeers{Scope: scope}, func(ctx context.Context) (any, error) { return c.ListPeers(ctx, scope) }, canned(wire.ListPeers{}).(wire.Peers).Peers},
		{wire.ListDNS{}, func(ctx context.Context) (any, error) { return c.ListDNS(ctx) }, wire.DNS{Zone: "overlay.internal"}},
		{wire.SetPeers{Peers: []wire.PeerSpec{peer}, Scope: wire.GlobalScope{}}, func(ctx context.Context) (any, error) {
			return c.SetPeers(ctx, []wire.PeerSpec{peer}, nil)
		}, wire.PeersSet{Added: 1}},
		{wire.PublishPort{Proto: wire.TCP, IP: addr("10.0.0.7"), TargetPort: 80}, func(ctx context.Context) (any, error) {
			return c.PublishPort(ctx, wire.PublishPort{Proto: wire.TCP, IP: addr("10.0.0.7"), TargetPort: 80})
		}, wire.PublishedPort{Proto: wire.TCP, HostPort: 8080, IP: addr("10.0.0.7"), TargetPort: 80}},
		{wire.UnpublishPort{Proto: wire.TCP, HostPort: 8080}, func(ctx context.Context) (any, error) {
			return none(c.UnpublishPort(ctx, wire.UnpublishPort{Proto: wire.TCP, HostPort: 8080}))
		}, nil},
		{wire.ListPorts{}, func(ctx context.Context) (any, error) { return c.ListPorts(ctx) }, canned(wire.ListPorts{}).(wire.Ports).Ports},
		{wire.Resolve{Name: "web"}, func(ctx context.Context) (any, error) { return c.Resolve(ctx, "web") }, wire.Resolved{Name: "web.overlay.internal", IPs: []netip.Addr{addr("10.0.0.8")}}},
		{wire.Explain{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), Proto: wire.TCP, Port: 80}, func(ctx context.Context) (any, error) {
			return c.Explain(ctx, wire.Explain{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), Proto: wire.TCP, Port: 80})
		}, wire.Explanation{Verdict: "dropped", Reason: "no_peer"}},
		{wire.Ping{IP: addr("10.0.0.9")}, func(ctx context.Context) (any, error) { return c.Ping(ctx, addr("10.0.0.9")) }, wire.Pong{IP: addr("10.0.0.9"), RTT: 250}},
	}
	tried := map[string]bool{"hello": true, "subscribe_events": true}
	for _, test := range tests {
		t.Run(test.want.Op(), func(t *testing.T) {
			result, err := test.call(ctx)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
			require.Equal(t, test.result, result)
			tried[test.want.Op()] = true
		})
	}
	for _, op := range wire.Ops() {
		require.True(t, tried[op], op)
	}
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestAHandleOfTheWrongKindIsRefusedHere(t *testing.T) {
	c := connected(t, start(t, greeted(ok)))
	_, err := c.AttachContainer(deadline(t), wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = c.AttachGuest(deadline(t), wire.AttachContainer{Handle: wire.LinuxPID{PID: 1}})
	require.EqualError(t, err, "overlayd: attach_container: AttachGuest wants a guest_managed handle (invalid_request)")
}

func TestARefusalKeepsItsCode(t *testing.T) {
	answers := map[string]wire.Err{
		"web":   {Message: `no service "web"`, Code: wire.NotFound, Field: "service"},
		"busy":  {Message: "come again", Code: wire.Overloaded, Retryable: true},
		"old":   {Message: "global overlay not set up"},
		"novel": {Message: "m", Code: "out_of_cheese"},
	}
	s := start(t, greeted(func(s *session, f wire.RequestFrame) {
		s.reply(f, answers[f.Request.(wire.TeardownServiceOverlay).Service])
	}))
	c, ctx := connected(t, s), deadline(t)

	err := c.TeardownServiceOverlay(ctx, "web")
	require.ErrorIs(t, err, ErrNotFound)
	require.NotErrorIs(t, err, ErrConflict)
	require.EqualError(t, err, `overlayd: teardown_service_overlay: no service "web" (not_found)`)
	var refusal *Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, &Error{Op: "teardown_service_overlay", Code: wire.NotFound, Message: `no service "web"`, Field: "service"}, refusal)

	err = c.TeardownServiceOverlay(ctx, "busy")
	require.ErrorIs(t, err, ErrOverloaded)
	require.ErrorAs(t, err, &refusal)
	require.True(t, refusal.Retryable)

	err = c.TeardownServiceOverlay(ctx, "old")
	require.EqualError(t, err, "overlayd: teardown_service_overlay: global overlay not set up")
	require.ErrorAs(t, err, &refusal)
	require.NotErrorIs(t, err, ErrInternal)

	require.ErrorIs(t, c.TeardownServiceOverlay(ctx, "novel"), wire.Code("out_of_cheese"))
	require.EqualValues(t, 1, s.accepted.Load())
}

func TestWhatCannotBeEncodedIsNotSent(t *testing.T) {
	c := connected(t, start(t, greeted(ok)))
	err := c.ReleaseIP(deadline(t), netip.Addr{})
	require.EqualError(t, err, "overlayd: release_ip: wire: request.ip: is not set")
	var refused *wire.EncodeError
	require.ErrorAs(t, err, &refused)
	_, err = c.Status(deadline(t))
	require.NoError(t, err)
}
