package hostnet

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The names of sets, as nft(8) shows them.
const (
	bridgeSet = "bridges"
	linkSet   = "links"   // bridges and devices
	routerSet = "routers" // kinds of ICMPv6 messages that are theirs or for them
)

// A family is what differs between IPv4 and IPv6 in rules.
type family struct {
	is4          bool
	nfproto      byte
	addr         nftables.SetDatatype
	source, dest uint32 // offsets of addresses in the header
	after        uint32 // the register after one with an address
	headers      int    // bytes of IP's and TCP's, without options
	loopback     netip.Prefix

	inside, cluster, ports, portsOn string // the names of its sets
}

var families = [2]*family{{
	is4: true, nfproto: unix.NFPROTO_IPV4, addr: nftables.TypeIPAddr,
	source: 12, dest: 16, after: unix.NFT_REG32_01, headers: 40,
	loopback: netip.MustParsePrefix("127.0.0.0/8"),
	inside:   "inside4", cluster: "cluster4", ports: "ports4", portsOn: "ports_on4",
}, {
	nfproto: unix.NFPROTO_IPV6, addr: nftables.TypeIP6Addr,
	source: 8, dest: 24, after: unix.NFT_REG32_04, headers: 60,
	loopback: netip.MustParsePrefix("::1/128"),
	inside:   "inside6", cluster: "cluster6", ports: "ports6", portsOn: "ports_on6",
}}

