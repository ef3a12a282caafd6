package daemon_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// listing is all a host's network has that an overlay might change.
func (h *host) listing() string {
	h.t.Helper()
	var b strings.Builder
	for _, command := range []string{
		"ip -o link",
		"ip -o addr",
		"ip route show table all",
		"ip -6 route show table all",
		"ip rule",
		"ip -6 rule",
		"nft list ruleset",
	} {
		words := strings.Fields(command)
		lines := strings.Split(h.run(words[0], words[1:]...), "\n")
		slices.Sort(lines)
		fmt.Fprintf(&b, "== %s\n%s\n", command, strings.Join(lines, "\n"))
	}
	fmt.Fprintf(&b, "== sysctl\n%s", h.sysctls())
	return b.String()
}

var (
	linkLocal = regexp.MustCompile(`(?m)^.*fe80:.*\n`)
	madeUp    = regexp.MustCompile(`(?m)^\d+: |@if\d+|link/ether \S+`)
)

// stable is a listing without what is another after a link was made anew: numbers,
// and addresses that the kernel makes up.
func stable(listing string) string {
	lines := strings.Split(madeUp.ReplaceAllString(linkLocal.ReplaceAllString(listing, ""), ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sysctls are the settings of IP on a host.
func (h *host) sysctls() string {
	h.t.Helper()
	var b strings.Builder
	h.ns.Do(func() {
		for _, pattern := range []string{"ipv4/ip_forward", "ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/ip_local_port_range", "netfilter/nf_conntrack_*liberal"} {
			files, err := filepath.Glob("/proc/sys/net/" + pattern)
			require.NoError(h.t, err)
			for _, file := range files {
				if value, err := os.ReadFile(file); err == nil { // some are never to be read
					fmt.Fprintf(&b, "%s = %s", strings.TrimPrefix(file, "/proc/sys/"), value)
				}
			}
		}
	})
	return b.String()
}

// A link is an interface as ip(8) lists it.
type link struct {
	Index  int    `json:"ifindex"`
	Name   string `json:"ifname"`
	Alias  string `json:"ifalias"`
	Master string `json:"master"`
	MTU    int    `json:"mtu"`
	Flags  []string
	Info   struct {
		Kind string `json:"info_kind"`
	} `json:"linkinfo"`
	Addrs []address `json:"addr_info"`
}

type address struct {
	Local netip.Addr `json:"local"`
	Len   int        `json:"prefixlen"`
	Scope string     `json:"scope"`
}

// prefixes are the addresses of a link, without the link-local ones.
func (l link) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range l.Addrs {
		if a.Scope == "global" {
			all = append(all, netip.PrefixFrom(a.Local, a.Len))
		}
	}
	return sorted(all)
}

func sorted(all []netip.Prefix) []netip.Prefix {
	all = slices.Clone(all)
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}

func (h *host) links() map[string]link {
	h.t.Helper()
	out := h.run("ip", "-j", "-d", "addr")
	var all []link
	require.NoError(h.t, json.Unmarshal([]byte(out), &all), out)
	named := make(map[string]link)
	for _, l := range all {
		named[l.Name] = l
	}
	return named
}

// ours are the links of the host that an overlayd made.
func (h *host) ours() map[string]link {
	h.t.Helper()
	all := h.links()
	for name, l := range all {
		if !strings.HasPrefix(name, "ovl-") && !strings.HasPrefix(l.Alias, "overlayd:") {
			delete(all, name)
		}
	}
	return all
}

// links are those of a container, without what only the host's are asked for.
func (c *container) links() map[string]link {
	c.t.Helper()
	named := make(map[string]link)
	var err error
	c.in(func() {
		var all []net.Interface
		all, err = net.Interfaces()
		for _, i := range all {
			l := link{Index: i.Index, Name: i.Name, MTU: i.MTU}
			var addrs []net.Addr
			if err == nil {
				addrs, err = i.Addrs()
			}
			for _, a := range addrs {
				p := netip.MustParsePrefix(a.String())
				l.Addrs = append(l.Addrs, address{p.Addr(), p.Bits(), scope(p.Addr())})
			}
			named[l.Name] = l
		}
	})
	require.NoError(c.t, err)
	return named
}

// scope is an address's as ip(8) calls it.
func scope(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "host"
	case a.IsLinkLocalUnicast():
		return "link"
	}
	return "global"
}

// facts is what a daemon says of what it keeps.
type facts struct {
	Status      wire.Status
	Services    []wire.Service
	Attachments []wire.Attachment
	Leases      []wire.Lease
	Peers       []wire.Peer
	Records     []wire.DNSRecord
	Ports       []wire.PublishedPort
}

// facts asks for everything. What changes by itself is left out, and what has no
// order is sorted, so that facts can be compared.
func (h *host) facts() facts {
	h.t.Helper()
	var f facts
	var err error
	check := func() { h.t.Helper(); require.NoError(h.t, err) }
	f.Status, err = h.Status(h.ctx)
	check()
	f.Services, err = h.ListServices(h.ctx)
	check()
	f.Attachments, err = h.ListAttachments(h.ctx, "")
	check()
	f.Leases, err = h.ListLeases(h.ctx, "")
	check()
	f.Peers, err = h.ListPeers(h.ctx, nil)
	check()
	f.Ports, err = h.ListPorts(h.ctx)
	check()
	names, err := h.ListDNS(h.ctx)
	check()
	f.Records = names.Records

	s := f.Status
	f.Status = wire.Status{Interface: s.Interface, NodeIP: s.NodeIP, PublicKey: s.PublicKey, OverlayCIDR: s.OverlayCIDR, SliceCIDR: s.SliceCIDR,
		PeerCount: s.PeerCount, ServiceCount: s.ServiceCount, DedicatedServices: s.DedicatedServices, ListenPort: s.ListenPort,
		Addresses: s.Addresses, AttachmentCount: s.AttachmentCount, MTU: s.MTU, Mode: s.Mode}
	for i, p := range f.Peers {
		f.Peers[i] = wire.Peer{Scope: p.Scope, PeerStatus: wire.PeerStatus{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive}}
	}
	for i := range f.Leases {
		f.Leases[i].Since = 0
	}
	byText(f.Services)
	byText(f.Attachments)
	byText(f.Leases)
	byText(f.Peers)
	byText(f.Ports)
	byText(f.Records)
	byText(f.Status.DedicatedServices)
	return f
}

func byText[T any](all []T) {
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

// text is for comparing facts.
func (f facts) text() string {
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		panic(err)
	}
	return string(text)
}

var hostLink = regexp.MustCompile(`^overlayd:[0-9a-f]{8}:(global|bridge|dedicated|eth0|eth1):`)

// verify fails the test unless what the daemon says, what the host has and what
// its containers have are one and the same, with nothing left over. Containers are
// those that may be attached.
func (h *host) verify(containers ...*container) facts {
	h.t.Helper()
	f := h.facts()
	byPID := make(map[uint32]*container)
	for _, c := range containers {
		byPID[c.pid] = c
	}
	want := make(map[string]string) // links there ought to be, and of what kind
	leased := make(map[netip.Addr]string)
	for _, l := range f.Leases {
		require.NotContains(h.t, leased, l.IP, "an address is leased twice")
		leased[l.IP] = l.Kind
	}
	take := func(a netip.Addr, whose string) {
		h.t.Helper()
		require.Contains(h.t, leased, a, "an address of %s is not leased", whose)
		delete(leased, a)
	}

	if f.Status.Interface != "" {
		want[f.Status.Interface] = "global"
		for _, a := range f.Status.Addresses {
			take(a.Addr(), "the node")
		}
	}
	for _, s := range f.Services {
		want[s.Name] = "bridge"
		for _, g := range s.Gateways {
			take(g, "service "+s.Service)
		}
		if s.Mode == wire.ModeDedicated {
			want[s.Interface] = "dedicated"
		}
	}
	ours := h.ours()
	for _, a := range f.Attachments {
		for _, p := range a.Addresses {
			take(p.Addr(), fmt.Sprint(a.Handle))
		}
		pid, ok := a.Handle.(wire.LinuxPID)
		if !ok {
			continue
		}
		want[a.HostInterface] = "eth0"
		if c := byPID[pid.PID]; c != nil {
			h.verifyAttachment(a, c, ours)
		}
	}
	for name, kind := range want {
		require.Contains(h.t, ours, name, "the %s link is missing", kind)
		got := hostLink.FindStringSubmatch(ours[name].Alias)
		require.NotNil(h.t, got, "the alias of %s is %q", name, ours[name].Alias)
		require.Equal(h.t, kind, got[1], "the alias of %s", name)
	}
	joined := 0
	for _, a := range f.Attachments {
		if _, ok := a.Handle.(wire.LinuxPID); ok && a.GlobalIP.IsValid() {
			joined++
		}
	}
	for name, l := range ours {
		if _, ok := want[name]; ok {
			continue
		}
		require.Contains(h.t, l.Alias, ":eth1:", "link %s is left over", name)
		joined--
	}
	require.Zero(h.t, joined, "links of containers on the node's own network that are missing")

	for a, kind := range leased {
		switch kind {
		case "service": // of a dedicated device
		case "reserved":
		default:
			require.Fail(h.t, "a lease is left over", "%s of a %s", a, kind)
		}
	}
	table := strings.Contains(h.run("nft", "list", "tables"), "overlayd")
	require.Equal(h.t, f.Status.Interface != "" || len(f.Services) > 0, table, "whether there is a table of rules")
	return f
}

// verifyAttachment compares one attachment with its container.
func (h *host) verifyAttachment(a wire.Attachment, c *container, ours map[string]link) {
	h.t.Helper()
	in := c.links()
	require.Contains(h.t, in, "eth0", "of %s", c.name)
	require.Contains(h.t, in, a.Interface, "of %s", c.name)
	have := in["eth0"].prefixes()
	if e, ok := in["eth1"]; ok {
		have = append(have, e.prefixes()...)
		require.True(h.t, a.GlobalIP.IsValid(), "%s has an eth1", c.name)
		require.Contains(h.t, fmt.Sprint(e.prefixes()), a.GlobalIP.String(), "of %s", c.name)
	} else {
		require.False(h.t, a.GlobalIP.IsValid(), "%s has no eth1", c.name)
	}
	for _, p := range a.Addresses {
		require.Contains(h.t, addrsOf(have), p.Addr(), "of %s", c.name)
	}
	require.Len(h.t, have, len(a.Addresses), "addresses of %s", c.name)
	bridge := ours[a.HostInterface].Master
	require.NotEmpty(h.t, bridge, "the bridge of %s", c.name)
	require.Equal(h.t, ours[bridge].MTU, in["eth0"].MTU, "the MTU of %s", c.name)
}

func addrsOf(all []netip.Prefix) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range all {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}
