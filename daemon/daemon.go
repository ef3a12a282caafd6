package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/server"
	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
)

// A Daemon is overlayd. Its methods are safe for use by several goroutines.
type Daemon struct {
	config  Config // with its defaults
	log     *slog.Logger
	bootID  string // of this run of the daemon
	started time.Time
	mode    Mode   // ModeTUN or ModeRootless
	noTUN   string // why ModeAuto became ModeRootless
	key     overlay.PrivateKey
	public  overlay.PublicKey

	store  *state.Store
	leases *ipam.Authority
	host   *hostnet.Handle // nil when rootless
	boot   string          // boot id of the host
	server *server.Server

	node        node
	plan        plan
	routes      routes
	resolver    *resolver
	shortage    shortage
	global      global
	services    services
	attachments attachments
	names       names
	ports       ports
	firewall    firewall
	faults      faults

	// running is what goes on besides requests, for as long as ctx.
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New makes a daemon: it opens the data folder, makes the host agree with it and
// listens. After an error nothing of the daemon runs.
func New(c Config) (*Daemon, error) { return nil, errors.ErrUnsupported }

// Serve answers clients until ctx ends or a client asks for the end. It lets what
// was begun come to its end, closes the daemon, and returns nil. Containers stay
// attached, for the next run to go on with.
func (d *Daemon) Serve(ctx context.Context) error { return nil }

// Close ends the daemon and leaves the host as it is, for the next run to go on
// with. It is idempotent.
func (d *Daemon) Close() error { return nil }
