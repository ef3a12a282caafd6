package daemon

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/overlayd/overlayd/internal/hostnet"
)

// firewall is the owner of the host's table of rules, and of the sysctls that
// forwarding wants. There are neither while nothing is set up.
type firewall struct {
	// apply is held by who changes the host. Changes that come meanwhile wait in
	// queue, and the next who gets it makes them all at once.
	apply sync.Mutex
	open  bool // the host follows; guarded by apply
	table bool // there is one of ours, as far as is known; guarded by apply

	forwards4, forwards6 bool // the host does, and it was seen to; guarded by apply

	mu    sync.Mutex // protects the rest; never held while anything is waited for
	want  hostnet.Firewall
	queue []*ruleChange
}

// A ruleChange is a change of the rules that waits to be made.
type ruleChange struct {
	change func(f *hostnet.Firewall)
	made   bool // guarded by firewall.apply, as is err
	err    error
}

// updateFirewall changes what the rules are to be, and the host's with them. Calls
// that come while another is at work may be done together. On error the rules are as
// they were. Until openFirewall the change is only noted. change may be called more
// than once, and keeps no slice of what it is given.
func (d *Daemon) updateFirewall(change func(f *hostnet.Firewall)) error {
	f := &d.firewall
	c := &ruleChange{change: change}
	f.mu.Lock()
	f.queue = append(f.queue, c)
	f.mu.Unlock()

	f.apply.Lock()
	defer f.apply.Unlock()
	if !c.made { // else another has made it with its own
		d.changeRules()
	}
	return c.err
}

// changeRules makes the changes that wait; f.apply is held.
func (d *Daemon) changeRules() {
	f := &d.firewall
	f.mu.Lock()
	changes := f.queue
	f.queue = nil
	f.mu.Unlock()
	err := d.makeChanges(changes)
	if err == nil || len(changes) == 1 {
		for _, c := range changes {
			c.made, c.err = true, err
		}
		return
	}
	// One of them cannot be made. The others are not to fail for it.
	for _, c := range changes {
		c.made, c.err = true, d.makeChanges([]*ruleChange{c})
	}
}

// makeChanges makes changes, all or none.
func (d *Daemon) makeChanges(changes []*ruleChange) error {
	f := &d.firewall
	next := f.wanted()
	for _, c := range changes {
		c.change(&next)
	}
	if f.open {
		if err := d.setRules(next); err != nil {
			return err
		}
		d.recovered(partFirewall)
	}
	f.mu.Lock()
	f.want = next
	f.mu.Unlock()
	return nil
}

// load is what the rules are to be, never to be changed. It never waits.
func (f *firewall) load() hostnet.Firewall {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.want
}

// wanted is a copy of what the rules are to be.
func (f *firewall) wanted() hostnet.Firewall {
	w := f.load()
	w.Devices = slices.Clone(w.Devices)
	w.Bridges = slices.Clone(w.Bridges)
	w.Inside = slices.Clone(w.Inside)
	w.Cluster = slices.Clone(w.Cluster)
	w.Ports = slices.Clone(w.Ports)
	return w
}

// openFirewall makes the host follow what was noted until now: it gets the rules,
// or loses those of an earlier run that nobody wants any more. When it cannot,
// "firewall" is degraded, and it is tried again.
func (d *Daemon) openFirewall() {
	f := &d.firewall
	f.apply.Lock()
	defer f.apply.Unlock()
	f.open = true
	f.table = true // perhaps, of an earlier run
	if err := d.setRules(f.wanted()); err != nil {
		d.degrade(partFirewall, err)
	}
}

// idle reports whether rules would be about nothing.
func idle(f *hostnet.Firewall) bool {
	return len(f.Devices) == 0 && len(f.Bridges) == 0 && len(f.Ports) == 0
}

// setRules makes the host's rules and sysctls what is given; f.apply is held.
func (d *Daemon) setRules(want hostnet.Firewall) error {
	f := &d.firewall
	if d.host == nil {
		return nil
	}
	if idle(&want) {
		if !f.table {
			return nil
		}
		if err := d.host.RemoveFirewall(); err != nil {
			return fmt.Errorf("remove the firewall's rules: %w", err)
		}
		if err := d.stopForwarding(); err != nil {
			return err
		}
		f.table = false
		d.recovered(partBridgeRules)
		return nil
	}
	err := d.startForwarding(&want)
	if err == nil {
		failpoint("firewall.rules:before")
		if err = d.host.SetFirewall(want); err == nil {
			failpoint("firewall.rules:after")
			f.table = true
			if d.host.LacksBridgeRules() {
				d.degrade(partBridgeRules, errBridgeRules)
			}
			return nil
		}
		err = fmt.Errorf("set the firewall's rules: %w", err)
	}
	if !f.table { // then there is nothing to forward for
		err = errors.Join(err, d.stopForwarding())
	}
	return err
}

// partBridgeRules is what a kernel lacks for good, so that it is said once.
const partBridgeRules = "bridge rules"

var errBridgeRules = errors.New("the kernel has no nftables for bridges: a container can pretend to the others of its service that it is a router; " +
	"CONFIG_NF_TABLES_BRIDGE prevents it")

var errFlushed = errors.New("the table of rules was gone, as after `nft flush ruleset`: it was put back; " +
	"until then containers could not reach the outside, and published ports led nowhere")

// checkFirewall puts the rules back when somebody else removed them, and looks
// whether the host forwards.
func (d *Daemon) checkFirewall() {
	f := &d.firewall
	if d.host == nil || !f.apply.TryLock() { // else they are being changed just now
		return
	}
	defer f.apply.Unlock()
	want := f.wanted()
	if !f.open {
		return
	}
	if idle(&want) {
		// What could not be removed is tried again.
		if f.table && d.setRules(want) == nil {
			d.recovered(partFirewall)
		}
		d.recovered(partForwarding)
		return
	}
	d.checkForwarding()
	switch there, err := d.host.HasFirewall(); {
	case err != nil:
		d.degrade(partFirewall, err)
	case there:
		d.recovered(partFirewall)
	default:
		if err := d.setRules(want); err != nil {
			d.degrade(partFirewall, err)
			return
		}
		d.degrade(partFirewall, errFlushed) // until the next look finds it there
	}
}
