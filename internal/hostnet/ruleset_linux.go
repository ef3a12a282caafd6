package hostnet

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The names of sets, as nft(8) shows them.
const (
	bridgeSet = "bridges"
	linkSet   = "links" // bridges and devices
)

// A family is what differs between IPv4 and IPv6 in rules.
type family struct {
	name         string // at the end of names of sets
	is4          bool
	nfproto      byte
	addr         nftables.SetDatatype
	bytes        uint32 // of an address
	source, dest uint32 // offsets of addresses in the header
	after        uint32 // the register after one with an address
	tcp          int    // bytes of the headers of IP and TCP, without options
	loopback     netip.Prefix
}

var families = [2]*family{
	{"4", true, unix.NFPROTO_IPV4, nftables.TypeIPAddr, 4, 12, 16, unix.NFT_REG32_01, 40, netip.MustParsePrefix("127.0.0.0/8")},
	{"6", false, unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 16, 8, 24, unix.NFT_REG32_04, 60, netip.MustParsePrefix("::1/128")},
}

// A ruleset is the table of a Firewall being put together.
type ruleset struct {
	Firewall
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

func newRuleset(c *nftables.Conn, f Firewall) *ruleset {
	return &ruleset{Firewall: f, conn: c, table: table(), sets: map[string]*nftables.Set{}}
}

// add has the old table go and the new one come. They may have the same name, as the
// kernel takes one thing after the other and shows all of them at once.
func (r *ruleset) add() error {
	r.conn.AddTable(r.table) // so that there is one to delete
	r.conn.DelTable(r.table)
	r.conn.AddTable(r.table)
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

// has reports whether there is a set, which there is not when it would be empty.
func (r *ruleset) has(set string) bool { return r.sets[set] != nil }

// addGuard drops what is not to be seen at all.
//
// It hooks in before connection tracking (NF_IP_PRI_CONNTRACK, -200), at
// NF_IP_PRI_RAW, so that what is dropped takes no memory, and destinations are still
// as they were sent: what is for a published port is for an address of the host.
func (r *ruleset) addGuard() {
	c := r.hook("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	if r.has(bridgeSet) {
		// Such packets are let in on bridges for answers to 127.0.0.1, which at this
		// point are for the bridge's address still.
		v4 := families[0]
		r.rule(c, r.inSet(expr.MetaKeyIIFNAME, bridgeSet), v4.is(), v4.within(v4.dest, v4.loopback), drop())
	}
	if r.has(linkSet) {
		r.rule(c, r.inSet(expr.MetaKeyIIFNAME, linkSet), accept())
	}
	r.rule(c, inGroup(expr.MetaKeyIIFGROUP, routedGroup), accept())
	r.rule(c, isLoopback(expr.MetaKeyIIF), accept())
	for _, f := range families {
		if cluster := "cluster" + f.name; r.has(cluster) {
			r.rule(c, f.is(), r.addrIn(f, f.source, cluster), drop())
			r.rule(c, f.is(), r.addrIn(f, f.dest, cluster), drop())
		}
	}
}

// addPublish leads published ports to their containers, for what comes in and for
// what programs of the host send, at NF_IP_PRI_NAT_DST, before it is routed.
func (r *ruleset) addPublish() {
	if len(r.Ports) == 0 {
		return
	}
	ports := r.chain("ports")
	r.rule(ports, isNotLocal(), expressions{&expr.Verdict{Kind: expr.VerdictReturn}})
	for _, f := range families {
		if on := "ports_on" + f.name; r.has(on) {
			r.rule(ports, f.is(), r.dnat(f, on, true))
		}
		if any := "ports" + f.name; r.has(any) {
			r.rule(ports, f.is(), r.dnat(f, any, false))
		}
	}
	in := r.hook("publish", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	// A port of 127.0.0.1 is for the host alone. Routing would see to it, but is later.
	v4 := families[0]
	r.rule(in, v4.is(), v4.within(v4.dest, v4.loopback), expressions{&expr.Verdict{Kind: expr.VerdictReturn}})
	r.rule(in, jump(ports))
	out := r.hook("publish_local", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	r.rule(out, jump(ports))
}

// addMasquerade gives packets a source to which answers return, at
// NF_IP_PRI_NAT_SRC, the last but for connection tracking itself.
func (r *ruleset) addMasquerade() {
	c := r.hook("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, f := range families {
		inside, cluster := "inside"+f.name, "cluster"+f.name
		if len(r.Ports) > 0 && r.has(bridgeSet) {
			r.rule(c, r.inSet(expr.MetaKeyOIFNAME, bridgeSet), f.is(), f.within(f.source, f.loopback), masquerade())
		}
		if len(r.Ports) > 0 && r.has(inside) {
			// Of one bridge, or of one container, the answer would not pass the host.
			r.rule(c, isPublished(), f.is(), r.addrIn(f, f.source, inside), r.addrIn(f, f.dest, inside), masquerade())
		}
		if !r.has(inside) {
			continue
		}
		outside := expressions{}
		if r.has(cluster) {
			outside = r.addrIn(f, f.dest, cluster).not()
		}
		r.rule(c, f.is(), r.addrIn(f, f.source, inside), outside, r.leaving(), masquerade())
	}
	if len(r.Ports) > 0 {
		// By its routed cable a container comes as another than it is on its bridge.
		r.rule(c, isPublished(), inGroup(expr.MetaKeyIIFGROUP, routedGroup), masquerade())
	}
}

// addForward refuses what would leave the overlay in the clear, and clamps the
// segments of TCP, at NF_IP_PRI_FILTER. What it does not refuse it accepts, as far as
// that is ours to say.
func (r *ruleset) addForward() {
	c := r.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	r.addRefusal(c)
	if !r.has(linkSet) {
		return
	}
	for _, f := range families {
		if size := r.MTU - f.tcp; size > 0 {
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
		if cluster := "cluster" + f.name; r.has(cluster) {
			r.rule(c, f.is(), r.addrIn(f, f.dest, cluster), r.leaving(), expressions{
				&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED},
			})
		}
	}
}

// leaving matches what leaves by a link that is none of ours.
func (r *ruleset) leaving() expressions {
	e := inGroup(expr.MetaKeyOIFGROUP, routedGroup).not()
	if r.has(linkSet) {
		e = append(r.inSet(expr.MetaKeyOIFNAME, linkSet).not(), e...)
	}
	return e
}

func (r *ruleset) hook(name string, t nftables.ChainType, hook *nftables.ChainHook, p *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: t, Hooknum: hook, Priority: p, Policy: &policy})
}

func (r *ruleset) chain(name string) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table})
}

func (r *ruleset) rule(c *nftables.Chain, parts ...expressions) {
	var all expressions
	for _, p := range parts {
		all = append(all, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: all})
}
