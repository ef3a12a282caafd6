package daemon

import (
	"fmt"
	"maps"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
)

// Every container is looked into once in a round of roundTicks ticks, some at each.
// A look takes about 0.3 ms of a processor, and so 500 containers 0.5% of it: no more,
// as it takes turns with attaches at the lock of the kernel for all links (RTNL).
const (
	roundTick  = time.Second
	roundTicks = 30
)

// lookInside looks into some containers, and has those seen to that lack something of
// what they were given.
func (d *Daemon) lookInside() {
	k := d.attachments.keeper
	if d.host == nil {
		return
	}
	if len(k.round) == 0 {
		k.round = d.attachments.all()
		k.forgetOthers(d.attachments.has)
	}
	// Those that come meanwhile are in the next round.
	share := min(len(k.round), (len(d.attachments.all())+roundTicks-1)/roundTicks)
	for _, c := range k.round[:share] {
		if d.ctx.Err() != nil {
			return
		}
		if !d.wholeInside(c) {
			k.look(c)
		}
	}
	k.round = k.round[share:]
}

// wholeInside reports whether a container has in it what it was given, as far as can
// be seen. It waits for nobody: what is just being changed may look damaged, and is
// looked at once more by who has a claim to it.
func (d *Daemon) wholeInside(c container) bool {
	a := d.attachments.known(c)
	if a == nil || a.Guest != "" {
		return true
	}
	s := d.lookService(a.Service)
	if s == nil {
		return true
	}
	ns, err := inhabited(a)
	if err != nil || ns == nil {
		return true // its end is news of its own
	}
	defer ns.Close()
	to := ends{service: s, container: ns, global: d.global.load()}
	cables := []hostnet.Veth{d.serviceVeth(a, to)}
	if to.global.device != nil && a.JoinGlobal && a.GlobalLink != "" {
		cables = append(cables, d.globalVeth(a, to))
	}
	return d.host.CheckInside(cables...) == nil
}

// A relapse is that a container lost what it had been given.
type relapse struct {
	times int
	last  time.Time // when it was mended
	next  time.Time // before then it is not mended again
}

// A container that loses what it was given more often than maxRelapses is taken to
// want it so. It is mended all the same, in case it does not, but after longer and
// longer times, and the status says so until it keeps what it has.
const (
	maxRelapses  = 5
	firstRespite = time.Minute
	lastRespite  = 32 * time.Minute
	relapseTime  = 5 * time.Minute // after that long without one all is forgotten
)

// respite is how long it is left alone.
func (r *relapse) respite() time.Duration {
	if r.times <= maxRelapses {
		return 0
	}
	return min(firstRespite<<min(r.times-maxRelapses-1, 10), lastRespite)
}

// restrained is why a container is not to be mended now, nil if it may be.
func (k *keeper) restrained(c container, now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.losses[c]; r != nil && now.Before(r.next) {
		return r.reason()
	}
	return nil
}

// mended takes note of what was not whole of a container that is whole now, nil if it
// was all along. The error says that it loses it again and again.
func (k *keeper) mended(c container, damage error, now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.losses[c]
	if r != nil && now.Sub(r.last) >= max(relapseTime, 2*r.respite()) {
		delete(k.losses, c)
		r = nil
	}
	if damage == nil {
		if r != nil && r.times > maxRelapses {
			return r.reason() // it has to stay so
		}
		return nil
	}
	if r == nil {
		r = new(relapse)
		k.losses[c] = r
	}
	r.times++
	r.last = now
	r.next = now.Add(r.respite())
	if r.times <= maxRelapses {
		return nil
	}
	return r.reason()
}

func (r *relapse) reason() error {
	return fmt.Errorf("its interfaces, addresses or routes are taken away again and again, %d times by now: they are put back at most every %v", r.times, r.respite())
}

// forget drops what is known of relapses.
func (k *keeper) forget(containers ...container) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range containers {
		delete(k.losses, c)
	}
}

// forgetOthers drops what is known of those that are not attached.
func (k *keeper) forgetOthers(attached func(container) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.losses, func(c container, _ *relapse) bool { return !attached(c) })
}
