package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"
)

// version is that of the module this was built from, or the revision.
var version = sync.OnceValue(func() string {
	build, ok := debug.ReadBuildInfo()
	if ok && build.Main.Version != "" && build.Main.Version != "(devel)" {
		return build.Main.Version
	}
	revision := buildSetting("vcs.revision")
	if revision == "" {
		return "devel"
	}
	if buildSetting("vcs.modified") == "true" {
		return "devel-" + revision[:min(12, len(revision))] + "+dirty"
	}
	return "devel-" + revision[:min(12, len(revision))]
})

// buildSetting is something of how this was built; see debug.BuildSetting.
func buildSetting(key string) string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			if s.Key == key {
				return s.Value
			}
		}
	}
	return ""
}

func platform() string { return buildSetting("GOOS") + "/" + buildSetting("GOARCH") }

// about is what this command is, on one line.
func about() string {
	return fmt.Sprintf("overlayd %s, %s, %s", version(), runtime.Version(), platform())
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this command; status shows the daemon's",
		Args:  arguments(0),
		RunE: func(*cobra.Command, []string) error {
			if !a.json {
				_, err := fmt.Fprintln(a.out, about())
				return err
			}
			data, err := json.Marshal(struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), runtime.Version(), platform()})
			if err != nil {
				return err
			}
			return a.printRawJSON(data)
		},
	}
	c.Flags().BoolVar(&a.json, "json", false, "print it as JSON")
	return c
}
