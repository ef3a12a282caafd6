package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
)

// repairAttachments makes host, leases and record agree when the daemon starts, and
// begins to keep them so. A container whose interfaces are whole is left alone, one
// that lives without is given them again, one that ended is struck, and what is
// left over of attachments that are on no record is removed. It is done in an order
// in which it can be killed anywhere and begun anew.
func (d *Daemon) repairAttachments(recorded []state.Attachment) error {
	if err := d.knowOwn(); err != nil {
		return err
	}
	links, err := d.cables()
	if err != nil {
		return err
	}
	living, ended, err := d.triage(recorded, links)
	if err != nil {
		return err
	}
	if err := d.clean(living, ended, links); err != nil {
		return err
	}
	d.attachments.open(living)
	if err := d.keep(); err != nil {
		return err
	}
	d.lookAt(d.attachments.all()) // from here on nothing is missed
	return nil
}

// open takes up the attachments on record.
func (a *attachments) open(recorded []*state.Attachment) {
	a.mu.Lock()
	a.of = make(map[container]*attachment)
	a.links = make(map[string]container)
	a.count = make(map[string]int)
	a.keys = make(map[overlay.PublicKey]struct{})
	for _, r := range recorded {
		c := containerIn(r)
		a.of[c] = &attachment{container: c, turn: make(chan struct{}, 1)}
	}
	a.mu.Unlock()
	for _, r := range recorded {
		a.set(a.of[containerIn(r)], r)
	}
}

// knowOwn finds out which namespaces are never a container's.
func (d *Daemon) knowOwn() error {
	if d.host == nil {
		return nil
	}
	own, err := hostnet.OwnNamespace()
	if err != nil {
		return err
	}
	d.attachments.own = []hostnet.NamespaceID{own, d.host.Namespace()}
	host, err := hostnet.HostNamespace()
	switch {
	case err == nil:
		d.attachments.own = append(d.attachments.own, host)
	case !errors.Is(err, fs.ErrPermission):
		return err
	}
	return nil
}

// cables are the hosts' ends of cables of ours, by their names.
func (d *Daemon) cables() (map[string]hostnet.Link, error) {
	if d.host == nil {
		return nil, nil
	}
	links, err := d.host.Links()
	if err != nil {
		return nil, err
	}
	cables := make(map[string]hostnet.Link)
	for _, l := range links {
		if kind, _, ours := d.owned(l); ours && (kind == kindEth0 || kind == kindEth1) {
			cables[l.Name] = l
		}
	}
	return cables, nil
}

// triage tells what is on record and lives from what has ended, and why.
func (d *Daemon) triage(recorded []state.Attachment, links map[string]hostnet.Link) (living []*state.Attachment, ended map[*state.Attachment]string, err error) {
	ended = make(map[*state.Attachment]string)
	for i := range recorded {
		a := &recorded[i]
		reason, err := d.ended(a, links)
		if err != nil {
			return nil, nil, err
		}
		if reason == "" {
			living = append(living, a)
		} else {
			ended[a] = reason
		}
	}
	return living, ended, nil
}

// ended is why a container on record is none any more, "" if it is one.
func (d *Daemon) ended(a *state.Attachment, links map[string]hostnet.Link) (string, error) {
	switch {
	case a.Guest != "":
		return "", nil
	case a.Boot != d.boot:
		return "the host was restarted", nil
	case d.lookService(a.Service) == nil:
		return "its service is not set up any more", nil
	case links[a.Link].Index != 0: // else it had gone with the namespace
		return "", nil
	}
	ns, err := inhabited(a)
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", title(a), err)
	}
	if ns == nil {
		return endOfNamespace, nil
	}
	return "", ns.Close()
}

// clean strikes what has ended, and then removes whatever there is of attachments
// that are not on record: their links, and when those are gone their leases.
func (d *Daemon) clean(living []*state.Attachment, ended map[*state.Attachment]string, links map[string]hostnet.Link) error {
	var st steps
	if len(ended) > 0 {
		gone := slices.Collect(maps.Keys(ended))
		if err := st.do("repair.strike", func() error { return d.strike(gone...) }, nil); err != nil {
			return err
		}
	}
	if d.host != nil {
		if err := st.do("repair.host", func() error { return d.cleanHost(living, links) }, nil); err != nil {
			return err
		}
	}
	if err := st.do("repair.leases", func() error { return d.cleanLeases(living) }, nil); err != nil {
		return err
	}
	for a, reason := range ended {
		d.renounce(a, reason)
	}
	return nil
}

// cleanHost removes cables that are not on record: those that carry our alias, and
// those that were not given one yet, whose names are in their leases.
func (d *Daemon) cleanHost(living []*state.Attachment, links map[string]hostnet.Link) error {
	left := make(map[string]bool)
	for name := range links {
		left[name] = true
	}
	for l := range d.leases.Leases(netip.Prefix{}) {
		if l.Owner.Kind == kindContainer {
			left[l.Owner.Labels[labelEth0]], left[l.Owner.Labels[labelEth1]] = true, true
		}
	}
	for _, a := range living {
		delete(left, a.Link)
		delete(left, a.GlobalLink)
	}
	for name := range left {
		if err := d.unplug(name); err != nil {
			return err
		}
	}
	return nil
}

// cleanLeases releases the leases of who is not on record, and of who is takes
// those that it lacks, as when the leases' file was lost.
func (d *Daemon) cleanLeases(living []*state.Attachment) error {
	alive := ipam.Alive{
		Boot:  d.boot,
		Scope: func(l ipam.Lease) bool { return l.Owner.Kind == kindContainer || l.Owner.Kind == kindGuest },
	}
	for _, a := range living {
		alive.Holders = append(alive.Holders, ipam.Holder{Owner: lessee(a), Addrs: addrsOf(slices.Concat(a.Addrs, a.Global))})
	}
	var contested []error
	err := d.leases.Update(func(tx *ipam.Tx) error {
		report, err := tx.Reconcile(alive)
		if err != nil {
			return err
		}
		for _, doubt := range report.Doubts {
			switch {
			case errors.Is(doubt.Err, ipam.ErrNotHeld): // of an eth1 that was not, or no longer, on record
				if err := tx.Release(doubt.Lease); err != nil {
					return err
				}
			default:
				contested = append(contested, fmt.Errorf("%v of %v: %w", doubt.Addr, doubt.Alive, doubt.Err))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(contested) > 0 {
		d.degrade(partLeases, fmt.Errorf("%d addresses in use cannot be leased to who has them, of which one: %w", len(contested), contested[0]))
	}
	return nil
}

// partLeases is what fails when addresses are in use by others than have leased them.
const partLeases = "leases"
