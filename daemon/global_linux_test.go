package daemon_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// refused wants an error of a code that names a field, and nothing changed.
func (h *host) refused(code wire.Code, field string, do func() error) *client.Error {
	h.t.Helper()
	before, listing := h.facts().text(), h.listing()
	err := do()
	require.ErrorIs(h.t, err, code)
	var e *client.Error
	require.ErrorAs(h.t, err, &e)
	require.Equal(h.t, field, e.Field, "%v", err)
	require.Equal(h.t, before, h.facts().text(), "what was refused changed something")
	require.Equal(h.t, listing, h.listing(), "what was refused changed the host")
	return e
}

func (h *host) changeGlobal(change func(r *wire.SetupGlobalOverlay)) error {
	r := globalOf(1)
	change(&r)
	name, err := h.SetupGlobalOverlay(h.ctx, r)
	if err == nil {
		require.Equal(h.t, h.facts().Status.Interface, name)
	}
	return err
}

func TestTheNodesOverlayIsChangedInPlace(t *testing.T) {
	h := startHost(t)
	fresh := h.listing()
	h.setupGlobal(1)
	h.setupService("web", "shared")
	require.NoError(t, h.AddPeer(h.ctx, aPeer, nil))
	c := newContainer(t, "c")
	h.attach(c, "web", true)
	before := h.verify(c)
	index := h.links()[before.Status.Interface].Index

	require.NoError(t, h.changeGlobal(func(*wire.SetupGlobalOverlay) {}), "the same again")
	require.Equal(t, before.text(), h.facts().text())
	require.Equal(t, index, h.links()[before.Status.Interface].Index, "nothing was made anew")

	// An orchestrator that is started anew has another instance.
	require.NoError(t, h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.InstanceID = "another"; r.NATEnabled = true }))
	require.Equal(t, before.text(), h.facts().text())
	require.Equal(t, index, h.links()[before.Status.Interface].Index)

	routes := h.run("ip", "route")
	require.NoError(t, h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.WGPort = 51555 }))
	after := h.verify(c)
	require.EqualValues(t, 51555, after.Status.ListenPort)
	require.Equal(t, before.Peers, after.Peers)
	require.Equal(t, routes, h.run("ip", "route"), "routes to peers and containers are there again")
	require.Contains(t, h.run("ss", "-Hlun"), ":51555 ")
	require.NotContains(t, h.run("ss", "-Hlun"), ":51420 ")
	h.kill()
	h.start()
	require.Equal(t, after.text(), h.verify(c).text())

	// The slice is in use by the container, which has its second address from it.
	moved := strings.ReplaceAll(slicesOf(2), "10.200.2.0", "10.200.66.0")
	h.refused(wire.Conflict, "slice_cidr", func() error {
		return h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.WGPort, r.SliceCIDR = 51555, moved })
	})
	h.refused(wire.Conflict, "cluster_cidr", func() error {
		return h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.ClusterCIDR, r.SliceCIDR = "10.99.0.0/16", "" })
	})
	h.detach(c)
	require.NoError(t, h.changeGlobal(func(r *wire.SetupGlobalOverlay) { r.WGPort, r.SliceCIDR = 51555, moved }))
	now := h.verify()
	require.Equal(t, netip.MustParseAddr("10.200.66.1"), now.Status.NodeIP)
	require.Equal(t, moved, now.Status.SliceCIDR)
	require.Contains(t, h.run("ip", "route", "get", "10.200.9.9"), "src 10.200.66.1", "routes prefer the new address")
	h.attach(c, "web", true)
	h.verify(c)

	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx), "twice")
	left := h.verify(c)
	require.Len(t, left.Attachments, 1, "a container stays on its service")
	require.Empty(t, left.Peers)
	require.NoError(t, h.TeardownServiceOverlay(h.ctx, "web"))
	require.Equal(t, fresh, h.listing())
	require.Empty(t, h.facts().Leases)
}

