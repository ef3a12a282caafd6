package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// attach puts a container on the network of a service: all of it, or, on error,
// nothing. The same again gives the same answer.
func (d *Daemon) attach(ctx context.Context, r wire.AttachContainer) (wire.Response, error) {
	if err := checkDNS(r); err != nil {
		return nil, err
	}
	switch h := r.Handle.(type) {
	case wire.LinuxPID:
		return d.attachProcess(ctx, h.PID, r)
	case wire.GuestManaged:
		return d.attachGuest(ctx, h.ID, r)
	case wire.WindowsContainer:
		return nil, &Error{Code: wire.Unsupported, Field: "handle.platform", Msg: "windows_container is for Windows: on this host send linux_pid or guest_managed"}
	default:
		return nil, invalid("handle", "there is none: send linux_pid with a PID, or guest_managed with an id")
	}
}

// checkDNS refuses what would be of no use in a container's resolv.conf, or harm.
func checkDNS(r wire.AttachContainer) error {
	if a := r.DNSServer; a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
		return invalid("dns_server", "%s is no address of a server", a)
	}
	if s := r.DNSDomain; s != "" && !isDomain(s) {
		return invalid("dns_domain", "%.64q is no domain: send labels of 1 to 63 letters, digits, \"-\" and \"_\" with dots between them, 253 bytes at most", s)
	}
	return nil
}

// isDomain reports whether s is a domain name as hosts have (RFC 1123 section
// 2.1), with underscores, and perhaps with the root's dot.
func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

func (d *Daemon) attachProcess(ctx context.Context, pid uint32, r wire.AttachContainer) (wire.Response, error) {
	if r.PublicKey != "" {
		return nil, invalid("public_key", "only a guest_managed has a key")
	}
	if d.host == nil {
		return nil, d.rootless()
	}
	s, release, err := d.service(r.Service)
	if err != nil {
		return nil, err
	}
	defer release()
	g, leave := d.joins(r.JoinGlobal)
	defer leave()
	ns, err := d.namespaceOf(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	at, err := d.attachments.claim(ctx, container{namespace: ns.ID().Inode})
	if err != nil {
		return nil, because(err, "attach process %d", pid)
	}
	defer d.attachments.yield(at)

	if err := d.removeFormer(at); err != nil {
		return nil, err
	}
	to := ends{s, g, ns}
	switch was := at.record; {
	case was == nil:
		err = d.attachNew(ctx, at, to, pid, r)
	case was.Service != r.Service:
		return nil, &Error{Code: wire.Conflict, Field: "service", Msg: fmt.Sprintf("process %d is in a container that is attached to service %q: detach it from there first", pid, was.Service)}
	default:
		err = d.attachAgain(at, to, pid, r)
	}
	if err != nil {
		return nil, because(err, "attach process %d to service %q", pid, s.Name)
	}
	return attached(s, at.record), nil
}

// joins is the node's own overlay for who wants to join it, nil for who does not or
// when there is none: a container that joins then gets its eth1 as soon as there is.
// It stays until release is called.
func (d *Daemon) joins(wanted bool) (g *globalView, release func()) {
	if wanted {
		if g, release, err := d.globalOverlay(); err == nil {
			return g, release
		}
	}
	return nil, func() {}
}

// removeFormer takes what the caller has off the overlay if it is an earlier
// container's whose end was not seen to yet, or could not be.
func (d *Daemon) removeFormer(at *attachment) error {
	if at.record == nil {
		return nil
	}
	if !at.struck {
		same, err := d.same(at.record)
		if err != nil {
			return because(err, "look for %s", title(at.record))
		}
		if same {
			return nil
		}
	}
	return d.remove(at, endOfNamespace)
}

// rootless says why a request that is about the host's network fails.
func (d *Daemon) rootless() error {
	why := "it was started so"
	if d.noTUN != "" {
		why = d.noTUN
	}
	return &Error{Code: wire.Unsupported, Field: "handle.platform",
		Msg: "the daemon runs in mode rootless (" + why + "), which cannot change containers' networks: run it as root with --mode tun, or send guest_managed"}
}

// fieldPID is the field of a request that names a container.
const fieldPID = "handle.pid"

// namespaceOf is the network namespace of a process, if that can be a container's.
func (d *Daemon) namespaceOf(pid uint32) (*hostnet.Namespace, error) {
	if pid == 0 {
		return nil, invalid(fieldPID, "0 is no process: send the PID of one in the container")
	}
	host := invalid(fieldPID, "process %d has the network of the host or of the daemon, which is never a container: send the PID of one with a network namespace of its own", pid)
	if pid == 1 { // the host's, even if we may not look
		return nil, host
	}
	ns, err := hostnet.ProcessNamespace(pid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Code: wire.NotFound, Field: fieldPID, Msg: "there is no process " + fmt.Sprint(pid) + ", or it has ended: send the PID of one in the container"}
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{Code: wire.Permission, Field: fieldPID, Msg: "the daemon may not look into process " + fmt.Sprint(pid) + ": it wants CAP_SYS_PTRACE", Err: err}
	case err != nil:
		return nil, &Error{Code: wire.Internal, Field: fieldPID, Msg: "look into process " + fmt.Sprint(pid), Err: err}
	}
	if slices.Contains(d.attachments.own, ns.ID()) {
		ns.Close()
		return nil, host
	}
	return ns, nil
}

