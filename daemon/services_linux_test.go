package daemon_test

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// How long and how often a test looks for what happens in the background.
const (
	waitFor = 30 * time.Second
	tick    = 10 * time.Millisecond
)

func TestAServiceIsSetUpOnceAndTornDownOnce(t *testing.T) {
	h := startHost(t)
	fresh := h.listing()
	require.NoError(t, h.SetLocalNodeID(h.ctx, 1))
	// Before the node's own overlay: the reference's places and the default cluster.
	first := h.setupService("web", "auto")
	require.Equal(t, wire.ServiceOverlay{Name: "ovl-web-b", Mode: "shared"}, first)
	require.Equal(t, first, h.setupService("web", "shared"))
	web := h.service("web")
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.200.74.16/28")}, web.Subnets)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.200.74.17")}, web.Gateways)
	require.Equal(t, 1420, h.ours()["ovl-web-b"].MTU)
	c := newContainer(t, "c")
	h.attach(c, "web", false)
	h.verify(c)

	// A cluster that does not hold what is there is refused; one that does is taken.
	h.refused(wire.Conflict, "cluster_cidr", func() error {
		return h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.ClusterCIDR, r.SliceCIDR = "10.99.0.0/16", "" })
	})
	h.setupGlobal(1)
	require.Equal(t, first, h.setupService("web", "auto"))
	h.verify(c)

	for range 2 {
		require.NoError(t, h.TeardownServiceOverlay(h.ctx, "web"))
	}
	require.Empty(t, h.verify(c).Attachments)
	require.NotContains(t, c.links(), "eth0")
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	require.Empty(t, h.facts().Leases)
	require.Equal(t, fresh, h.listing())
}

func TestAServiceDoesNotCutTheHostOffItsNetwork(t *testing.T) {
	h := startHost(t)
	h.run("ip", "link", "add", "lan", "type", "bridge")
	h.run("ip", "address", "add", "10.200.3.4/24", "dev", "lan")
	before := h.listing()
	setup := func() error {
		_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: "web", Mode: "auto"})
		return err
	}
	e := h.refused(wire.Conflict, "", setup)
	require.Contains(t, e.Message, "10.200.3.4/24, which is an address of lan")
	require.Equal(t, before, h.listing())
	require.Empty(t, h.facts().Leases)

	_, err := h.SetupGlobalOverlay(h.ctx, wire.SetupGlobalOverlay{ClusterCIDR: "10.99.0.0/16", WGPort: 51420})
	require.NoError(t, err)
	require.NoError(t, setup())
}

func TestASubnetIsWhereTheCallerWantsIt(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	require.NoError(t, h.AddPeer(h.ctx, aPeer, nil))
	setup := func(name, subnet string) error {
		_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: name, Mode: "shared", Subnet: subnet})
		return err
	}
	require.NoError(t, setup("big", "10.200.128.0/22,fd00:200:0:80::/64"))
	require.NoError(t, setup("big", "10.200.128.0/22,fd00:200:0:80::/64"), "the same again")
	require.NoError(t, setup("big", ""))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.200.128.0/22"), netip.MustParsePrefix("fd00:200:0:80::/64")}, h.service("big").Subnets)
	h.refused(wire.Conflict, "subnet", func() error { return setup("big", "10.200.132.0/22") })
	e := h.refused(wire.Conflict, "subnet", func() error { return setup("other", "10.200.131.0/24") })
	require.Contains(t, e.Message, "big")
	e = h.refused(wire.Conflict, "subnet", func() error { return setup("other", "10.200.9.0/24") })
	require.Contains(t, e.Message, aPeer.PublicKey)
	h.refused(wire.InvalidRequest, "subnet", func() error { return setup("other", "10.99.0.0/24") })
	h.refused(wire.InvalidRequest, "subnet", func() error { return setup("other", "10.200.64.0/31") })
	require.NoError(t, setup("four", "10.200.64.0/30"), "of one family")
	require.Len(t, h.service("four").Subnets, 1)
	require.NoError(t, h.TeardownServiceOverlay(h.ctx, "four"))
	require.NoError(t, setup("six", "fd00:200:0:81::/64"))
	h.verify()
}

