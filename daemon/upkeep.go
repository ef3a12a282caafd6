package daemon

import (
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
)

// mendBridges makes bridges anew that somebody removed, and others what they are to
// be that somebody changed. Containers are plugged in again by who looks after them.
func (d *Daemon) mendBridges() {
	if d.host == nil {
		return
	}
	links, err := d.host.Links()
	if err != nil {
		d.log.Warn("the host's interfaces cannot be listed", "err", err)
		return
	}
	there := make(map[string]hostnet.Link, len(links))
	for _, l := range links {
		there[l.Name] = l
	}
	mended := false
	for _, s := range d.allServices() {
		if l := there[s.Bridge]; s.bridge.Index == 0 || l.Index != s.bridge.Index || !l.Up || l.MTU != s.bridge.MTU {
			d.mendBridge(s.Name)
			mended = true
		}
	}
	if mended {
		d.lookForDamage() // containers are to be plugged into the new ones
	}
}

// mendBridge makes the bridge of a service what it is to be.
func (d *Daemon) mendBridge(name string) {
	p, err := d.services.enter(name)
	if err != nil {
		return
	}
	defer d.services.exit(name, p)
	p.change.Lock()
	defer p.change.Unlock()
	p.use.Lock()
	defer p.use.Unlock()
	was := p.now.Load()
	if was == nil || p.leaving {
		return
	}
	s := *was
	if err := d.bridge(&s); err != nil {
		d.degrade(partService(name), err)
		return
	}
	d.log.Warn("bridge mended", "service", name, "link", s.Bridge)
	p.now.Store(&s)
	if g := d.global.load(); g.device != nil {
		if err := d.answerFor(g.device.guestsOf(&s)); err != nil {
			d.degrade(partService(name), err)
			return
		}
	}
	d.recovered(partService(name))
}

// upkeepEvery is how often bridges are looked at when no news came of one that is
// gone, roamEvery how often it is written down where peers are, and rulesEvery how
// often the rules of others are looked at, of which there may be many.
const (
	upkeepEvery = 5 * time.Second
	roamEvery   = 6 // times upkeepEvery
	rulesEvery  = 6
)

// upkeep looks after what changes by itself or by others, until the daemon ends.
func (d *Daemon) upkeep() {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-d.ctx.Done():
			return
		case <-d.bridgeGone:
		case <-tick.C:
			n++
			if n%roamEvery == 0 {
				d.saveRoaming()
			}
			if n%rulesEvery == 1 { // for the first time soon
				d.checkForeignRules()
			}
		}
		d.removeRests()
		d.mendBridges()
	}
}

// bridgesChanged is told of changes of the host's links, and has bridges looked at
// when one of ours is gone or down. It never waits.
func (d *Daemon) bridgesChanged(events []hostnet.LinkEvent) {
	for _, e := range events {
		if kind, _, ours := d.owned(e.Link); ours && kind == kindBridge && (e.Gone || !e.Link.Up) {
			select {
			case d.bridgeGone <- struct{}{}:
			default: // it will be looked at
			}
		}
	}
}
