package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/server"
	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
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

	installation string // in the alias of every link

	store    *state.Store
	leases   *ipam.Authority
	host     *hostnet.Handle // nil when rootless
	boot     string          // boot id of the host
	server   *server.Server
	listener net.Listener

	node        node
	plan        plan
	routes      routes
	resolver    *resolver
	roaming     roaming
	shortage    shortage
	global      global
	services    services
	attachments attachments
	names       names
	ports       ports
	firewall    firewall
	faults      faults
	monitor     monitor
	meter       meter

	// running is what goes on besides requests, for as long as ctx.
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	bridgeGone chan struct{} // full when bridges are to be looked at

	asked   chan struct{} // closed when a client asked for the end
	closing sync.Once
	closed  error
}

// New makes a daemon: it opens the data folder, makes the host agree with it and
// listens. After an error nothing of the daemon runs. It is called in the network
// namespace that is the host's, which the daemon never leaves.
func New(c Config) (*Daemon, error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		config:   c,
		log:      c.Logger,
		bootID:   newBootID(),
		started:  time.Now(),
		resolver: newResolver(),
		asked:    make(chan struct{}),

		bridgeGone: make(chan struct{}, 1),
	}
	d.attachments.keeper = newKeeper() // a device that is made anew asks for it as soon as there is one
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.server = server.New(server.Config{
		Handle:   d.handle,
		Hello:    d.hello,
		Shutdown: func() { close(d.asked) },
		Reply:    reply,
		Group:    socketGroup,
		Logger:   c.Logger,
	})
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// open takes everything up in the order in which it rests on each other.
func (d *Daemon) open() error {
	store, err := state.Open(d.config.DataDir)
	if damaged, ok := errors.AsType[*state.DamagedError](err); ok {
		d.log.Error("what was set up is lost, and has to be set up again", "file", damaged.Path, "aside", damaged.Aside, "err", damaged.Err)
		store, err = state.Open(d.config.DataDir)
	}
	if err != nil {
		return err
	}
	d.store = store
	// A second daemon is told so before it does anything.
	if d.listener = d.config.Listener; d.listener == nil {
		if d.listener, err = d.server.Listen(d.config.Endpoint); err != nil {
			return err
		}
	}
	recorded, err := store.Load()
	if err != nil {
		return err
	}
	d.node.now.Store(&recorded.Node)
	if err := d.openIdentity(); err != nil {
		return err
	}
	if err := d.openLeases(); err != nil {
		return err
	}
	d.roaming.load(d.config.DataDir)
	if err := d.chooseMode(recorded); err != nil {
		return err
	}
	return d.repair(recorded)
}

// openIdentity takes up what the node is known by, or makes it at the first start.
func (d *Daemon) openIdentity() (err error) {
	d.installation = d.node.now.Load().Installation
	if d.installation != "" && !d.store.HasNodeKey() {
		d.log.Error("the node's key is lost, so it gets a new one: tell its peers the public key that status shows", "folder", d.config.DataDir)
	}
	if d.key, err = d.store.NodeKey(); err != nil {
		return err
	}
	d.public = d.key.Public()
	if d.installation != "" {
		return nil
	}
	d.installation = installation(d.public)
	return d.recordNode(func(n *state.Node) { n.Installation = d.installation }, nil)
}

// leaseFile is in the data folder.
const leaseFile = "leases.db"

// openLeases opens the leases. When they are damaged they are set aside, and made
// anew from what is on record and what is really there.
func (d *Daemon) openLeases() error {
	path := filepath.Join(d.config.DataDir, leaseFile)
	leases, err := ipam.Open(path, ipam.Config{})
	if damaged, ok := errors.AsType[*ipam.DamagedError](err); ok {
		d.log.Error("the leases are made anew from what is on record: addresses reserved by allocate_ip are forgotten",
			"file", damaged.Path, "aside", damaged.Aside, "err", damaged.Err)
		leases, err = ipam.Open(path, ipam.Config{})
	}
	d.leases = leases
	return err
}

// chooseMode finds out whether the node can have a TUN device, if it may.
func (d *Daemon) chooseMode(recorded state.State) error {
	d.mode = ModeRootless
	if d.config.Mode != ModeRootless {
		host, err := tryTUN()
		switch {
		case err == nil:
			d.host, d.mode = host, ModeTUN
			if d.boot, err = hostnet.BootID(); err != nil {
				return fmt.Errorf("the host does not say which boot it runs: %w", err)
			}
		case d.config.Mode == ModeTUN:
			return fmt.Errorf("mode %s: %w; mode %s can do without, but reaches no containers", ModeTUN, err, ModeRootless)
		default:
			d.noTUN = err.Error()
			d.log.Warn("there is no TUN device, so the node is rootless", "err", err)
		}
	}
	if d.host != nil {
		return d.holdHost()
	}
	if hostBound(recorded) {
		why := ""
		if d.noTUN != "" {
			why = " (" + d.noTUN + ")"
		}
		return fmt.Errorf("data folder %s is of a node with interfaces on this host, which mode %s%s cannot look after: start it as root as before, remove them by overlayd cleanup, or use another folder",
			d.config.DataDir, ModeRootless, why)
	}
	return nil
}

