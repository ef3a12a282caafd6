package daemon_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// routesTo are the destinations that a device is the way to, as ip(8) lists them.
func (h *host) routesTo(device string) string {
	h.t.Helper()
	var all []string
	for line := range strings.Lines(h.run("ip", "route", "show", "dev", device, "proto", "static") + h.run("ip", "-6", "route", "show", "dev", device, "proto", "static")) {
		fields := strings.Fields(line)
		src := ""
		for i, f := range fields {
			if f == "src" {
				src = " src " + fields[i+1]
			}
		}
		all = append(all, fields[0]+src)
	}
	return strings.Join(all, "\n")
}

func peerOf(t *testing.T) wire.PeerSpec {
	t.Helper()
	key, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	return wire.PeerSpec{PublicKey: key.Public().String(), Endpoint: "192.0.2.8:51420"}
}

func TestRoutesFollowTheNodesNetworks(t *testing.T) {
	h := startHost(t)
	setup := func(cluster string) {
		_, err := h.SetupGlobalOverlay(h.ctx, wire.SetupGlobalOverlay{ClusterCIDR: cluster, WGPort: 51420})
		require.NoError(t, err)
	}
	setup("10.200.0.0/16")
	p := peerOf(t)
	p.AllowedIPs = "10.200.0.0/16,10.77.0.0/16,fd77::/64"
	require.NoError(t, h.AddPeer(h.ctx, p, nil))
	device := h.facts().Status.Interface
	require.Equal(t, "10.77.0.0/16 src 10.200.0.1", h.routesTo(device))
	setup("10.200.0.0/16,fd00:200::/48")
	require.Equal(t, "10.77.0.0/16 src 10.200.0.1\nfd77::/64 src fd00:200::1", h.routesTo(device))
	setup("10.77.0.0/16,fd00:200::/48")
	require.Equal(t, "10.200.0.0/16 src 10.77.0.1\nfd77::/64 src fd00:200::1", h.routesTo(device))
	require.Equal(t, "10.200.0.0/16 fd77::/64", h.guards(), "what is routed is guarded, and nothing else")
	setup("10.200.0.0/16")
	require.Equal(t, "10.77.0.0/16 src 10.200.0.1", h.routesTo(device))
	require.Equal(t, "10.77.0.0/16", h.guards())
	h.verify()
}

func TestRoutesFollowAllowedIPs(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	device := h.facts().Status.Interface
	require.NoError(t, h.AddPeer(h.ctx, aPeer, nil))
	require.Equal(t, "10.200.9.0/24 src 10.200.1.1\nfd00:200:0:9::/64 src fd00:200:0:1::1", h.routesTo(device))

	require.NoError(t, h.AddAllowedIP(h.ctx, aPeer.PublicKey, "10.200.10.0/24,10.200.11.0/24", nil))
	require.NoError(t, h.AddAllowedIP(h.ctx, aPeer.PublicKey, "10.200.11.0/24", nil), "what it has already")
	require.NoError(t, h.RemoveAllowedIP(h.ctx, aPeer.PublicKey, "10.200.10.0/24,fd00:200:0:9::/64", nil))
	require.NoError(t, h.RemoveAllowedIP(h.ctx, aPeer.PublicKey, "10.200.99.0/24", nil), "what it does not have")
	require.Equal(t, "10.200.9.0/24 src 10.200.1.1\n10.200.11.0/24 src 10.200.1.1", h.routesTo(device))
	require.Equal(t, "10.200.9.0/24,10.200.11.0/24", h.facts().Peers[0].AllowedIPs)

	other := peerOf(t)
	other.AllowedIPs = "10.200.9.128/25"
	e := h.refused(wire.Conflict, "allowed_ips", func() error { return h.AddPeer(h.ctx, other, nil) })
	require.Contains(t, e.Message, other.PublicKey)
	require.Contains(t, e.Message, aPeer.PublicKey)
	e = h.refused(wire.Conflict, "cidr", func() error { return h.AddAllowedIP(h.ctx, aPeer.PublicKey, "10.200.1.8/29", nil) })
	require.Contains(t, e.Message, "10.200.1.0/24 of this node")

	// An upsert replaces what there was.
	changed := aPeer
	changed.Endpoint, changed.AllowedIPs, changed.Keepalive = "192.0.2.7:51421", "10.200.12.0/24", 7
	require.NoError(t, h.AddPeer(h.ctx, changed, nil))
	is := h.facts().Peers[0]
	require.Equal(t, changed, wire.PeerSpec{PublicKey: is.PublicKey, Endpoint: is.Endpoint, AllowedIPs: is.AllowedIPs, Keepalive: is.Keepalive})
	require.Equal(t, "10.200.12.0/24 src 10.200.1.1", h.routesTo(device))

	// The cluster is reached through the device without a route of its own.
	changed.AllowedIPs = "10.200.0.0/16"
	require.NoError(t, h.AddPeer(h.ctx, changed, nil))
	require.Empty(t, h.routesTo(device))
	other.AllowedIPs = "10.77.0.0/16"
	require.NoError(t, h.AddPeer(h.ctx, other, nil))
	require.Equal(t, "10.77.0.0/16 src 10.200.1.1", h.routesTo(device))

	before := h.facts().text()
	h.kill()
	h.start()
	require.Equal(t, before, h.facts().text())
	require.Equal(t, "10.77.0.0/16 src 10.200.1.1", h.routesTo(device))

	for range 2 {
		require.NoError(t, h.RemovePeer(h.ctx, changed.PublicKey, nil))
		require.NoError(t, h.RemovePeer(h.ctx, other.PublicKey, nil))
	}
	require.Empty(t, h.routesTo(device))
	require.Empty(t, h.facts().Peers)
	h.refused(wire.NotFound, "pubkey", func() error { return h.AddAllowedIP(h.ctx, aPeer.PublicKey, "10.200.9.0/24", nil) })
	require.NoError(t, h.RemoveAllowedIP(h.ctx, aPeer.PublicKey, "10.200.9.0/24", nil))
}

