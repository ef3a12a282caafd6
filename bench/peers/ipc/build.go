package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/overlayd/overlayd/bench/internal/report"
)

// The plugins, which are tools of this module.
const (
	pluginBridge    = "github.com/containernetworking/plugins/plugins/main/bridge"
	pluginHostLocal = "github.com/containernetworking/plugins/plugins/ipam/host-local"
)

// buildOverlayd builds the daemon into a folder, with the dependencies of its own
// module.
func buildOverlayd(ctx context.Context, dir string) (program string, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/overlayd/overlayd").Output()
	if err != nil {
		return "", fmt.Errorf("look for overlayd's module: %w", err)
	}
	program = filepath.Join(dir, "overlayd")
	return program, goBuild(ctx, "-C", strings.TrimSpace(string(out)), "-o", program, "./cmd/overlayd")
}

// buildPlugins builds the peer into a folder.
func buildPlugins(ctx context.Context, dir string) error {
	err := goBuild(ctx, "-o", dir+string(filepath.Separator), pluginBridge, pluginHostLocal)
	if err != nil {
		return missing{fmt.Errorf("CNI's plugins cannot be built: %w", err)}
	}
	return nil
}

func goBuild(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...).CombinedOutput()
	if err != nil {
		said := strings.Fields(report.LastLines(string(out), 3)) // in one line, as a table has room for
		return fmt.Errorf("go build: %w: %s", err, strings.Join(said, " "))
	}
	return nil
}
