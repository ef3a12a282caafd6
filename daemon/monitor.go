package daemon

import (
	"context"
	"sync"

	"github.com/overlayd/overlayd/daemon/wire"
)

// faults is what does not work as it should.
type faults struct {
	mu   sync.Mutex
	part map[string]string // and why
}

// degrade says that a part does not work, and recover that it does again; saying
// so twice says it once. Both send events and never wait.
func (d *Daemon) degrade(part string, err error) {}
func (d *Daemon) recovered(part string)          {}

// publish sends an event to those who asked. It never waits.
func (d *Daemon) publish(e wire.Event) {}

// natTick is one round of looking at how peers are reached.
func (d *Daemon) natTick(ctx context.Context) error { return nil }

func (d *Daemon) faultWarnings() []string { return nil }
