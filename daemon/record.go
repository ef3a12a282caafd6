package daemon

import (
	"fmt"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
)

// What is on record of attachments is changed here and nowhere else.

// put records an attachment, and what its request says of names for those to come.
func (d *Daemon) put(a *state.Attachment, r wire.AttachContainer) error {
	put := func(tx *state.Tx) error { tx.PutAttachment(*a); return nil }
	var err error
	if n := d.node.load(); speaksOfDNS(n, r) {
		err = d.recordNode(func(n *state.Node) {
			if r.DNSServer.IsValid() {
				n.DNSServer = r.DNSServer.String()
			}
			if r.DNSDomain != "" {
				n.DNSDomain = r.DNSDomain
			}
		}, put)
	} else {
		err = d.store.Update(put) // beside others
	}
	if err != nil {
		return because(err, "record the attachment")
	}
	return nil
}

// speaksOfDNS reports whether a request says of names what the record does not.
func speaksOfDNS(n *state.Node, r wire.AttachContainer) bool {
	return r.DNSServer.IsValid() && r.DNSServer.String() != n.DNSServer || r.DNSDomain != "" && r.DNSDomain != n.DNSDomain
}

// setDNS gives a new attachment what its request says of names, or what the last one
// said that did, if any.
func (d *Daemon) setDNS(a *state.Attachment, r wire.AttachContainer) {
	n := d.node.load()
	a.DNSServer, _ = netip.ParseAddr(n.DNSServer) // none is "" on record
	a.DNSDomain = n.DNSDomain
	changeDNS(a, r)
}

// changeDNS gives an attachment what a request says of names, if it does.
func changeDNS(a *state.Attachment, r wire.AttachContainer) {
	if r.DNSServer.IsValid() {
		a.DNSServer = r.DNSServer
	}
	if r.DNSDomain != "" {
		a.DNSDomain = r.DNSDomain
	}
}

// update records what became of an attachment that the caller has.
func (d *Daemon) update(at *attachment, a *state.Attachment) error {
	return d.updateFor(at, a, wire.AttachContainer{})
}

// updateFor is update for a request, which mostly asks for nothing new.
func (d *Daemon) updateFor(at *attachment, a *state.Attachment, r wire.AttachContainer) error {
	was := at.record
	if a.PID == was.PID && a.JoinGlobal == was.JoinGlobal && a.GlobalLink == was.GlobalLink &&
		a.DNSServer == was.DNSServer && a.DNSDomain == was.DNSDomain && !speaksOfDNS(d.node.load(), r) {
		return nil
	}
	if err := d.put(a, r); err != nil {
		return err
	}
	d.attachments.set(at, a)
	return nil
}

// strike takes attachments off the record.
func (d *Daemon) strike(gone ...*state.Attachment) error {
	err := d.store.Update(func(tx *state.Tx) error {
		for _, a := range gone {
			tx.DeleteAttachment(a.ID)
		}
		return nil
	})
	if err != nil {
		return because(err, "strike the attachment from the record")
	}
	return nil
}

// announce says that a container is attached.
func (d *Daemon) announce(a *state.Attachment) {
	d.log.Info("attached", "container", title(a), "service", a.Service, "addresses", a.Addrs, "global", a.Global)
	d.publish(wire.AttachmentChanged{Handle: handleOf(a), Service: a.Service, IP: first(a.Addrs), Attached: true})
}

// renounce says that a container is no longer attached.
func (d *Daemon) renounce(a *state.Attachment, reason string) {
	d.log.Info("detached", "container", title(a), "service", a.Service, "reason", reason)
	d.publish(wire.AttachmentChanged{Handle: handleOf(a), Service: a.Service, IP: first(a.Addrs), Reason: reason})
}

// title is a container in a message.
func title(a *state.Attachment) string {
	if a.Guest != "" {
		return fmt.Sprintf("guest %q", a.Guest)
	}
	return fmt.Sprintf("the container of process %d", a.PID)
}

// containerIn is the container a record is of.
func containerIn(a *state.Attachment) container {
	return container{namespace: a.Namespace, guest: a.Guest}
}

// handleOf is how clients name it.
func handleOf(a *state.Attachment) wire.Handle {
	if a.Guest != "" {
		return wire.GuestManaged{ID: a.Guest}
	}
	return wire.LinuxPID{PID: a.PID}
}
