package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon"
	"github.com/overlayd/overlayd/daemon/wire"
)

func (a *app) cleanupCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything of the daemon from this host",
		Long: `Remove everything of the daemon from this host: interfaces, routes, rules, changed
settings of the kernel, and the record of what was set up. The node keeps its key.

The daemon must not run; with --force it is asked to end first. Containers lose
their network.`,
		Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cleanup(cmd.Context(), force)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "ask a daemon that runs to end first")
	c.Flags().BoolVar(&a.json, "json", false, "print what was removed as JSON")
	a.patience(c)
	return c
}

func (a *app) cleanup(ctx context.Context, force bool) error {
	endpoint, err := a.endpoint()
	if err != nil && a.dataDir == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var report daemon.CleanupReport
	err = a.outlast(ctx, func() (err error) {
		report, err = daemon.Cleanup(ctx, daemon.Config{DataDir: a.dataDir, Endpoint: endpoint}, force)
		return err
	})
	switch {
	case err != nil && !force && errors.Is(err, wire.Conflict):
		return fmt.Errorf("%w; or let --force ask it to end first", err)
	case err != nil:
		return a.told("cleanup", err)
	case !a.json:
		_, err = fmt.Fprint(a.out, removed(report))
		return err
	}
	data, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return a.printRawJSON(data)
}

// removed is what was, a line each.
func removed(r daemon.CleanupReport) string {
	var b strings.Builder
	line := func(did bool, format string, args ...any) {
		if did {
			fmt.Fprintf(&b, format+"\n", args...)
		}
	}
	line(r.Stopped, "ended the daemon")
	line(len(r.Links) > 0, "removed %s: %s", counted(len(r.Links), "interface", "interfaces"), clean(strings.Join(r.Links, " ")))
	line(r.Guards > 0, "removed %s for peers' prefixes", counted(r.Guards, "unreachable route", "unreachable routes"))
	line(r.Firewall, "removed the firewall's tables")
	line(len(r.Sysctls) > 0, "put back %s", clean(strings.Join(r.Sysctls, " ")))
	line(r.Records > 0, "forgot %s of what was set up", counted(r.Records, "record", "records"))
	if b.Len() == 0 {
		return "There was nothing to remove.\n"
	}
	return b.String()
}
