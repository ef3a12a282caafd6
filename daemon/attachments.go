package daemon

import (
	"context"
	"sync"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
)

// attachments is the owner of all attachments: of which there are.
type attachments struct {
	mu sync.RWMutex // never held while anything is waited for
}

func (d *Daemon) attach(ctx context.Context, r wire.AttachContainer) (wire.Response, error) {
	return nil, nil
}
func (d *Daemon) detach(ctx context.Context, r wire.DetachContainer) error { return nil }

// detachAll takes every container of a service off the overlay, of "" every one
// there is.
func (d *Daemon) detachAll(ctx context.Context, service, reason string) error { return nil }

// leaveGlobal is called when the node's own overlay is about to be torn down: guests
// are detached, and containers that joined lose their eth1 and its address and stay
// attached to their service.
func (d *Daemon) leaveGlobal(ctx context.Context, reason string) error { return nil }

// rejoinGlobal is called when the node's device was made anew, so that its address
// and all routes that prefer it were gone for a moment, or when its address is
// another one: what leads to containers that joined is made whole again.
func (d *Daemon) rejoinGlobal() error { return nil }

func (d *Daemon) listAttachments(r wire.ListAttachments) (wire.Attachments, error) {
	return wire.Attachments{}, nil
}

// attachmentCount is how many there are of each service. It never waits.
func (d *Daemon) attachmentCount() map[string]int { return nil }

// repairAttachments makes host, leases and record agree when the daemon starts.
func (d *Daemon) repairAttachments(recorded []state.Attachment) error { return nil }
