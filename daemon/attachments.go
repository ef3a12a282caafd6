package daemon

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/overlay"
)

// maxAttachments bounds how many containers there may be at once.
const maxAttachments = 16384

// attachments is the owner of all attachments: of which there are. What each one
// is belongs to whoever has claimed it.
//
// Who wants a service to stay, or the node's own overlay, asks for that before it
// claims an attachment, and in this order.
type attachments struct {
	mu    sync.RWMutex // never held while anything is waited for
	of    map[container]*attachment
	links map[string]container           // by the names of the hosts' ends
	count map[string]int                 // of a service, those on record
	keys  map[overlay.PublicKey]struct{} // of guests, and of those about to be

	own    []hostnet.NamespaceID // of the daemon and of the host: never a container's
	keeper *keeper
}

// A container is what is attached once at most: what lives in a network
// namespace, whichever of its processes is named, or a guest.
type container struct {
	namespace uint64 // its inode, in this boot of the host
	guest     string // the id of a guest
}

// An attachment is a container on the overlay, or about to be.
type attachment struct {
	container
	turn  chan struct{} // full while somebody has it
	users int           // who have it or wait for it; guarded by attachments.mu

	// record is what is on disk, nil if nothing. It is changed as a whole by who has
	// the attachment, under attachments.mu.
	record *state.Attachment
	// struck is that the record is not on disk any more, but the host or the leases
	// could not be cleaned up. Guarded by the turn.
	struck bool
}

// claim waits for an attachment, which may be of nothing yet, and keeps everybody
// else from changing anything about its container until yield.
func (a *attachments) claim(ctx context.Context, c container) (*attachment, error) {
	a.mu.Lock()
	at := a.of[c]
	if at == nil {
		if len(a.of) >= maxAttachments {
			a.mu.Unlock()
			return nil, failed(wire.Exhausted, "the room for attachments is exhausted: there are %d, the most there may be", maxAttachments)
		}
		at = &attachment{container: c, turn: make(chan struct{}, 1)}
		a.of[c] = at
	}
	at.users++
	a.mu.Unlock()
	select {
	case at.turn <- struct{}{}:
		return at, nil
	case <-ctx.Done():
		a.leave(at)
		return nil, ctx.Err()
	}
}

// yield lets go of an attachment.
func (a *attachments) yield(at *attachment) {
	<-at.turn
	a.leave(at)
}

func (a *attachments) leave(at *attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at.users--; at.users == 0 && at.record == nil {
		delete(a.of, at.container)
	}
}

// set makes r what is known of an attachment the caller has; nil: that it is none.
func (a *attachments) set(at *attachment, r *state.Attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if was := at.record; was != nil {
		delete(a.links, was.Link)
		delete(a.links, was.GlobalLink)
		delete(a.keys, was.PublicKey)
		if a.count[was.Service]--; a.count[was.Service] == 0 {
			delete(a.count, was.Service)
		}
	}
	if at.record = r; r == nil {
		return
	}
	for _, name := range []string{r.Link, r.GlobalLink} {
		if name != "" {
			a.links[name] = at.container
		}
	}
	if !r.PublicKey.IsZero() {
		a.keys[r.PublicKey] = struct{}{}
	}
	a.count[r.Service]++
}

// takeKey keeps a guest's key from others, until freeKey or its record goes.
func (a *attachments) takeKey(k overlay.PublicKey) (free bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, taken := a.keys[k]; taken {
		return false
	}
	a.keys[k] = struct{}{}
	return true
}

func (a *attachments) freeKey(k overlay.PublicKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, k)
}

// known is the record of a container, nil if there is none.
func (a *attachments) known(c container) *state.Attachment {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if at := a.of[c]; at != nil {
		return at.record
	}
	return nil
}

// has reports whether a container is attached, or somebody is about to change
// whether it is.
func (a *attachments) has(c container) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.of[c] != nil
}

// ofProcess is the container that was last attached by a PID, whose process may have
// ended since; of none it is the zero container, which is never attached.
func (a *attachments) ofProcess(pid uint32) (c container) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var since int64
	for _, at := range a.of {
		if r := at.record; r != nil && r.PID == pid && r.Guest == "" && r.Since >= since {
			c, since = at.container, r.Since
		}
	}
	return c
}

// all is every container that is attached or about to be.
func (a *attachments) all() []container {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(maps.Keys(a.of))
}

// records is what there is on record, in no order.
func (a *attachments) records() []*state.Attachment {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]*state.Attachment, 0, len(a.of))
	for _, at := range a.of {
		if at.record != nil {
			all = append(all, at.record)
		}
	}
	return all
}

// attachmentCount is how many there are of each service. It never waits.
func (d *Daemon) attachmentCount() map[string]int {
	a := &d.attachments
	a.mu.RLock()
	defer a.mu.RUnlock()
	return maps.Clone(a.count)
}

// listAttachments are those of a service, or all, by service and address.
func (d *Daemon) listAttachments(r wire.ListAttachments) (wire.Attachments, error) {
	if err := checkName("service", r.Service, true); err != nil {
		return wire.Attachments{}, err
	}
	if r.Service != "" && d.lookService(r.Service) == nil {
		return wire.Attachments{}, notSetUp(r.Service)
	}
	list := wire.Attachments{Attachments: []wire.Attachment{}}
	for _, a := range d.attachments.records() {
		if r.Service == "" || r.Service == a.Service {
			list.Attachments = append(list.Attachments, listed(a))
		}
	}
	slices.SortFunc(list.Attachments, func(a, b wire.Attachment) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.IP.Compare(b.IP))
	})
	return list, nil
}

func listed(a *state.Attachment) wire.Attachment {
	l := wire.Attachment{
		Handle:        handleOf(a),
		Service:       a.Service,
		IP:            first(a.Addrs),
		GlobalIP:      first(a.Global),
		Addresses:     slices.Concat(a.Addrs, a.Global),
		HostInterface: a.Link,
		Since:         a.Since,
	}
	if a.Guest == "" {
		l.Interface = serviceInterface
	}
	return l
}

// first is the address that stands for all, if there is one.
func first(p []netip.Prefix) netip.Addr {
	if len(p) == 0 {
		return netip.Addr{}
	}
	return p[0].Addr()
}
