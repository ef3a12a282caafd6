package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// arguments takes those of the names, of which the last few may be left out.
func arguments(optional int, names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names)-optional:
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%q is more than is wanted here", args[len(names)])
		}
		return nil
	}
}

// command takes no argument: what is one is a subcommand that there is not.
func command(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], root.Name())
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		err = fmt.Errorf("%w: is it %s?", err, strings.Join(like, " or "))
	}
	return err
}
