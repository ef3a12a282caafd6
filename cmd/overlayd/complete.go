package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/wire"
)

// complete offers words as values of a flag, and never files.
func complete(c *cobra.Command, flag string, words ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no such flag: every test finds that
	}
}

// completeOp offers the operations' names as the first argument.
func completeOp(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return wire.Ops(), cobra.ShellCompDirectiveNoFileComp
}

// completionTime is how long the daemon may take to say which services there are:
// somebody waits with a finger on the key.
const completionTime = time.Second

// completeService offers the names of the services as the first argument.
func (a *app) completeService(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	a.timeout = completionTime
	res, err := asked[wire.Services](context.Background(), a, wire.ListServices{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp // without a daemon there is nothing to offer
	}
	names := make([]string, len(res.Services))
	for i, s := range res.Services {
		names[i] = s.Service
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
