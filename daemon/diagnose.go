package daemon

import (
	"context"

	"github.com/overlayd/overlayd/daemon/wire"
)

func (d *Daemon) explain(r wire.Explain) (wire.Explanation, error) { return wire.Explanation{}, nil }
func (d *Daemon) ping(ctx context.Context, r wire.Ping) (wire.Pong, error) {
	return wire.Pong{}, nil
}
