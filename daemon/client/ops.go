package client

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
)

// answered sends a request that one type of result answers.
func answered[R wire.Response](ctx context.Context, c *Client, r wire.Request) (R, error) {
	var none R
	res, err := c.Call(ctx, r)
	if err != nil {
		return none, err
	}
	if res, ok := res.(R); ok {
		return res, nil
	}
	return none, failed(r.Op(), fmt.Errorf("%w: it answered with %s and not %s", ErrProtocol, res.Result(), none.Result()))
}

// done sends a request that OK answers.
func done(ctx context.Context, c *Client, r wire.Request) error {
	_, err := answered[wire.OK](ctx, c, r)
	return err
}

// SetLocalNodeID tells the daemon the cluster's number for this node.
func (c *Client) SetLocalNodeID(ctx context.Context, id uint64) error {
	return done(ctx, c, wire.SetLocalNodeID{NodeID: id})
}

// SetLocalWGPubkey tells the daemon the public key the cluster knows this node by.
func (c *Client) SetLocalWGPubkey(ctx context.Context, pubkey string) error {
	return done(ctx, c, wire.SetLocalWGPubkey{Pubkey: pubkey})
}

// SetupGlobalOverlay brings the node's own WireGuard device up and returns its
// name.
func (c *Client) SetupGlobalOverlay(ctx context.Context, r wire.SetupGlobalOverlay) (device string, err error) {
	res, err := answered[wire.BridgeName](ctx, c, r)
	return res.Name, err
}

// TeardownGlobalOverlay takes the node's own device down.
func (c *Client) TeardownGlobalOverlay(ctx context.Context) error {
	return done(ctx, c, wire.TeardownGlobalOverlay{})
}

// SetupServiceOverlay makes the network of a service on this node.
func (c *Client) SetupServiceOverlay(ctx context.Context, r wire.SetupServiceOverlay) (wire.ServiceOverlay, error) {
	return answered[wire.ServiceOverlay](ctx, c, r)
}

// TeardownServiceOverlay removes the network of a service.
func (c *Client) TeardownServiceOverlay(ctx context.Context, service string) error {
	return done(ctx, c, wire.TeardownServiceOverlay{Service: service})
}

// AllocateIP reserves an address of a service.
func (c *Client) AllocateIP(ctx context.Context, service string, joinGlobal bool) (netip.Addr, error) {
	res, err := answered[wire.IP](ctx, c, wire.AllocateIP{Service: service, JoinGlobal: joinGlobal})
	return res.IP, err
}

// ReleaseIP returns an address that AllocateIP reserved.
func (c *Client) ReleaseIP(ctx context.Context, ip netip.Addr) error {
	return done(ctx, c, wire.ReleaseIP{IP: ip})
}

// AttachContainer puts a container on the network of a service. A
// wire.GuestManaged handle is for AttachGuest.
func (c *Client) AttachContainer(ctx context.Context, r wire.AttachContainer) (wire.Attached, error) {
	if _, guest := r.Handle.(wire.GuestManaged); guest {
		return wire.Attached{}, misfit(r, "a guest_managed handle is for AttachGuest")
	}
	return answered[wire.Attached](ctx, c, r)
}

// AttachGuest puts a guest on the network of a service and returns what it needs
// to run WireGuard itself. The handle must be a wire.GuestManaged.
func (c *Client) AttachGuest(ctx context.Context, r wire.AttachContainer) (wire.GuestConfig, error) {
	if _, guest := r.Handle.(wire.GuestManaged); !guest {
		return wire.GuestConfig{}, misfit(r, "AttachGuest wants a guest_managed handle")
	}
	return answered[wire.GuestConfig](ctx, c, r)
}

// misfit is the refusal of an attachment whose handle the method is not for.
func misfit(r wire.AttachContainer, why string) *Error {
	return &Error{Op: r.Op(), Code: wire.InvalidRequest, Field: "handle", Message: why}
}

// DetachContainer takes a container off its networks.
func (c *Client) DetachContainer(ctx context.Context, h wire.Handle) error {
	return done(ctx, c, wire.DetachContainer{Handle: h})
}

// AddPeer adds a peer, or changes the one with its key. A nil scope is global.
func (c *Client) AddPeer(ctx context.Context, p wire.PeerSpec, scope wire.PeerScope) error {
	return done(ctx, c, wire.AddPeer{PeerSpec: p, Scope: scope})
}

// RemovePeer removes a peer. A nil scope is global.
func (c *Client) RemovePeer(ctx context.Context, pubkey string, scope wire.PeerScope) error {
	return done(ctx, c, wire.RemovePeer{Pubkey: pubkey, Scope: scope})
}