// holdHost sees to it that no other overlayd, with another data folder, works on the
// same network: there is one table of rules, and one set of sysctls.
func (d *Daemon) holdHost() error {
	err := d.host.Hold()
	if held, ok := errors.AsType[*hostnet.HeldError](err); ok {
		return &Error{Code: wire.Conflict, Msg: held.Error()}
	}
	if err != nil {
		return err
	}
	links, err := d.host.Links()
	if err != nil {
		return fmt.Errorf("the host's interfaces cannot be listed: %w", err)
	}
	links = slices.DeleteFunc(links, func(l hostnet.Link) bool {
		_, _, ours := d.owned(l)
		return ours
	})
	// One that does not know of holding.
	if err := unattended(links, aliasPrefix); err != nil {
		return &Error{Code: wire.Conflict, Msg: err.Error()}
	}
	for _, l := range links {
		if strings.HasPrefix(l.Alias, aliasPrefix) {
			d.log.Warn("an overlayd with another data folder, which does not run, has left an interface: overlayd cleanup with its folder removes it", "link", l.Name, "alias", l.Alias)
		}
	}
	return nil
}

// Mode is ModeTUN or ModeRootless, and why it is that.
func (d *Daemon) Mode() (m Mode, why string) {
	switch {
	case d.config.Mode != ModeAuto:
		return d.mode, fmt.Sprintf("mode %s was asked for", d.config.Mode)
	case d.noTUN != "":
		return d.mode, d.noTUN
	}
	return d.mode, "the system gives a TUN device"
}

// tryTUN makes sure that a TUN device can be had, by having one for a moment.
func tryTUN() (*hostnet.Handle, error) {
	tun, err := overlay.OpenTUN(overlay.TUNConfig{Name: "ovl-try%d", MTU: tunnelMTU})
	if failed, ok := errors.AsType[*overlay.TUNError](err); ok {
		return nil, failed.Err // without the name, which is but for trying
	}
	if err != nil {
		return nil, err
	}
	tun.Close()
	return hostnet.Open()
}

// hostBound reports whether something on record has interfaces on the host.
func hostBound(recorded state.State) bool {
	if g := recorded.Node.Global; g != nil && g.Interface != "" {
		return true
	}
	for _, s := range recorded.Services {
		if s.Bridge != "" {
			return true
		}
	}
	return false
}

// Serve answers clients until ctx ends or a client asks for the end. It lets what
// was begun come to its end, closes the daemon, and returns nil. Containers stay
// attached, for the next run to go on with.
func (d *Daemon) Serve(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.listener) }()
	var err error
	select {
	case <-ctx.Done():
	case <-d.asked:
	case <-d.ctx.Done(): // Close
	case err = <-served:
		served <- nil
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if e := d.server.Shutdown(drain); e != nil {
		d.log.Warn("requests were cut off at the end", "err", e)
	}
	return errors.Join(err, <-served, d.Close())
}

// drainTime is how long what clients asked for may take to come to its end.
const drainTime = 10 * time.Second

// Close ends the daemon and leaves the host as it is, for the next run to go on
// with. It is idempotent.
func (d *Daemon) Close() error {
	d.closing.Do(func() {
		d.stop()
		errs := []error{d.server.Close()}
		if d.listener != nil {
			if err := d.listener.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		d.closeNames()
		d.running.Wait()
		// Devices last, as until then they carry what goes on between containers.
		if d.global.load() != nil {
			d.saveRoaming()
			for _, v := range d.devices() {
				errs = append(errs, v.node().Close())
			}
		}
		if d.host != nil {
			d.host.Close()
		}
		if d.leases != nil {
			errs = append(errs, d.leases.Close())
		}
		if d.store != nil {
			errs = append(errs, d.store.Close())
		}
		d.closed = errors.Join(errs...)
	})
	return d.closed
}

// hello is what the daemon says of itself.
func (d *Daemon) hello() wire.Hello {
	return wire.Hello{
		BootID:    d.bootID,
		Build:     d.config.Version,
		Platform:  platform + "/" + runtime.GOARCH,
		Mode:      string(d.mode),
		PublicKey: d.public.String(),
	}
}