// ends are what the cables of a container are between.
type ends struct {
	service   *service
	global    *globalView // nil: none to the node's own network
	container *hostnet.Namespace
}

// pools are where addresses of the node's own network come from.
func (to ends) pools() []netip.Prefix {
	if to.global == nil {
		return nil
	}
	return to.global.pools()
}

// attachNew attaches a container that is not attached.
func (d *Daemon) attachNew(ctx context.Context, at *attachment, to ends, pid uint32, r wire.AttachContainer) error {
	if err := to.service.bridged(); err != nil {
		return err
	}
	a := &state.Attachment{
		ID:         newAttachmentID(),
		PID:        pid,
		Service:    to.service.Name,
		JoinGlobal: r.JoinGlobal,
		Since:      time.Now().Unix(),
		Boot:       d.boot,
		Namespace:  to.container.ID().Inode,
	}
	a.Link = linkName(suffixEth0, a.ID)
	if to.global != nil {
		a.GlobalLink = linkName(suffixEth1, a.ID)
	}
	d.setDNS(a, r)

	var st steps
	if err := d.attachSteps(ctx, &st, a, to, r); err != nil {
		return st.rollback(err)
	}
	d.attachments.set(at, a)
	d.announce(a)
	return nil
}

// attachSteps does what attachNew records. Each interface is there whole or not at
// all, and all that is not undone if the daemon is killed here is found by the lease.
func (d *Daemon) attachSteps(ctx context.Context, st *steps, a *state.Attachment, to ends, r wire.AttachContainer) error {
	err := st.do("attach.lease",
		func() error { return d.lease(a, to.service.Subnets, to.pools()) },
		func() error { return d.release(a, nil) })
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.plug(st, "attach.eth0", d.serviceVeth(a, to)); err != nil {
		return err
	}
	if to.global != nil {
		if err := d.plug(st, "attach.eth1", d.globalVeth(a, to)); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return st.do("attach.record", func() error { return d.put(a, r) }, nil)
}

// newAttachmentID makes an id that a link's name has room for.
func newAttachmentID() string { return strings.ToLower(rand.Text()[:9]) }

// attachAgain makes an attachment what is asked for now, which mostly is what it
// is already, and mends what is broken.
func (d *Daemon) attachAgain(at *attachment, to ends, pid uint32, r wire.AttachContainer) error {
	a := *at.record
	a.PID, a.JoinGlobal = pid, r.JoinGlobal
	changeDNS(&a, r)
	if err := d.updateFor(at, &a, r); err != nil {
		return err
	}
	if !a.JoinGlobal && a.GlobalLink != "" {
		if err := d.leave(at); err != nil {
			return err
		}
	}
	k := d.attachments.keeper
	k.forget(at.container)
	_, err := d.mend(at, to)
	if errors.Is(err, errOwnRoute) {
		k.look(at.container) // who says so in the status
		return nil
	}
	if err != nil {
		return because(err, "mend %s", title(&a))
	}
	return nil
}

// attached is the answer for a container on record.
func attached(s *service, a *state.Attachment) wire.Attached {
	r := wire.Attached{
		IP:        first(a.Addrs),
		Gateway:   s.gateways[0],
		PrefixLen: uint8(a.Addrs[0].Bits()),
		MTU:       uint32(s.bridge.MTU),
		Interface: serviceInterface,
		GlobalIP:  first(a.Global),
		DNSServer: a.DNSServer,
		Addresses: slices.Concat(a.Addrs, a.Global),
	}
	if !r.DNSServer.IsValid() {
		r.DNSServer = r.Gateway // where the daemon itself answers
	}
	return r
}
