package daemon

import (
	"context"

	"github.com/overlayd/overlayd/daemon/wire"
)

// ports is the owner of the published ports.
type ports struct{}

// openPorts takes the ports on record up again.
func (d *Daemon) openPorts(recorded []wire.PublishedPort) error { return nil }

func (d *Daemon) publishPort(ctx context.Context, r wire.PublishPort) (wire.Port, error) {
	return wire.Port{}, nil
}
func (d *Daemon) unpublishPort(ctx context.Context, r wire.UnpublishPort) error { return nil }
func (d *Daemon) listPorts() (wire.Ports, error)                                { return wire.Ports{}, nil }
