package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// A keeper sees to it that containers stay attached, and that those that end are
// not attached any longer. It looks at a container when the host's end of a cable
// of its is gone, which is when its namespace ended or when somebody removed it,
// and at all of them from time to time.
type keeper struct {
	mu    sync.Mutex
	queue map[container]struct{} // to be looked at
	wake  chan struct{}          // full while the queue is not empty

	failing map[container]error    // those whose last look failed; guarded by mu
	losses  map[container]*relapse // those that were mended of late; guarded by mu
	round   []container            // still to be looked into; of one goroutine
}

// lookEvery is how often the host is compared with the record when no news came of
// any change. It is for what is no news to the daemon, such as a lost message.
const lookEvery = 30 * time.Second

func newKeeper() *keeper {
	return &keeper{queue: make(map[container]struct{}), wake: make(chan struct{}, 1), failing: make(map[container]error), losses: make(map[container]*relapse)}
}

// look queues containers to be looked at. It never waits.
func (k *keeper) look(containers ...container) {
	if len(containers) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range containers {
		k.queue[c] = struct{}{}
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) take() []container {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.Collect(maps.Keys(k.queue))
	clear(k.queue)
	return all
}

// keep begins to look after containers, until the daemon ends. It is called on a
// thread in the host's namespace.
func (d *Daemon) keep() error {
	k := d.attachments.keeper
	stop := func() {}
	if d.host != nil {
		w, err := d.host.WatchLinks(d.linksChanged)
		if err != nil {
			return fmt.Errorf("watch the host's links: %w", err)
		}
		stop = w.Close
	}
	d.running.Go(func() {
		defer stop()
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		look := time.NewTicker(roundTick)
		defer look.Stop()
		for {
			select {
			case <-d.ctx.Done():
				return
			case <-tick.C:
				d.lookForDamage()
			case <-look.C:
				d.lookInside()
			case <-k.wake:
				d.lookAt(k.take())
			}
		}
	})
	return nil
}

// linksChanged has the containers looked at whose cables were removed, or taken off
// their bridge.
func (d *Daemon) linksChanged(events []hostnet.LinkEvent) {
	d.bridgesChanged(events)
	t := &d.attachments
	var at []container
	t.mu.RLock()
	for _, e := range events {
		if c, ok := t.links[e.Link.Name]; ok && (e.Gone || e.Link.Master == 0 && t.of[c].record.Link == e.Link.Name) {
			at = append(at, c)
		}
	}
	t.mu.RUnlock()
	t.keeper.look(at...)
}

// lookForDamage has the containers looked at that lack something.
func (d *Daemon) lookForDamage() {
	k := d.attachments.keeper
	if d.host != nil {
		links, err := d.host.Links()
		if err != nil {
			d.log.Warn("look at the host's links", "err", err)
			return
		}
		byName := make(map[string]hostnet.Link, len(links))
		for _, l := range links {
			byName[l.Name] = l
		}
		for _, a := range d.attachments.records() {
			if d.damaged(a, byName) {
				k.look(containerIn(a))
			}
		}
	}
	k.look(k.failed()...)
}

func (d *Daemon) damaged(a *state.Attachment, links map[string]hostnet.Link) bool {
	if a.Guest != "" {
		return false // its peer is looked after by the device
	}
	if s := d.lookService(a.Service); s == nil || links[a.Link].Master != s.bridge.Index {
		return true
	}
	if d.global.load().device == nil || !a.JoinGlobal {
		return false
	}
	return a.GlobalLink == "" || links[a.GlobalLink].Index == 0
}

// lookAt looks at containers, and says in the status which could not be helped.
func (d *Daemon) lookAt(containers []container) {
	k := d.attachments.keeper
	each(containers, func(c container) error {
		err := d.lookAtOne(c)
		if d.ctx.Err() == nil {
			k.note(c, err)
		}
		return nil
	})
	if n, why := k.failures(); n > 0 {
		d.degrade(partAttachments, fmt.Errorf("%d cannot be kept as they are wanted, of which one: %w", n, why))
		return
	}
	d.recovered(partAttachments)
}

// note keeps what came of the last look at a container.
func (k *keeper) note(c container, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.failing, c)
	if err != nil {
		k.failing[c] = err
	}
}

