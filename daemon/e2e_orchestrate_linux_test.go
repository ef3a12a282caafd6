package daemon_test

import (
	"flag"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

var (
	patience   = flag.Duration("patience", 10*time.Minute, "how long one end-to-end test may take")
	transferMB = flag.Int("transfer", 64, "`MiB` that are sent between two hosts")
	rounds     = flag.Int("rounds", 5, "how often a daemon is killed while attaches run")
	population = flag.Int("containers", 60, "how many containers one host gets")
	every      = flag.Bool("every", false, "kill the daemon at every point of every operation, not once at each")
)

// raced reports whether the race detector slows everything down.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

const cluster = "10.200.0.0/16,fd00:200::/48"

// slices are the prefixes of node n's own addresses.
func slicesOf(n int) string { return fmt.Sprintf("10.200.%d.0/24,fd00:200:0:%d::/64", n, n) }

// port is where every host listens.
const port = 51420

func (h *host) setupGlobal(n int) {
	h.t.Helper()
	require.NoError(h.t, h.SetLocalNodeID(h.ctx, uint64(n)))
	_, err := h.SetupGlobalOverlay(h.ctx, globalOf(n))
	require.NoError(h.t, err)
}

func globalOf(n int) wire.SetupGlobalOverlay {
	return wire.SetupGlobalOverlay{Deployment: "test", InstanceID: fmt.Sprint(n), ClusterCIDR: cluster, SliceCIDR: slicesOf(n), WGPort: port}
}

func (h *host) setupService(name string, mode wire.Mode) wire.ServiceOverlay {
	h.t.Helper()
	s, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: name, Mode: mode})
	require.NoError(h.t, err)
	return s
}

// service is what the daemon says of a service.
func (h *host) service(name string) wire.Service {
	h.t.Helper()
	all, err := h.ListServices(h.ctx)
	require.NoError(h.t, err)
	for _, s := range all {
		if s.Service == name {
			return s
		}
	}
	require.Fail(h.t, "no such service", name)
	return wire.Service{}
}

func (h *host) attach(c *container, service string, join bool) wire.Attached {
	h.t.Helper()
	at, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: service, JoinGlobal: join})
	require.NoError(h.t, err)
	c.at = at
	return at
}

func (h *host) detach(c *container) {
	h.t.Helper()
	require.NoError(h.t, h.DetachContainer(h.ctx, c.handle()))
}

// joinText puts prefixes into a list as the contract has it.
func joinText(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// asPeer is a host as a peer of others: its own slice and the subnets of its shared
// services.
func (h *host) asPeer(n int, endpoint netip.Addr) wire.PeerSpec {
	h.t.Helper()
	s, err := h.Status(h.ctx)
	require.NoError(h.t, err)
	allowed := []string{slicesOf(n)}
	all, err := h.ListServices(h.ctx)
	require.NoError(h.t, err)
	for _, s := range all {
		if s.Mode == wire.ModeShared {
			allowed = append(allowed, joinText(s.Subnets))
		}
	}
	return wire.PeerSpec{PublicKey: s.PublicKey, Endpoint: netip.AddrPortFrom(endpoint, port).String(), AllowedIPs: strings.Join(allowed, ","), Keepalive: 25}
}

// asServicePeer is the same for a dedicated service.
func (h *host) asServicePeer(service string, endpoint netip.Addr) wire.PeerSpec {
	h.t.Helper()
	s := h.service(service)
	return wire.PeerSpec{PublicKey: s.PublicKey, Endpoint: netip.AddrPortFrom(endpoint, s.ListenPort).String(), AllowedIPs: joinText(s.Subnets), Keepalive: 25}
}

// family picks the address of a family from what a container has.
func family(at wire.Attached, six bool) netip.Addr {
	for _, p := range at.Addresses {
		if p.Addr().Is6() == six && p.Addr() != at.GlobalIP {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// A pair is two hosts that reach each other's containers.
type pair struct {
	hosts      [2]*host
	addrs      [2]netip.Addr // on the underlay
	containers [2]map[string][]*container
}

// all are the containers of a few services, on both hosts.
func (p *pair) all(services ...string) []*container {
	var all []*container
	for i := range p.hosts {
		for _, s := range services {
			all = append(all, p.containers[i][s]...)
		}
	}
	return all
}

// joinHosts starts two hosts, sets the services up on both, shared but for "db",
// puts n containers into each, and makes the hosts each other's peers, as an
// orchestrator would. The underlay is of one family, and the names of containers
// are known on both hosts.
func joinHosts(t testing.TB, six bool, n int, services ...string) *pair {
	t.Helper()
	p := &pair{addrs: [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}}
	bits := 24
	if six {
		p.addrs, bits = [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}, 64
	}
	var ports [2]testnet.Port
	for i := range p.hosts {
		p.hosts[i] = newHost(t)
		ports[i] = testnet.Port{Namespace: p.hosts[i].ns, Name: "uplink", Addrs: []netip.Prefix{netip.PrefixFrom(p.addrs[i], bits)}}
	}
	require.NoError(t, testnet.Veth(ports[0], ports[1]))
	for i, h := range p.hosts {
		h.start()
		h.setupGlobal(i + 1)
		p.containers[i] = make(map[string][]*container)
		for _, s := range services {
			mode := wire.ModeShared
			if s == "db" {
				mode = wire.ModeDedicated
			}
			h.setupService(s, mode)
			for k := range n {
				c := newContainer(t, fmt.Sprintf("%s-%d.host-%d", s, k, i+1))
				h.attach(c, s, false)
				c.echo()
				p.containers[i][s] = append(p.containers[i][s], c)
			}
		}
	}
	for i, h := range p.hosts {
		other := 1 - i
		_, err := h.SetPeers(h.ctx, []wire.PeerSpec{p.hosts[other].asPeer(other+1, p.addrs[other])}, nil)
		require.NoError(t, err)
		for _, s := range services {
			if s == "db" {
				require.NoError(t, h.AddPeer(h.ctx, p.hosts[other].asServicePeer(s, p.addrs[other]), wire.ServiceScope{Service: s}))
			}
		}
		for _, c := range p.all(services...) {
			for _, a := range c.at.Addresses {
				require.NoError(t, h.RegisterDNS(h.ctx, wire.RegisterDNS{Name: c.name, IP: a.Addr()}))
			}
		}
	}
	return p
}
