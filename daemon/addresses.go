package daemon

import (
	"context"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
)

// The kinds of owners of addresses, beside ipam.KindNode and ipam.KindService.
const (
	kindContainer = "container" // by its attachment's id
	kindGuest     = "guest"     // by its attachment's id
	kindReserved  = "reserved"  // by allocate_ip, each address under an id of its own
)

func (d *Daemon) allocateIP(ctx context.Context, r wire.AllocateIP) (wire.IP, error) {
	return wire.IP{}, nil
}
func (d *Daemon) releaseIP(ctx context.Context, r wire.ReleaseIP) error { return nil }
func (d *Daemon) listLeases(r wire.ListLeases) (wire.Leases, error)     { return wire.Leases{}, nil }

// leasesChanged is to be called after addresses of these subnets or pools were
// leased or released: it tells clients of those nearly used up. It never waits.
func (d *Daemon) leasesChanged(pools ...netip.Prefix) {}