func TestADedicatedServiceHasADeviceOfItsOwn(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	var taken net.PacketConn
	h.ns.Do(func() {
		var err error
		taken, err = net.ListenPacket("udp4", ":51421")
		require.NoError(t, err)
	})
	defer taken.Close()
	first := h.setupService("db", "dedicated")
	require.EqualValues(t, 51422, first.WGPort, "51421 is in use")
	require.Equal(t, first, h.setupService("db", "dedicated"))
	require.Equal(t, first, h.setupService("db", "auto"), "it is what there is")
	db := h.service("db")
	device := h.ours()[db.Interface]
	require.Equal(t, 1420, device.MTU)
	require.Equal(t, netip.MustParsePrefix("10.200.87.254/32"), device.prefixes()[0], "the subnet's last address, alone")
	require.Equal(t, netip.MustParseAddr("10.200.87.254"), first.OverlayIP)
	require.Equal(t, "10.200.87.240/28,fd00:200:0:7c:3f8:672b:2715:7f00/120", first.Subnet)
	require.NotEqual(t, h.facts().Status.PublicKey, first.WGPublicKey)

	scope := wire.ServiceScope{Service: "db"}
	spec := aPeer
	spec.AllowedIPs = "10.200.115.32/28"
	require.NoError(t, h.AddPeer(h.ctx, spec, scope))
	require.Equal(t, "10.200.115.32/28 src 10.200.87.254", h.routesTo(db.Interface))
	h.refused(wire.Conflict, "allowed_ips", func() error { return h.AddPeer(h.ctx, spec, nil) })
	e := h.refused(wire.NotFound, "scope.service", func() error { return h.AddPeer(h.ctx, spec, wire.ServiceScope{Service: "x"}) })
	require.Equal(t, "no dedicated overlay for service x: it is not set up: send setup_service_overlay first", e.Message)

	h.setupService("web", "shared")
	_, err := h.ListPeers(h.ctx, scope)
	require.NoError(t, err)
	e = h.refused(wire.NotFound, "scope.service", func() error { _, err := h.ListPeers(h.ctx, wire.ServiceScope{Service: "web"}); return err })
	require.Contains(t, e.Message, "no dedicated overlay for service web: it is shared")
	require.NoError(t, h.TeardownServiceOverlay(h.ctx, "web"))

	c := newContainer(t, "c")
	h.attach(c, "db", false)
	e = h.refused(wire.Conflict, "mode", func() error {
		_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: "db", Mode: "shared"})
		return err
	})
	require.Contains(t, e.Message, "has 1 container attached: detach it, or")
	h.kill()
	h.start()
	require.Equal(t, first, h.setupService("db", "dedicated"), "key, port and addresses are on record")
	require.Equal(t, "10.200.115.32/28 src 10.200.87.254", h.routesTo(db.Interface))
	h.verify(c)

	h.detach(c)
	bridge := h.links()[first.Name].Index
	require.Equal(t, wire.ServiceOverlay{Name: first.Name, Mode: "shared"}, h.setupService("db", "shared"))
	require.NotContains(t, h.ours(), db.Interface)
	require.Empty(t, h.facts().Peers, "its peers went with the device")
	again := h.setupService("db", "dedicated")
	require.Equal(t, first.OverlayIP, again.OverlayIP)
	require.NotEqual(t, first.WGPublicKey, again.WGPublicKey)
	require.Equal(t, bridge, h.links()[first.Name].Index, "the bridge stays")
	h.attach(c, "db", false)
	h.verify(c)
}

func TestAddressesAreReservedUntilTheyAreReleased(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	events, err := h.Events(h.ctx, "leases_low")
	require.NoError(t, err)
	low := make(chan wire.LeasesLow, 100)
	go func() {
		for e, err := range events {
			if err != nil {
				return
			}
			low <- e.(wire.LeasesLow)
		}
	}()

	var all []netip.Addr
	for range 13 { // of 14 one is the gateway's
		a, err := h.AllocateIP(h.ctx, "web", true)
		require.NoError(t, err)
		require.True(t, h.service("web").Subnets[0].Contains(a))
		require.NotContains(t, all, a)
		all = append(all, a)
	}
	subnet := h.service("web").Subnets[0]
	require.Equal(t, wire.LeasesLow{Pool: subnet, Service: "web", Used: 13, Size: 14}, <-low)
	e := h.refused(wire.Exhausted, "", func() error { _, err := h.AllocateIP(h.ctx, "web", false); return err })
	require.Contains(t, e.Message, "exhausted")
	c := newContainer(t, "c")
	_, err = h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web"})
	require.ErrorIs(t, err, wire.Exhausted)

	h.kill()
	h.start()
	require.NoError(t, h.ReleaseIP(h.ctx, all[4]), "it is still reserved")
	require.NoError(t, h.ReleaseIP(h.ctx, all[4]), "twice")
	require.NoError(t, h.ReleaseIP(h.ctx, netip.MustParseAddr("192.0.2.1")), "nobody has that")
	require.Equal(t, all[4], h.attach(c, "web", false).IP, "the only one there is")
	e = h.refused(wire.Conflict, "ip", func() error { return h.ReleaseIP(h.ctx, all[4]) })
	require.Contains(t, e.Message, "container")
	h.refused(wire.Conflict, "ip", func() error { return h.ReleaseIP(h.ctx, h.service("web").Gateways[0]) })
	h.refused(wire.Conflict, "ip", func() error { return h.ReleaseIP(h.ctx, h.facts().Status.NodeIP) })
	h.refused(wire.NotFound, "service", func() error { _, err := h.AllocateIP(h.ctx, "nobody", false); return err })

	// Without a service it is an address of the node's own network.
	a, err := h.AllocateIP(h.ctx, "nobody", true)
	require.NoError(t, err)
	require.True(t, netip.MustParsePrefix("10.200.1.0/24").Contains(a))
	require.NoError(t, h.TeardownServiceOverlay(h.ctx, "web"))
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	require.Empty(t, h.facts().Leases, "what was reserved went with what it was of")
}

func TestStatusNeverWaits(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	for _, name := range []string{"a", "b", "c"} {
		h.setupService(name, "shared")
	}
	stop := make(chan struct{})
	ended := make(chan error, 1)
	var changes atomic.Int64
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			changes.Add(1)
			_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: "busy", Mode: "dedicated"})
			if err == nil {
				err = h.TeardownServiceOverlay(h.ctx, "busy")
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	second, err := h.second()
	require.NoError(t, err)
	defer second.Close()
	const rounds = 500
	for range rounds {
		_, err := second.Status(h.ctx)
		require.NoError(t, err)
	}
	during := changes.Load()
	close(stop)
	require.NoError(t, <-ended)
	t.Logf("a service came and went %d times during %d answers of status", during, rounds)
	require.Less(t, during, int64(rounds/4), "one answer for each setup and each teardown if it waited for them")
}
