package main

import (
	"time"

	"github.com/spf13/cobra"
)

// The groups of the help.
const (
	groupDaemon = "daemon"
	groupShow   = "show"
	groupAct    = "act"
)

// root is the command with all its subcommands.
func (a *app) root() *cobra.Command {
	serve := &serving{app: a}
	root := &cobra.Command{
		Use:   "overlayd",
		Short: "Containers on a WireGuard overlay",
		Long: `overlayd puts containers on a WireGuard overlay. Without a subcommand it is the
daemon, as with "overlayd serve"; the subcommands ask a daemon that runs.

The daemon listens on a socket: /var/run/overlayd.sock as root on Linux, else
overlayd.sock in $XDG_RUNTIME_DIR. --socket names another, and with --data-dir it
is run/overlayd.sock in that folder.

` + exitCodes,
		Args:          command,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          serve.run,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Lookup("timeout") != nil && a.timeout <= 0 {
				return misused("--timeout %v: it is more than nothing, as 30s", a.timeout)
			}
			a.understood = true
			return nil
		},

		SuggestionsMinimumDistance: 2,
	}
	root.AddGroup(
		&cobra.Group{ID: groupDaemon, Title: "The daemon:"},
		&cobra.Group{ID: groupShow, Title: "To see how it is:"},
		&cobra.Group{ID: groupAct, Title: "To make it do something:"},
	)
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the daemon's socket, a `path`")
	root.PersistentFlags().StringVar(&a.dataDir, "data-dir", "", "the daemon's data `folder`")
	serve.flags(root)
	if err := root.MarkPersistentFlagDirname("data-dir"); err != nil {
		panic(err) // there is no such flag: every test finds that
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.Flags().Bool("version", false, "show the version of this command")
	root.Version = about()
	root.SetVersionTemplate("{{.Version}}\n")

	grouped := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			if c.ValidArgsFunction == nil {
				c.ValidArgsFunction = cobra.NoFileCompletions
			}
			root.AddCommand(c)
		}
	}
	grouped(groupDaemon, serve.command(), a.shutdownCommand(), a.cleanupCommand())
	grouped(groupShow, a.asking(
		a.statusCommand(), a.peersCommand(), a.servicesCommand(), a.attachmentsCommand(), a.leasesCommand(),
		a.dnsCommand(), a.portsCommand(), a.explainCommand(), a.eventsCommand())...)
	grouped(groupShow, a.versionCommand())
	grouped(groupAct, a.asking(a.callCommand(), a.pingCommand())...)
	refuseUnknown(root)
	return root
}

// asking gives commands the flags of all that ask the daemon.
func (a *app) asking(commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		c.Flags().BoolVar(&a.json, "json", false, "print JSON as in the contract: one line, or indented on a terminal")
		a.patience(c)
	}
	return commands
}

func (a *app) patience(c *cobra.Command) {
	c.Flags().DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
	complete(c, "timeout")
}