func TestPeersAreSetAllAtOnceAndGuestsStay(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	require.NoError(t, attachGuest(h, nil))
	guest := h.facts().Peers[0]
	require.NoError(t, h.AddPeer(h.ctx, aPeer, nil))

	set := func(peers ...wire.PeerSpec) (wire.PeersSet, error) { return h.SetPeers(h.ctx, peers, nil) }
	one, two := peerOf(t), peerOf(t)
	one.AllowedIPs, two.AllowedIPs = "10.200.20.0/24", aPeer.AllowedIPs
	done, err := set(one, two)
	require.NoError(t, err, "a prefix goes from one peer to another in one change")
	require.Equal(t, wire.PeersSet{Added: 2, Removed: 1}, done)
	require.Contains(t, h.facts().Peers, guest)
	require.Len(t, h.facts().Peers, 3)
	done, err = set(two, one)
	require.NoError(t, err)
	require.Equal(t, wire.PeersSet{}, done, "the same again")
	one.AllowedIPs, two.AllowedIPs = two.AllowedIPs, one.AllowedIPs
	done, err = set(one, two)
	require.NoError(t, err, "two change places")
	require.Equal(t, wire.PeersSet{Changed: 2}, done)

	clash := two
	clash.AllowedIPs = "10.200.9.0/25"
	h.refused(wire.Conflict, "peers[1].allowed_ips", func() error { _, err := set(one, clash); return err })
	h.refused(wire.InvalidRequest, "peers[2].public_key", func() error { _, err := set(one, two, one); return err })
	theGuest := peerOf(t)
	theGuest.PublicKey = guest.PublicKey
	h.refused(wire.Conflict, "peers[1].public_key", func() error { _, err := set(one, theGuest); return err })
	h.refused(wire.Conflict, "pubkey", func() error { return h.RemovePeer(h.ctx, guest.PublicKey, nil) })
	own := peerOf(t)
	own.PublicKey = h.facts().Status.PublicKey
	h.refused(wire.InvalidRequest, "public_key", func() error { return h.AddPeer(h.ctx, own, nil) })

	done, err = set()
	require.NoError(t, err)
	require.Equal(t, wire.PeersSet{Removed: 2}, done)
	require.Equal(t, []wire.Peer{guest}, h.facts().Peers)
}

func TestAPeerWhoseNameIsNotFoundIsRefusedNowAndFoundLater(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	spec := aPeer
	spec.Endpoint = "no.such.host.invalid:51420"
	e := h.refused(wire.NotReady, "endpoint", func() error { return h.AddPeer(h.ctx, spec, nil) })
	require.True(t, e.Retryable)
	spec.Endpoint = "localhost:51420"
	require.NoError(t, h.AddPeer(h.ctx, spec, nil))
	peers, err := h.ListPeers(h.ctx, nil)
	require.NoError(t, err)
	require.Equal(t, "localhost:51420", peers[0].Endpoint)
	require.True(t, peers[0].Address.IsLoopback())
	h.kill()
	h.start()
	require.Eventually(t, func() bool {
		peers, err := h.ListPeers(h.ctx, nil)
		return err == nil && len(peers) == 1 && peers[0].Endpoint == "localhost:51420" && peers[0].Address.IsLoopback()
	}, waitFor, tick)
}

func TestManyPeersAtOnce(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	device := h.facts().Status.Interface
	specs := make([]wire.PeerSpec, 200)
	for i := range specs {
		specs[i] = peerOf(t)
		specs[i].AllowedIPs = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, 100 + byte(i/16), byte(i%16) * 16}), 28).String()
	}
	var wait sync.WaitGroup
	errs := make([]error, 16)
	for n := range 16 {
		wait.Go(func() {
			for i := n; i < len(specs); i += 16 {
				for range 2 {
					if err := h.AddPeer(h.ctx, specs[i], nil); err != nil {
						errs[n] = fmt.Errorf("peer %d: %w", i, err)
					}
				}
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, h.facts().Peers, len(specs))
	require.Len(t, strings.Split(h.routesTo(device), "\n"), len(specs))
	done, err := h.SetPeers(h.ctx, specs[:100], nil)
	require.NoError(t, err)
	require.Equal(t, wire.PeersSet{Removed: 100}, done)
	h.kill()
	h.start()
	require.Len(t, h.facts().Peers, 100)
	require.Len(t, strings.Split(h.routesTo(device), "\n"), 100)
}
