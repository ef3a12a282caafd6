package daemon

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/gaissmai/bart"
	"github.com/overlayd/overlayd/overlay"
)

// A plan is who has which part of the overlay: this node and its services, and the
// peers of its devices. What lies on this node is no peer's. A peer may have a
// prefix around it, as the hub of a star has, since the more specific one counts.
type plan struct {
	mu     sync.Mutex // never held while anything is waited for
	local  bart.Table[string]
	remote bart.Table[claim]
}

// A claim is the peer that has a prefix, of one of the devices.
type claim struct {
	scope string // as device.scope
	key   overlay.PublicKey
}

func (c claim) String() string {
	if c.scope == "" {
		return fmt.Sprintf("peer %v", c.key)
	}
	return fmt.Sprintf("peer %v of service %q", c.key, c.scope)
}

// A clash is a prefix that somebody has already.
type clash struct {
	prefix, taken netip.Prefix
	owner         string
	key           overlay.PublicKey // the peer that was to have it; zero: none
}

func (c *clash) Error() string {
	return fmt.Sprintf("%v overlaps %v of %s", c.prefix, c.taken, c.owner)
}

// settle makes prefixes those of something on this node, all of them or, when a
// peer has one or a part of one, none.
func (p *plan) settle(owner string, prefixes []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, prefix := range prefixes {
		for taken, c := range p.remote.Subnets(prefix) {
			return &clash{prefix: prefix, taken: taken, owner: c.String()}
		}
	}
	for _, prefix := range prefixes {
		p.local.Insert(prefix, owner)
	}
	return nil
}

// leave undoes settle.
func (p *plan) leave(prefixes []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, prefix := range prefixes {
		p.local.Delete(prefix)
	}
}

// claim changes which prefixes peers of a device have, all of them or, when one
// lies on this node or is a peer's who does not give it up, none.
func (p *plan) claim(scope string, from, to map[netip.Prefix]overlay.PublicKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for prefix, key := range to {
		for taken, owner := range p.local.Supernets(prefix) {
			if prefix.Bits() == 0 {
				break
			}
			return &clash{prefix, taken, owner, key}
		}
		c, taken := p.remote.Get(prefix)
		_, given := from[prefix]
		if taken && c != (claim{scope, key}) && (c.scope != scope || !given) {
			return &clash{prefix, prefix, c.String(), key}
		}
	}
	for prefix := range from {
		p.remote.Delete(prefix)
	}
	for prefix, key := range to {
		p.remote.Insert(prefix, claim{scope, key})
	}
	return nil
}

// elsewhere is every prefix that lies with peers, but for those that hold one of
// the given: these are ways to everything else, and say nothing of what is free.
func (p *plan) elsewhere(within []netip.Prefix) []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []netip.Prefix
	for prefix := range p.remote.All() {
		holds := false
		for _, w := range within {
			holds = holds || prefix.Bits() <= w.Bits() && prefix.Overlaps(w)
		}
		if !holds {
			all = append(all, prefix)
		}
	}
	return all
}
