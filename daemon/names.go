package daemon

import (
	"context"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/dnsd"
)

// names is the owner of the zone and its server.
type names struct {
	zone   *dnsd.Zone
	server *dnsd.Server
}

// openNames makes the zone from the record, and a server that listens nowhere yet.
func (d *Daemon) openNames(recorded []state.Record) error { return nil }

// serveNames answers on port 53 of an address; that it cannot degrades "dns" and
// is tried again. quitNames ends it. Both are idempotent and never fail the caller.
func (d *Daemon) serveNames(a netip.Addr) {}
func (d *Daemon) quitNames(a netip.Addr)  {}

func (d *Daemon) registerDNS(ctx context.Context, r wire.RegisterDNS) error     { return nil }
func (d *Daemon) unregisterDNS(ctx context.Context, r wire.UnregisterDNS) error { return nil }
func (d *Daemon) listDNS() (wire.DNS, error)                                    { return wire.DNS{}, nil }
func (d *Daemon) resolve(r wire.Resolve) (wire.Resolved, error)                 { return wire.Resolved{}, nil }

// dnsStatus never waits.
func (d *Daemon) dnsStatus() wire.DNSStatus { return wire.DNSStatus{} }