// failures is how many of those there are that could not be helped, and what is
// wrong with one of them.
func (k *keeper) failures() (n int, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.failing {
		if why == nil || other.Error() < why.Error() { // the same each time
			why = other
		}
	}
	return len(k.failing), why
}

// failed is the containers whose last look failed.
func (k *keeper) failed() []container {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.failing))
}

// partAttachments is what fails when containers cannot be kept attached.
const partAttachments = "attachments"

// endOfNamespace is why a container is detached by itself.
const endOfNamespace = "its network namespace ended"

// lookAtOne makes the host agree with the record of a container, or the record with
// a container that has ended.
func (d *Daemon) lookAtOne(c container) error {
	k := d.attachments.keeper
	a := d.attachments.known(c)
	if a == nil {
		k.forget(c)
		return nil
	}
	if a.Guest != "" {
		return d.lookAtGuest(c)
	}
	s, release, err := d.service(a.Service)
	if errors.Is(err, wire.NotFound) {
		return nil // who tears it down detaches too
	}
	if err != nil {
		return because(err, "keep %s attached", title(a))
	}
	defer release()
	g, leave := d.joins(a.JoinGlobal)
	defer leave()
	at, err := d.attachments.claim(d.ctx, c)
	if err != nil {
		return err
	}
	defer d.attachments.yield(at)
	if a = at.record; a == nil || a.Service != s.Name {
		return nil
	}
	if at.struck {
		return d.remove(at, endOfNamespace)
	}
	eth0, err := d.find(a.Link)
	if err != nil {
		return err
	}
	ns, err := inhabited(a)
	switch {
	case err != nil:
		return because(err, "look for %s", title(a))
	case ns != nil:
		defer ns.Close()
		if err := k.restrained(c, time.Now()); err != nil {
			if eth0.Index != 0 && eth0.Master != s.bridge.Index && s.bridged() == nil {
				err = errors.Join(err, d.host.SetMaster(eth0.Index, s.bridge.Index)) // a bridge that was made anew
			}
			return because(err, "mend %s", title(a))
		}
		damage, err := d.mend(at, ends{s, g, ns})
		if err == nil {
			err = k.mended(c, damage, time.Now())
		}
		if err != nil {
			return because(err, "mend %s", title(a))
		}
		return nil
	case eth0.Index == 0:
		return d.remove(at, endOfNamespace)
	case s.bridged() != nil:
		return because(s.bridged(), "keep %s attached", title(a))
	case eth0.Master != s.bridge.Index:
		// Some other process keeps the namespace, and nothing says which.
		return d.host.SetMaster(eth0.Index, s.bridge.Index)
	}
	return nil
}

func (d *Daemon) lookAtGuest(c container) error {
	g, leave := d.joins(true)
	defer leave()
	if g == nil {
		return nil // its turn comes when there is one
	}
	at, err := d.attachments.claim(d.ctx, c)
	if err != nil {
		return err
	}
	defer d.attachments.yield(at)
	switch a := at.record; {
	case a == nil:
		return nil
	case at.struck:
		return d.remove(at, "detached")
	default:
		return g.device.setGuest(d.ctx, a.PublicKey, addrsOf(a.Addrs))
	}
}

// inhabited is the namespace of a container, if the process it was attached by is
// still in it; nil if not.
func inhabited(a *state.Attachment) (*hostnet.Namespace, error) {
	ns, err := hostnet.ProcessNamespace(a.PID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case ns.ID().Inode != a.Namespace:
		ns.Close()
		return nil, nil
	}
	return ns, nil
}

// same reports whether the namespace a record is of is the one that has this inode
// now. The kernel gives inodes of namespaces out again, but not before all links of
// the former one are gone (default_device_exit_batch and net_ns_net_exit in
// net/core): so it is as long as the host's end of the cable is there.
func (d *Daemon) same(a *state.Attachment) (bool, error) {
	if l, err := d.find(a.Link); err != nil || l.Index != 0 {
		return err == nil, err
	}
	ns, err := inhabited(a)
	if ns != nil {
		ns.Close()
	}
	return ns != nil, err
}

