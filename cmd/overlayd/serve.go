package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon"
	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

// A serving is the daemon as its flags say.
type serving struct {
	app       *app
	mode      string
	logFormat string
	logLevel  string
	metrics   string
}

func (s *serving) command() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Be the daemon",
		Long: `Be the daemon, until SIGTERM, Ctrl-C or "overlayd shutdown". What was begun comes
to its end, and containers stay attached for the next run to go on with; a second
signal ends it at once.

As root on Linux the overlay is a TUN device, else, or with --mode rootless, a
TCP/IP stack inside the daemon, which needs no privilege but reaches no
containers. The data folder is /var/lib/overlayd as root, else overlayd in
$XDG_STATE_HOME or in ~/.local/state.

With systemd it says when it is ready and that it lives, and takes a socket; see
overlayd.service and overlayd.socket.`,
		Args: arguments(0),
		RunE: s.run,
	}
	s.flags(c)
	return c
}

func (s *serving) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.mode, "mode", string(daemon.ModeAuto), "what the overlay is: tun, rootless, or auto for what the system gives")
	f.StringVar(&s.logFormat, "log-format", "text", "the form of what is logged to standard error: text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "the least of what is logged: debug, info, warn or error")
	f.StringVar(&s.metrics, "metrics-listen", "", "serve Prometheus metrics at /metrics on this `address`; a port alone is one of 127.0.0.1")
	complete(c, "metrics-listen")
	complete(c, "mode", "auto", "tun", "rootless")
	complete(c, "log-format", "text", "json")
	complete(c, "log-level", "debug", "info", "warn", "error")
}

// config is what the flags ask for, with a socket that is there already, or none.
// It touches nothing.
func (s *serving) config(socket net.Listener) (config daemon.Config, err error) {
	if config.Logger, err = s.logger(); err != nil {
		return config, err
	}
	switch mode := daemon.Mode(s.mode); mode {
	case daemon.ModeAuto, daemon.ModeTUN, daemon.ModeRootless:
		config.Mode = mode
	default:
		return config, misused("--mode %s: it is auto, tun or rootless", s.mode)
	}
	config.DataDir, config.Version, config.Listener = s.app.dataDir, version(), socket
	if socket != nil {
		config.Endpoint = socket.Addr().String()
		return config, nil
	}
	config.Endpoint, err = s.app.endpoint()
	return config, err
}

func (s *serving) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, misused("--log-level %s: it is debug, info, warn or error", s.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch s.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(s.app.err, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(s.app.err, options)), nil
	}
	return nil, misused("--log-format %s: it is text or json", s.logFormat)
}

// run is the daemon's life.
func (s *serving) run(cmd *cobra.Command, _ []string) error {
	sys, err := newSystemd()
	if err != nil {
		return err
	}
	config, err := s.config(sys.listener)
	if err != nil {
		return err
	}
	metrics, err := listenMetrics(s.metrics)
	if err != nil {
		return err
	}
	defer metrics.Close()

	// Signals count from before anything is made, so that it is not left half made.
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	defer onSignals(config.Logger, func() {
		sys.stopping()
		stop()
	})()

	d, err := s.begin(ctx, config)
	if err != nil {
		return err
	}
	defer d.Close()
	metrics.serve(d.Metrics(), config.Logger)
	defer sys.stopping() // also when a client asks for the end
	return live(ctx, d, config, sys, metrics.url())
}

// live is the daemon's life from when it is made.
func live(ctx context.Context, d *daemon.Daemon, config daemon.Config, sys *systemd, metrics string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	up, down := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		err := d.Serve(ctx)
		down()
		ended <- err
	}()
	self, status, err := meet(up, config.Endpoint)
	if err != nil {
		asked := up.Err() != nil // to end, before it was up
		stop()
		if failed := <-ended; asked || failed != nil {
			return failed
		}
		return err
	}
	defer self.Close()
	config.Logger.Info("ready", startLine(d, config, status)...)
	if metrics != "" {
		config.Logger.Info("metrics are served", "url", metrics)
	}
	sys.ready(status)
	sys.watchdog(up, config.Logger, func(ctx context.Context) error {
		_, err := self.Status(ctx)
		return err
	})
	if err = <-ended; err == nil {
		config.Logger.Info("ended: what is set up stays on the host for the next run")
	}
	return err
}

// begin makes the daemon. Where systemd holds the socket, systemd has seen the one
// before end.
func (s *serving) begin(ctx context.Context, config daemon.Config) (d *daemon.Daemon, err error) {
	if config.Listener != nil {
		return daemon.New(config)
	}
	err = s.app.outlast(ctx, func() (err error) {
		d, err = daemon.New(config)
		return err
	})
	return d, err
}

// firstAnswer is how long the daemon may take to answer itself when it has just
// started.
const firstAnswer = 30 * time.Second

// meet asks the daemon how it is, as any client does: it is up when it answers.
func meet(ctx context.Context, endpoint string) (*client.Client, wire.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, firstAnswer)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Endpoint: endpoint, Attempts: client.Patient, Name: "overlayd serve"})
	if err != nil {
		return nil, wire.Status{}, fmt.Errorf("the daemon does not answer itself: %w", err)
	}
	status, err := c.Status(ctx)
	if err != nil {
		c.Close()
		return nil, wire.Status{}, fmt.Errorf("the daemon does not answer itself: %w", err)
	}
	return c, status, nil
}

// startLine is what the line about the start says.
func startLine(d *daemon.Daemon, config daemon.Config, status wire.Status) []any {
	mode, _ := d.Mode() // why it is rootless was told already
	return []any{
		"version", status.Version, "mode", string(mode), "socket", config.Endpoint, "mtu", status.MTU,
		"addresses", cmp.Or(joined(status.Addresses), "none, as the overlay is not set up"), "key", status.PublicKey,
		"services", status.ServiceCount, "attachments", status.AttachmentCount,
	}
}

// sameSignal is within what time a signal is the one before once more: timeout(1),
// for one, sends it to the process and then to its group.
const sameSignal = 500 * time.Millisecond

// onSignals calls stop at the first SIGTERM or SIGINT and ends the program at the
// second, until it is itself ended. SIGHUP is what others take for "read your
// configuration again"; there is none, and to end, as is the default, would be worse.
func onSignals(log *slog.Logger, stop func()) (end func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		var first os.Signal
		var asked time.Time
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch {
				case s == syscall.SIGHUP:
					log.Info("SIGHUP is ignored: there is no configuration to read again")
				case s == first && time.Since(asked) < sameSignal:
				case first != nil:
					log.Warn("ending at once, as asked twice", "signal", s.String())
					os.Exit(exitFailed)
				default:
					first, asked = s, time.Now()
					log.Info("ending: what was begun is done first; once more ends it at once", "signal", s.String())
					stop()
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
