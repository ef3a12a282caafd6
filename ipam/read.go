package ipam

import "net/netip"

// Lookup is the lease of an address, and whether there is one.
func (a *Authority) Lookup(addr netip.Addr) (Lease, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r := a.records[addr.Unmap()]
	if r == nil || r.released != 0 {
		return Lease{}, false
	}
	return r.lease(), true
}
