package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/overlayd/overlayd/daemon/wire"
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
	if like := root.SuggestionsFor(args[0]); len(like) > 0 && args[0] != "" && !slices.Contains(like, args[0]) {
		err = fmt.Errorf("%w: is it %s?", err, strings.Join(like, " or "))
	}
	return err
}

// refuseUnknown has "help" and "completion" refuse what is not there: as cobra has
// them they show another help, and say that all is well.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil {
					return err
				}
				return command(about, rest)
			}
		case "completion":
			c.Args = command
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

// flagError is what is wrong with a flag, in words of its own instead of those of
// package strconv.
func flagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	want := map[string]string{
		"bool":     "true or false",
		"duration": "a time such as 30s",
		"uint16":   "a number from 0 to 65535",
	}[invalid.GetFlag().Value.Type()]
	if want == "" {
		return err
	}
	return fmt.Errorf("--%s %s: it is %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}

// unknownOp is an error about an operation, with those that may have been meant.
func unknownOp(op string, err error) error {
	part := strings.ReplaceAll(op, "-", "_")
	var like []string
	for _, known := range wire.Ops() {
		if strings.Contains(known, part) {
			like = append(like, known)
		}
	}
	if !errors.Is(err, wire.UnknownOp) || len(like) == 0 || len(like) > 4 {
		return err
	}
	return fmt.Errorf("%w: is it %s?", err, strings.Join(like, " or "))
}