// AddAllowedIP adds prefixes, with commas between them, to what a peer may send
// from and is sent. A nil scope is global.
func (c *Client) AddAllowedIP(ctx context.Context, pubkey, cidr string, scope wire.PeerScope) error {
	return done(ctx, c, wire.AddAllowedIP{Pubkey: pubkey, CIDR: cidr, Scope: scope})
}

// RemoveAllowedIP takes prefixes from a peer. A nil scope is global.
func (c *Client) RemoveAllowedIP(ctx context.Context, pubkey, cidr string, scope wire.PeerScope) error {
	return done(ctx, c, wire.RemoveAllowedIP{Pubkey: pubkey, CIDR: cidr, Scope: scope})
}

// SetPeers makes the peers of a device exactly those given, in one change. A nil
// scope is global.
func (c *Client) SetPeers(ctx context.Context, peers []wire.PeerSpec, scope wire.PeerScope) (wire.PeersSet, error) {
	return answered[wire.PeersSet](ctx, c, wire.SetPeers{Peers: peers, Scope: scope})
}

// RegisterDNS gives a name an address.
func (c *Client) RegisterDNS(ctx context.Context, r wire.RegisterDNS) error {
	return done(ctx, c, r)
}

// UnregisterDNS removes a name.
func (c *Client) UnregisterDNS(ctx context.Context, name string) error {
	return done(ctx, c, wire.UnregisterDNS{Name: name})
}

// Status asks how the node is.
func (c *Client) Status(ctx context.Context) (wire.Status, error) {
	return answered[wire.Status](ctx, c, wire.StatusRequest{})
}

// NATTick asks for one round of looking for a way through NATs.
func (c *Client) NATTick(ctx context.Context) error {
	return done(ctx, c, wire.NATTick{})
}

// Shutdown asks the daemon to end.
func (c *Client) Shutdown(ctx context.Context) error {
	return done(ctx, c, wire.Shutdown{})
}

// ListAttachments lists the containers of a service; of all if it is empty.
func (c *Client) ListAttachments(ctx context.Context, service string) ([]wire.Attachment, error) {
	res, err := answered[wire.Attachments](ctx, c, wire.ListAttachments{Service: service})
	return res.Attachments, err
}

// ListServices lists the services that are set up.
func (c *Client) ListServices(ctx context.Context) ([]wire.Service, error) {
	res, err := answered[wire.Services](ctx, c, wire.ListServices{})
	return res.Services, err
}

// ListLeases lists the addresses given out in the subnets of a service; all if it
// is empty.
func (c *Client) ListLeases(ctx context.Context, service string) ([]wire.Lease, error) {
	res, err := answered[wire.Leases](ctx, c, wire.ListLeases{Service: service})
	return res.Leases, err
}

// ListPeers lists the peers of one device; of all if scope is nil.
func (c *Client) ListPeers(ctx context.Context, scope wire.PeerScope) ([]wire.Peer, error) {
	res, err := answered[wire.Peers](ctx, c, wire.ListPeers{Scope: scope})
	return res.Peers, err
}

// ListDNS lists the names that are served.
func (c *Client) ListDNS(ctx context.Context) (wire.DNS, error) {
	return answered[wire.DNS](ctx, c, wire.ListDNS{})
}

// PublishPort makes a port of a container one of the host.
func (c *Client) PublishPort(ctx context.Context, r wire.PublishPort) (wire.PublishedPort, error) {
	res, err := answered[wire.Port](ctx, c, r)
	return res.PublishedPort, err
}

// UnpublishPort ends what PublishPort began.
func (c *Client) UnpublishPort(ctx context.Context, r wire.UnpublishPort) error {
	return done(ctx, c, r)
}

// ListPorts lists the published ports.
func (c *Client) ListPorts(ctx context.Context) ([]wire.PublishedPort, error) {
	res, err := answered[wire.Ports](ctx, c, wire.ListPorts{})
	return res.Ports, err
}

// Resolve asks the daemon's name server for the addresses of a name.
func (c *Client) Resolve(ctx context.Context, name string) (wire.Resolved, error) {
	return answered[wire.Resolved](ctx, c, wire.Resolve{Name: name})
}

// Explain asks what would become of a packet.
func (c *Client) Explain(ctx context.Context, r wire.Explain) (wire.Explanation, error) {
	return answered[wire.Explanation](ctx, c, r)
}

// Ping asks the daemon to ping an address on the overlay once.
func (c *Client) Ping(ctx context.Context, ip netip.Addr) (wire.Pong, error) {
	return answered[wire.Pong](ctx, c, wire.Ping{IP: ip})
}
