package daemon

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// The parts that Degraded and Recovered events, and warnings, are about.
const (
	partDNS        = "dns"
	partFirewall   = "firewall"
	partForwarding = "forwarding"
	partPorts      = "ports"
	partEndpoints  = "endpoints"
)

// faults is what does not work as it should.
type faults struct {
	telling sync.Mutex // held by who changes it until that is logged and told, which keeps the order

	mu   sync.Mutex        // never held while anything is waited for
	part map[string]string // and why
}

// set takes down why a part does not work, "" if it does, and returns what it was.
func (f *faults) set(part, reason string) (was string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was = f.part[part]
	if reason == "" {
		delete(f.part, part)
		return was
	}
	if f.part == nil {
		f.part = make(map[string]string)
	}
	f.part[part] = reason
	return was
}

// maxReason bounds what a warning says, which may come from another program.
const maxReason = 1024

// degrade says that a part does not work, and recover that it does again; saying
// so twice says it once. Both send events, and wait for the log alone.
func (d *Daemon) degrade(part string, err error) {
	reason := cmp.Or(err.Error(), "for no reason that is known")
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	f := &d.faults
	f.telling.Lock()
	defer f.telling.Unlock()
	was := f.set(part, reason)
	if was != reason {
		d.log.Warn("degraded", "part", part, "reason", reason)
	}
	if was == "" {
		d.publish(wire.Degraded{Part: part, Reason: reason})
	}
}

func (d *Daemon) recovered(part string) {
	f := &d.faults
	f.telling.Lock()
	defer f.telling.Unlock()
	if f.set(part, "") != "" {
		d.log.Info("recovered", "part", part)
		d.publish(wire.Recovered{Part: part})
	}
}

// degraded is the parts that do not work as they should, and why.
func (d *Daemon) degraded() map[string]string {
	d.faults.mu.Lock()
	defer d.faults.mu.Unlock()
	return maps.Clone(d.faults.part)
}

// faultWarnings is a sentence for each part that does not work as it should, in
// the order of their names.
func (d *Daemon) faultWarnings() []string {
	parts := d.degraded()
	var list []string
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		list = append(list, part+": "+parts[part])
	}
	return list
}

// publish sends an event to those who asked. It waits for none of them.
func (d *Daemon) publish(e wire.Event) {
	d.meter.event(e)
	if d.server != nil {
		d.server.Publish(e)
	}
}

// A monitor looks, again and again, at what changes without anybody asking for
// it: peers, the table of rules, the networks that names are served for.
type monitor struct {
	sick     atomic.Pointer[map[peerID]bool] // the peers that are ill; never changed
	lastTick atomic.Int64                    // of natTick, Unix seconds
	tick     chan struct{}                   // closed when the one under way has ended; nil: there is none
	tickMu   sync.Mutex                      // protects tick
}

// monitorEvery is how often it looks. Where there are so many peers that a look
// takes more than a hundredth of that, it is as much rarer.
const monitorEvery = time.Second

// runMonitor looks until ctx ends. It begins when everything else is there.
func (d *Daemon) runMonitor(ctx context.Context) {
	var w ward
	timer := time.NewTimer(monitorEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		d.lookAtPeers(&w, began)
		d.followNames()
		d.checkFirewall()
		d.sweepPorts()
		timer.Reset(max(monitorEvery, 100*time.Since(began)))
	}
}

// lookAtPeers tells of the peers whose health or address is another than at the
// last look.
func (d *Daemon) lookAtPeers(w *ward, now time.Time) {
	w.begin()
	for _, v := range d.devices() {
		for _, p := range v.node().Peers() {
			w.look(v.scope, &p, now, d.publish)
		}
	}
	if w.end() {
		d.monitor.sick.Store(w.sick())
	}
}

// healthy reports whether a peer of a device answers: it has completed a
// handshake, and was not found to be ill since. It never waits. See patient.
func (d *Daemon) healthy(scope string, key overlay.PublicKey, shaken time.Time) bool {
	if shaken.IsZero() {
		return false
	}
	sick := d.monitor.sick.Load()
	return sick == nil || !(*sick)[peerID{scope, key}]
}

// devices are the WireGuard devices there are: the node's, and those of services.
// It never waits.
func (d *Daemon) devices() []*device {
	var list []*device
	if v := d.global.load(); v != nil && v.device != nil {
		list = append(list, v.device)
	}
	for _, s := range d.allServices() {
		if s.device != nil {
			list = append(list, s.device)
		}
	}
	return list
}