func TestAnOverlayThatCannotBeHadLeavesNothing(t *testing.T) {
	h := startHost(t)
	var taken net.PacketConn
	h.ns.Do(func() {
		var err error
		taken, err = net.ListenPacket("udp4", ":51420")
		require.NoError(t, err)
	})
	defer taken.Close()
	setup := func() error { return h.changeGlobal(func(*wire.SetupGlobalOverlay) {}) }
	e := h.refused(wire.Conflict, "wg_port", setup)
	require.Contains(t, e.Message, "51420 is in use")
	taken.Close()

	h.run("ip", "link", "add", "ovl-test-1-g", "type", "bridge")
	e = h.refused(wire.Conflict, "", setup)
	require.Contains(t, e.Message, "ovl-test-1-g")
	h.run("ip", "link", "delete", "ovl-test-1-g")

	h.run("ip", "addr", "add", "10.200.77.1/24", "dev", "lo")
	e = h.refused(wire.Conflict, "cluster_cidr", setup)
	require.Contains(t, e.Message, "10.200.77.1/24")
	h.run("ip", "addr", "delete", "10.200.77.1/24", "dev", "lo")
	require.NoError(t, setup())
	h.verify()
}

func TestADeviceThatSomebodyRemovedIsMadeAnew(t *testing.T) {
	p := joinHosts(t, false, 1, "web", "db")
	h := p.hosts[0]
	web, db := p.containers[0]["web"][0], p.containers[0]["db"][0]
	h.detach(web)
	h.attach(web, "web", true)
	before, routes := h.verify(web, db), h.run("ip", "route")+h.run("ip", "-6", "route", "show", "table", "main", "proto", "static")
	events, err := h.Events(h.ctx, "degraded", "recovered")
	require.NoError(t, err)
	for _, device := range []string{before.Status.Interface, h.service("db").Interface} {
		h.run("ip", "link", "delete", device)
	}
	var told []string
	for e, err := range events {
		require.NoError(t, err)
		told = append(told, e.Kind())
		if len(told) == 4 {
			break
		}
	}
	require.ElementsMatch(t, []string{"degraded", "degraded", "recovered", "recovered"}, told)
	require.Equal(t, before.text(), h.verify(web, db).text())
	require.Eventually(t, func() bool {
		return routes == h.run("ip", "route")+h.run("ip", "-6", "route", "show", "table", "main", "proto", "static")
	}, 30*time.Second, 10*time.Millisecond, "the routes to peers and containers")
	for _, service := range []string{"web", "db"} {
		for _, six := range []bool{false, true} {
			there := p.containers[1][service][0]
			require.NoError(t, p.containers[0][service][0].say("tcp", netip.AddrPortFrom(family(there.at, six), echoPort)))
		}
	}
	s, err := h.Status(h.ctx)
	require.NoError(t, err)
	require.Empty(t, s.Warnings)
}

func TestABridgeThatSomebodyRemovedIsMadeAnew(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	a, b := newContainer(t, "a"), newContainer(t, "b")
	h.attach(a, "web", true)
	h.attach(b, "web", false)
	b.echo()
	require.NoError(t, attachGuest(h, nil))
	bridge := h.service("web").Name
	proxies := func() string {
		return h.run("ip", "neigh", "show", "proxy", "dev", bridge) + h.run("ip", "-6", "neigh", "show", "proxy", "dev", bridge)
	}
	guests := proxies()
	require.NotEmpty(t, guests, "the bridge answers for the guest")

	h.run("ip", "link", "delete", bridge)
	require.Eventually(t, func() bool {
		l := h.links()
		return l[bridge].Index != 0 && len(l[bridge].prefixes()) == 2 && a.say("tcp", netip.AddrPortFrom(family(b.at, false), echoPort)) == nil
	}, 30*time.Second, 20*time.Millisecond)
	h.verify(a, b)
	require.Equal(t, guests, proxies())
	require.NoError(t, detachGuest(h, nil))
	require.Empty(t, proxies())
}

