package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

func (a *app) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "events [KIND]...",
		Short: "Show what happens, until Ctrl-C",
		Long: `Show what happens as it does, an event a line, until Ctrl-C: all events, or those
of some kinds. A daemon that goes away is waited for; that events may have been
missed is then told on standard error.

Kinds:
` + columns(wire.EventKinds(), 3),
		ValidArgs: wire.EventKinds(),
		Args: func(_ *cobra.Command, args []string) error {
			for _, kind := range args {
				if !slices.Contains(wire.EventKinds(), kind) {
					return fmt.Errorf("%q is no kind of event: they are %s", kind, strings.Join(wire.EventKinds(), ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, kinds []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			err := a.follow(ctx, kinds)
			if ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
}

// follow shows events until ctx is done or showing them fails.
func (a *app) follow(ctx context.Context, kinds []string) error {
	c, err := a.dial(ctx, once) // who follows a daemon that is not there has mistyped
	if err != nil {
		return err
	}
	c.Close()
	for {
		// From now on it is waited for.
		if c, err = a.dial(ctx, client.Patient); err == nil {
			err = a.followOne(ctx, c, kinds)
			c.Close()
		}
		if !errors.Is(err, client.ErrUnreachable) {
			return err
		}
		a.complain(err)
	}
}

// followOne shows events as long as a daemon can be reached.
func (a *app) followOne(ctx context.Context, c *client.Client, kinds []string) error {
	events, err := c.Events(ctx, kinds...)
	if err != nil {
		return a.told("events", err)
	}
	for event, err := range events {
		switch {
		case errors.Is(err, client.ErrGap):
			a.complain(err)
		case err != nil:
			return a.told("events", err)
		default:
			if err := a.showEvent(event); err != nil {
				return err
			}
		}
	}
	return nil
}

// complain tells of trouble that is not the end.
func (a *app) complain(err error) { fmt.Fprintln(a.err, "overlayd: "+explain(err)) }

func (a *app) showEvent(e wire.Event) error {
	if a.json {
		return a.printJSON(e)
	}
	p := a.page()
	p.printf("%s  %s\n", p.tint(faint, a.now().Format(time.DateTime)), p.event(e))
	_, err := io.WriteString(a.out, p.String())
	return err
}

// event is an event in words.
func (p *page) event(e wire.Event) string {
	switch e := e.(type) {
	case wire.PeerHealthChanged:
		if e.Healthy {
			return p.tint(good, "peer "+e.Pubkey+" answers again")
		}
		return p.tint(bad, "peer "+e.Pubkey+" has ceased to answer")
	case wire.NATEndpointChanged:
		return clean("peer " + e.Pubkey + " is reached at " + e.Endpoint)
	case wire.AttachmentChanged:
		container := fmt.Sprintf("%s, %s of service %s,", handleText(e.Handle), e.IP, e.Service)
		if e.Attached {
			return p.tint(good, container+" is attached")
		}
		return p.tint(warn, container+" is no longer attached"+optional(": ", e.Reason))
	case wire.LeasesLow:
		return p.tint(warn, fmt.Sprintf("pool %s%s is nearly used up: %d of %s addresses",
			e.Pool, optional(" of service ", e.Service), e.Used, size(e.Size)))
	case wire.Degraded:
		return p.tint(bad, e.Part+" does not work as it should: "+e.Reason)
	case wire.Recovered:
		return p.tint(good, e.Part+" works again")
	}
	return clean(e.Kind())
}
