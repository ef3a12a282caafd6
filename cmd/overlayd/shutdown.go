package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

func (a *app) shutdownCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "shutdown",
		Short: "Ask the daemon to end, and wait until it has",
		Long: `Ask the daemon to end, and wait until it has. What was begun comes to its end, and
containers stay attached for the next run to go on with; "overlayd cleanup" takes
all of it from the host.`,
		Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			return a.told(wire.Shutdown{}.Op(), a.shutdown(ctx))
		},
	}
	a.patience(c)
	return c
}

// pollEvery is how often it is looked whether a daemon is still there.
const pollEvery = 50 * time.Millisecond

// shutdown ends the daemon.
func (a *app) shutdown(ctx context.Context) error {
	c, err := a.dial(ctx, once)
	if err != nil {
		return err
	}
	defer c.Close()
	before, _ := c.Hello()
	if err := c.Shutdown(ctx); err != nil {
		return err
	}
	c.Close()
	for {
		// A daemon that lets requests come to their end takes no new ones, but its
		// socket is there until it is done.
		next, err := a.dial(ctx, once)
		switch {
		case errors.Is(err, client.ErrUnreachable):
			return nil
		case err == nil:
			now, _ := next.Hello()
			next.Close()
			if now.BootID != before.BootID {
				return fmt.Errorf("the daemon has ended, but something started another: stop that too, as with \"systemctl stop overlayd.service overlayd.socket\"")
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// endingTime is how long a daemon may take to end that answers nobody any more.
const endingTime = 5 * time.Second

// outlast does something that a daemon which is about to end is in the way of: again
// and again, until it is gone. One that answers is not about to.
func (a *app) outlast(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, endingTime)
	defer cancel()
	for {
		err := do()
		if !errors.Is(err, wire.Conflict) {
			return err
		}
		c, unreached := a.dial(ctx, once)
		if unreached == nil {
			c.Close()
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return err
		}
	}
}