func TestTheClusterMayKnowTheNodeByAnotherKey(t *testing.T) {
	h := startHost(t)
	warnings := func() []string {
		s, err := h.Status(h.ctx)
		require.NoError(t, err)
		return s.Warnings
	}
	require.Empty(t, warnings())
	require.NoError(t, h.SetLocalWGPubkey(h.ctx, aPeer.PublicKey))
	require.Len(t, warnings(), 1)
	require.Contains(t, warnings()[0], aPeer.PublicKey)
	h.kill()
	h.start()
	require.Len(t, warnings(), 1, "it is on record")
	require.NoError(t, h.SetLocalWGPubkey(h.ctx, h.facts().Status.PublicKey))
	require.Empty(t, warnings())
}

// damage makes a file of the data folder one that is not whole.
func (h *host) damage(name string) {
	h.t.Helper()
	path := filepath.Join(h.order.DataDir, name)
	text, err := os.ReadFile(path)
	require.NoError(h.t, err)
	for i := range text {
		text[i] ^= byte(i)
	}
	require.NoError(h.t, os.WriteFile(path, text, 0o600))
}

func TestDamagedFilesAreSetAside(t *testing.T) {
	h := startHost(t)
	web, db := everything(t, h)
	before := h.verify(web, db)
	damage := func(name string) {
		h.kill()
		h.damage(name)
		h.start()
	}
	damage("leases.db")
	after := h.verify(web, db)
	after.Leases, before.Leases = nil, nil // allocate_ip's are lost
	require.Equal(t, before.text(), after.text(), "everything on record has its addresses")

	damage("state.db")
	require.Equal(t, before.Status.PublicKey, h.facts().Status.PublicKey, "the node is still the same")
	gone := h.facts()
	require.Empty(t, gone.Services)
	require.Empty(t, gone.Leases)
	require.Empty(t, h.ours(), "nothing is left of what nobody knows of")
}

// testnet's cable and a host's own network are no business of the overlay's.
func TestTheHostsOwnRoutesStay(t *testing.T) {
	h, other := newHost(t), testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(
		testnet.Port{Namespace: h.ns, Name: "lan", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.7.2/24")}},
		testnet.Port{Namespace: other, Name: "lan", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.7.1/24")}}))
	h.run("ip", "route", "add", "default", "via", "192.168.7.1")
	h.start()
	h.setupGlobal(1)
	routes := h.run("ip", "route")

	spec := aPeer
	spec.Endpoint, spec.AllowedIPs = "192.168.7.1:51420", "0.0.0.0/0,::/0"
	require.NoError(t, h.AddPeer(h.ctx, spec, nil), "the way out for what is sent to it")
	require.Equal(t, routes, h.run("ip", "route"), "but not the host's")
	s, err := h.Status(h.ctx)
	require.NoError(t, err)
	require.Len(t, s.Warnings, 2)
	require.Contains(t, s.Warnings[0], "0.0.0.0/0")

	spec.AllowedIPs = "192.168.0.0/16"
	require.NoError(t, h.AddPeer(h.ctx, spec, nil))
	require.Equal(t, routes, h.run("ip", "route"), "its own endpoint lies in it")
	s, err = h.Status(h.ctx)
	require.NoError(t, err)
	require.Len(t, s.Warnings, 1)
	require.Contains(t, s.Warnings[0], "192.168.7.1")
	require.NoError(t, h.RemovePeer(h.ctx, spec.PublicKey, nil))
	s, err = h.Status(h.ctx)
	require.NoError(t, err)
	require.Empty(t, s.Warnings)

	spec.Endpoint, spec.AllowedIPs = "192.0.2.9:51420", "192.168.7.0/24"
	e := h.refused(wire.Conflict, "allowed_ips", func() error { return h.AddPeer(h.ctx, spec, nil) })
	require.Contains(t, e.Message, "192.168.7.0/24 through another interface")
	require.Equal(t, routes, h.run("ip", "route"))
}
