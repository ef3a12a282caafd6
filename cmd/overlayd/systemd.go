package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	notify "github.com/coreos/go-systemd/v22/daemon"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A systemd is the service manager this was started by, or none; then nothing it
// is told goes anywhere.
type systemd struct {
	listener net.Listener  // the socket it made, or nil
	timeout  time.Duration // of the watchdog; 0: none
}

func newSystemd() (*systemd, error) {
	s := &systemd{}
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("taking the sockets systemd passed on: %w", err)
	}
	switch {
	case len(listeners) > 1:
		return nil, fmt.Errorf("systemd passed on %d sockets, and there is use for one: leave one ListenStream in overlayd.socket", len(listeners))
	case len(listeners) == 1:
		if _, ok := listeners[0].(*net.UnixListener); !ok {
			return nil, fmt.Errorf("the socket that systemd passed on is not a Unix stream socket: give ListenStream in overlayd.socket a path")
		}
		s.listener = listeners[0]
	}
	if s.timeout, err = notify.SdWatchdogEnabled(true); err != nil {
		return nil, fmt.Errorf("reading the watchdog's time from systemd: %w", err)
	}
	return s, nil
}

// ready says that requests are answered.
func (s *systemd) ready(status wire.Status) {
	tell(notify.SdNotifyReady + "\nSTATUS=" + fmt.Sprintf("%s mode, %s, %s", status.Mode,
		counted(int(status.ServiceCount), "service", "services"),
		counted(int(status.AttachmentCount), "container", "containers")))
}

// stopping says that the end has begun. To say so twice is harmless.
func (s *systemd) stopping() { tell(notify.SdNotifyStopping) }

// watchdog tells systemd that the daemon lives, until ctx ends: only when it has
// just answered, for a process that runs and answers nobody is what a watchdog is for.
func (s *systemd) watchdog(ctx context.Context, log *slog.Logger, alive func(context.Context) error) {
	if s.timeout <= 0 {
		return
	}
	ticks := time.NewTicker(s.timeout / 3)
	defer ticks.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, s.timeout/3)
		err := alive(within)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			tell(notify.SdNotifyWatchdog)
		default:
			log.Error("the daemon does not answer itself, which systemd's watchdog will see", "error", err)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// tell sends systemd a message. That it cannot be reached changes nothing here, and
// systemd will notice.
func tell(message string) {
	notify.SdNotify(false, message) //nolint:errcheck // see above
}
