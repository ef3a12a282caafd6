package daemon

import (
	"context"
	"errors"
	"sync"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// detach takes a container off the overlay. One that is not on it is no error.
func (d *Daemon) detach(ctx context.Context, r wire.DetachContainer) error {
	var c container
	switch h := r.Handle.(type) {
	case wire.LinuxPID:
		if h.PID == 0 {
			return invalid(fieldPID, "0 is no process: send the PID the container was attached with")
		}
		c = d.containerOf(h.PID)
	case wire.GuestManaged:
		if err := checkGuestID(h.ID); err != nil {
			return err
		}
		c = container{guest: h.ID}
	case wire.WindowsContainer:
		return nil // there are none on this host
	default:
		return invalid("handle", "there is none: send linux_pid with a PID, or guest_managed with an id")
	}
	return d.withdraw(ctx, c, "", "detached")
}

// containerOf is the container a PID stands for: that of its namespace, or, if that
// is none or the process has ended, the one it was attached by.
func (d *Daemon) containerOf(pid uint32) container {
	if ns, err := hostnet.ProcessNamespace(pid); err == nil {
		c := container{namespace: ns.ID().Inode}
		ns.Close()
		if d.attachments.has(c) {
			return c
		}
	}
	return d.attachments.ofProcess(pid)
}

// detachAll takes every container of a service off the overlay, of "" every one
// there is.
func (d *Daemon) detachAll(ctx context.Context, service, reason string) error {
	return each(d.attachments.all(), func(c container) error {
		return d.withdraw(ctx, c, service, reason)
	})
}

// leaveGlobal is called when the node's own overlay is about to be torn down: guests
// are detached, and containers that joined lose their eth1 and its address and stay
// attached to their service, ready to join again.
func (d *Daemon) leaveGlobal(ctx context.Context, reason string) error {
	return each(d.attachments.all(), func(c container) error {
		at, err := d.attachments.claim(ctx, c)
		if err != nil {
			return err
		}
		defer d.attachments.yield(at)
		switch a := at.record; {
		case a == nil:
			return nil
		case a.Guest != "":
			return d.remove(at, reason)
		default:
			return d.leave(at)
		}
	})
}

// atOnce is how many containers are worked on at once when there are many to be
// worked on: enough to share the disk's writes.
const atOnce = 16

// each calls do for every container, of several at once, and joins the errors.
func each(containers []container, do func(container) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs error
	free := make(chan struct{}, atOnce)
	for _, c := range containers {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			if err := do(c); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = errors.Join(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}

// withdraw takes a container off the overlay if it is on it, and, unless service is
// "", on that service.
func (d *Daemon) withdraw(ctx context.Context, c container, service, reason string) error {
	if !d.attachments.has(c) {
		return nil
	}
	at, err := d.attachments.claim(ctx, c)
	if err != nil {
		return because(err, "detach a container")
	}
	defer d.attachments.yield(at)
	if a := at.record; a == nil || service != "" && a.Service != service {
		return nil
	}
	return d.remove(at, reason)
}

// remove takes an attachment, which the caller has, off the overlay. What cannot be
// undone stays as an attachment that is struck, so that the next one to detach it,
// or the keeper, tries again.
func (d *Daemon) remove(at *attachment, reason string) error {
	a := at.record
	var st steps
	err := st.do("detach.strike", func() error { return d.strike(a) }, nil)
	if err == nil {
		at.struck = true
		err = st.do("detach.host", func() error { return d.disconnect(a) }, nil)
	}
	if err == nil {
		err = st.do("detach.release", func() error { return d.release(a, nil) }, nil)
	}
	if err != nil {
		return because(err, "detach %s", title(a))
	}
	at.struck = false
	d.attachments.set(at, nil)
	d.renounce(a, reason)
	return nil
}

// disconnect undoes what there is of an attachment on the host.
func (d *Daemon) disconnect(a *state.Attachment) error {
	if a.Guest != "" {
		return d.disconnectGuest(a)
	}
	// At once, as the kernel takes its time over each.
	var wg sync.WaitGroup
	var eth0, eth1 error
	wg.Go(func() { eth1 = d.unplug(a.GlobalLink) })
	eth0 = d.unplug(a.Link)
	wg.Wait()
	return errors.Join(eth0, eth1)
}

// leave takes a container off the node's own network, if it is on it. Until all of it
// is done the container counts as on it, so that it can be tried again.
func (d *Daemon) leave(at *attachment) error {
	was := at.record
	if was.GlobalLink == "" {
		return nil
	}
	a := *was
	a.Global, a.GlobalLink = nil, ""
	var st steps
	err := st.do("leave.strike", func() error { return d.put(&a, wire.AttachContainer{}) }, nil)
	if err == nil {
		err = st.do("leave.host", func() error { return d.unplug(was.GlobalLink) }, nil)
	}
	if err == nil {
		err = st.do("leave.release", func() error { return d.release(&a, a.Addrs) }, nil)
	}
	if err != nil {
		return because(err, "take %s off the node's own network", title(was))
	}
	d.attachments.set(at, &a)
	return nil
}