// A ruleset is a table of a Firewall being put together. Which chains, rules and sets
// there are is always the same; what is looked up in the sets is the Firewall.
type ruleset struct {
	Firewall
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

// change has the table become what it is to be. Chains and sets that are there are
// emptied and filled again, and so a packet always sees all of the old or all of the
// new: of two chains at one hook, an old and a new, it could pass both while neither is
// valid. Anew is for the first time, when what is there may be of another version of
// us.
func (r *ruleset) change(anew bool) error {
	r.conn.AddTable(r.table)
	if anew {
		r.conn.DelTable(r.table) // there is one now
		r.conn.AddTable(r.table)
	}
	if r.table.Family == bridgeFamily {
		return r.addPortGuard()
	}
	if err := r.addSets(); err != nil {
		return err
	}
	r.addGuard()
	r.addPublish()
	r.addMasquerade()
	r.addForward()
	r.addOutput()
	return nil
}

// addPortGuard drops what a container has no need to tell the others on its bridge, as
// a bridge does not look at what it hands on: that it is a router (RFC 6105), and, to
// each of a thousand, what groups it is in (RFC 3810), which is for routers and
// bridges that look. Bridges have a hook for it at NF_BR_PRI_FILTER_BRIDGED.
func (r *ruleset) addPortGuard() error {
	err := r.addSet(&nftables.Set{Name: routerSet, KeyType: nftables.TypeICMP6Type}, []nftables.SetElement{
		{Key: []byte{131}}, {Key: []byte{132}}, {Key: []byte{143}}, // listener report, done, report of version 2
		{Key: []byte{133}}, {Key: []byte{134}}, {Key: []byte{137}}, // router solicitation, advertisement, redirect
	})
	if err != nil {
		return err
	}
	c := r.hook("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(-200))
	r.rule(c, inGroup(expr.MetaKeyIIFGROUP, cableGroup), isICMPv6(), expressions{r.lookup(routerSet)}, drop())
	return nil
}

// addGuard drops what is not to be seen at all.
//
// It hooks in before connection tracking (NF_IP_PRI_CONNTRACK, -200), at
// NF_IP_PRI_RAW, so that what is dropped takes no memory, and destinations are still
// as they were sent: what is for a published port is for an address of the host.
func (r *ruleset) addGuard() {
	c := r.hook("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	// Such packets are let in on bridges for answers to 127.0.0.1, which at this point
	// are for the bridge's address still.
	v4 := families[0]
	r.rule(c, r.inSet(expr.MetaKeyIIFNAME, bridgeSet), v4.is(), v4.within(v4.dest, v4.loopback), drop())
	r.rule(c, r.inSet(expr.MetaKeyIIFNAME, linkSet), accept())
	r.rule(c, inGroup(expr.MetaKeyIIFGROUP, cableGroup), accept())
	r.rule(c, isLoopback(expr.MetaKeyIIF), accept())
	for _, f := range families {
		r.rule(c, f.is(), r.addrIn(f, f.source, f.cluster), drop())
		r.rule(c, f.is(), r.addrIn(f, f.dest, f.cluster), drop())
	}
}

// addPublish leads published ports to their containers, for what comes in and for
// what programs of the host send, at NF_IP_PRI_NAT_DST, before it is routed.
func (r *ruleset) addPublish() {
	back := expressions{&expr.Verdict{Kind: expr.VerdictReturn}}
	ports := r.chain(&nftables.Chain{Name: "ports"})
	r.rule(ports, isNotLocal(), back)
	for _, f := range families {
		r.rule(ports, f.is(), r.dnat(f, f.portsOn, true))
		r.rule(ports, f.is(), r.dnat(f, f.ports, false))
	}
	in := r.hook("publish", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	// A port of 127.0.0.1 is for the host alone. Routing would see to it, but is later.
	v4 := families[0]
	r.rule(in, v4.is(), v4.within(v4.dest, v4.loopback), back)
	r.rule(in, jump(ports))
	out := r.hook("publish_local", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	r.rule(out, jump(ports))
}

// addMasquerade gives packets a source to which answers return, at
// NF_IP_PRI_NAT_SRC, the last but for connection tracking itself.
func (r *ruleset) addMasquerade() {
	c := r.hook("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, f := range families {
		fromInside := func() expressions { return r.addrIn(f, f.source, f.inside) }
		r.rule(c, f.is(), fromInside(), r.addrIn(f, f.dest, f.cluster).not(), r.leaving(), masquerade())
		// Of one bridge, or of one container, the answer would not pass the host.
		r.rule(c, isPublished(), f.is(), fromInside(), r.addrIn(f, f.dest, f.inside), masquerade())
	}
	// By its routed cable a container comes as another than it is on its bridge.
	r.rule(c, isPublished(), inGroup(expr.MetaKeyIIFGROUP, cableGroup), masquerade())
	v4 := families[0]
	r.rule(c, r.inSet(expr.MetaKeyOIFNAME, bridgeSet), v4.is(), v4.within(v4.source, v4.loopback), masquerade())
}

// addForward refuses what would leave the overlay in the clear, and clamps the
// segments of TCP, at NF_IP_PRI_FILTER. What it does not refuse it accepts, as far as
// that is ours to say.
func (r *ruleset) addForward() {
	c := r.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	r.addRefusal(c)
	for _, f := range families {
		if size := r.MTU - f.headers; size > 0 {
			for _, side := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
				r.rule(c, r.inSet(side, linkSet), f.is(), clamp(uint16(size)))
			}
		}
	}
}

// addOutput refuses the same of the host's own programs. To it packets for a
// published port have the loopback interface still as the one they leave by.
func (r *ruleset) addOutput() {
	c := r.hook("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	r.rule(c, isLoopback(expr.MetaKeyOIF), accept())
	r.addRefusal(c)
}

func (r *ruleset) addRefusal(c *nftables.Chain) {
	for _, f := range families {
		r.rule(c, f.is(), r.addrIn(f, f.dest, f.cluster), r.leaving(), expressions{
			&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED},
		})
	}
}

// leaving matches what leaves by a link that is none of ours.
func (r *ruleset) leaving() expressions {
	return append(r.inSet(expr.MetaKeyOIFNAME, linkSet).not(), inGroup(expr.MetaKeyOIFGROUP, cableGroup).not()...)
}

// hook adds an empty chain that the kernel has packets pass.
func (r *ruleset) hook(name string, t nftables.ChainType, hook *nftables.ChainHook, p *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return r.chain(&nftables.Chain{Name: name, Type: t, Hooknum: hook, Priority: p, Policy: &policy})
}

func (r *ruleset) chain(c *nftables.Chain) *nftables.Chain {
	c.Table = r.table
	r.conn.AddChain(c)
	r.conn.FlushChain(c)
	return c
}

func (r *ruleset) rule(c *nftables.Chain, parts ...expressions) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: slices.Concat(parts...)})
}
