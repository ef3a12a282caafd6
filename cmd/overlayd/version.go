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

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this command; status shows the daemon's",
		Args:  arguments(0),
		RunE: func(*cobra.Command, []string) error {
			platform := buildSetting("GOOS") + "/" + buildSetting("GOARCH")
			if !a.json {
				_, err := fmt.Fprintf(a.out, "overlayd %s, %s, %s\n", version(), runtime.Version(), platform)
				return err
			}
			data, err := json.Marshal(struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), runtime.Version(), platform})
			if err != nil {
				return err
			}
			return a.printRawJSON(data)
		},
	}
}