// mend makes whole what leads to a container that is attached, and has it join the
// node's own network if it is to and did not. It returns what was not whole. The error
// is errOwnRoute when all is whole but what the container has set in the place of ours.
func (d *Daemon) mend(at *attachment, to ends) (damage, err error) {
	a := at.record
	if err := to.service.bridged(); err != nil {
		return nil, err
	}
	damage, own := d.replug("mend.eth0", d.serviceVeth(a, to))
	if own != nil && !errors.Is(own, errOwnRoute) {
		return damage, own
	}
	switch {
	case to.global == nil || !a.JoinGlobal:
		return damage, own
	case a.GlobalLink == "":
		return damage, errors.Join(d.join(at, to), own)
	}
	v := d.globalVeth(a, to)
	l, err := d.find(v.Host)
	if err == nil && l.Up { // else it is laid anew
		// The kernel removes routes with the address they prefer.
		err = d.prefer(v, l.Index)
	}
	if err == nil {
		var more error
		if more, err = d.replug("mend.eth1", v); more != nil {
			damage = more
		}
	}
	if err != nil {
		return damage, err
	}
	return damage, own
}

// errOwnRoute is that a container has chosen its own way. It is left at that, and told.
var errOwnRoute = errors.New("the container has a route of its own in the place of one of the overlay's, which is put back when that is removed")

// replug mends a cable that is not whole, and returns what was wrong with it. One that
// cannot be mended is laid anew, with which go connections and whatever the container
// has set on it.
func (d *Daemon) replug(step string, v hostnet.Veth) (damage, err error) {
	if damage = d.host.CheckVeth(v); damage == nil {
		return nil, nil
	}
	var st steps
	return damage, st.do(step, func() error {
		err := d.host.MendVeth(v)
		if err == nil && v.Bridge == 0 {
			var l hostnet.Link
			if l, err = d.find(v.Host); err == nil {
				err = d.prefer(v, l.Index)
			}
		}
		if err == nil {
			err = d.host.CheckVeth(v)
		}
		switch {
		case err == nil:
			d.log.Warn("a container's interface was mended", "link", v.Host, "interface", v.Container, "damage", damage)
			return nil
		case errors.Is(err, fs.ErrExist):
			return fmt.Errorf("%w: %w", errOwnRoute, err)
		}
		d.log.Warn("a container's interface is made anew", "link", v.Host, "interface", v.Container, "damage", damage)
		if err := d.unplug(v.Host); err != nil {
			return err
		}
		return d.lay(v)
	}, nil)
}

// join puts a container that is attached on the node's own network too.
func (d *Daemon) join(at *attachment, to ends) error {
	a := *at.record
	a.GlobalLink = linkName(suffixEth1, a.ID)
	var st steps
	err := st.do("join.lease",
		func() error { return d.lease(&a, nil, to.pools()) },
		func() error { return d.release(&a, a.Addrs) })
	if err == nil {
		err = d.plug(&st, "join.eth1", d.globalVeth(&a, to))
	}
	if err == nil {
		err = st.do("join.record", func() error { return d.update(at, &a) }, nil)
	}
	if err != nil {
		return because(st.rollback(err), "put %s on the node's own network", title(&a))
	}
	return nil
}

// rejoinGlobal is called when the node's own overlay was set up, or its device made
// anew, so that its address and all routes that prefer it were gone for a moment,
// or when its address is another one. When it returns, what leads to containers that
// are to join is whole. What cannot be made so is in the status, and tried again.
func (d *Daemon) rejoinGlobal() {
	var waiting []container
	for _, a := range d.attachments.records() {
		if a.JoinGlobal || a.Guest != "" {
			waiting = append(waiting, containerIn(a))
		}
	}
	d.attachments.keeper.forget(waiting...) // it is not they who lose what they have
	if len(waiting) > 0 {
		d.lookAt(waiting)
	}
}
