package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/internal/hostnet"
)

// partForeignRules is what other programs' rules take from containers.
const partForeignRules = "rules of others"

// ourLinks begins the names of all links of ours.
const ourLinks = "ovl-"

// checkForeignRules looks whether rules of other programs drop what containers send
// through the host, as Docker's do. They are not ours to change, and ours cannot
// overrule them: of all chains at a hook, each has to accept a packet. So it is said,
// with what to do.
func (d *Daemon) checkForeignRules() {
	if d.host == nil {
		return
	}
	want := d.firewall.load()
	if idle(&want) {
		d.recovered(partForeignRules)
		return
	}
	chains, err := d.host.DropChains(ourLinks)
	if err != nil {
		d.log.Warn("rules of other programs cannot be looked at", "err", err)
		return
	}
	chains = slices.DeleteFunc(chains, func(c hostnet.DropChain) bool { return !concerns(c, &want) })
	if len(chains) == 0 {
		d.recovered(partForeignRules)
		return
	}
	d.degrade(partForeignRules, dropped(chains[0]))
}

// concerns reports whether a chain sees packets of a family that is in use.
func concerns(c hostnet.DropChain, f *hostnet.Firewall) bool {
	used := slices.Concat(f.Inside, f.Cluster)
	switch c.Family {
	case "ip":
		return slices.ContainsFunc(used, func(p netip.Prefix) bool { return p.Addr().Is4() })
	case "ip6":
		return slices.ContainsFunc(used, func(p netip.Prefix) bool { return p.Addr().Is6() })
	}
	return len(used) > 0
}

// dropped says what a chain does, and what to do about it.
func dropped(c hostnet.DropChain) error {
	insert := c.UserChain
	if insert == "" {
		insert = c.Name
	}
	at := fmt.Sprintf("nft insert rule %s %s %s", c.Family, c.Table, insert)
	return fmt.Errorf("the chain %s of the nftables table %s %s drops what is forwarded, and has no rule that accepts what comes in and what goes out by links named %s*: "+
		"containers may reach neither each other across nodes nor the outside; `%s iifname '\"%[4]s*\"' accept` and `%[5]s oifname '\"%[4]s*\"' accept` let them",
		c.Name, c.Family, c.Table, ourLinks, at)
}
