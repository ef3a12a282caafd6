package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/overlayd/overlayd/bench/internal/report"
)

// An outside is scenarios measured by a command of bench/peers, a module of its
// own, because their peers' dependencies are not to be this one's.
type outside struct {
	names []string
	args  func(name string, quick bool) []string // of go run
}

// outsides are all of them.
var outsides = []outside{
	{
		names: []string{"ipam-alloc"},
		args: func(_ string, quick bool) []string {
			if quick {
				return []string{"./ipam", "-json", "-rounds", "3", "-round", "50ms", "-leases", "10000"}
			}
			return []string{"./ipam", "-json", "-leases", "100000"}
		},
	},
	{
		names: []string{"dns-udp", "dns-tcp", "dns-inline", "dns-cached"},
		args: func(name string, quick bool) []string {
			args := []string{"./dns", "-json", "-run", "^" + name + "$"}
			if quick {
				args = append(args, "-rounds", "3", "-time", "1s")
			}
			return args
		},
	},
	{
		names: []string{"ipc-attach", "ipc-status", "ipc-throughput"},
		args: func(name string, quick bool) []string {
			args := []string{"./ipc", "-json", "-run", "^" + name + "$"}
			if quick {
				args = append(args, "-rounds", "3", "-time", "1s", "-cycles", "30")
			}
			return args
		},
	},
}

// An outsideRun is one scenario of an outside.
type outsideRun struct {
	*outside
	name string
}

// rows measures one scenario. What cannot be measured is a row that says why.
func (o *outside) rows(ctx context.Context, name string, quick bool) []report.Row {
	dir, err := peersFolder(ctx)
	if err != nil {
		return []report.Row{{Scenario: name, Skipped: err.Error()}}
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"run"}, o.args(name, quick)...)...)
	cmd.Dir = dir
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err == nil {
		var rows []report.Row
		if rows, err = report.ParseRows(out); err == nil {
			return rows
		}
	}
	return []report.Row{{Scenario: name, Failed: strings.TrimSpace(fmt.Sprintf("%v\n%s", err, report.LastLines(complaints.String(), 20)))}}
}

var errNoPeers = errors.New("it is measured by a command of bench/peers, and this is not run in its repository")

// peersFolder finds the module of the peers, which is there when the bench runs
// from its repository and has a go command to run it by.
func peersFolder(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-json", "github.com/overlayd/overlayd").Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(out, &module) != nil || module.Dir == "" {
		return "", errNoPeers
	}
	dir := filepath.Join(module.Dir, "bench", "peers")
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return "", errNoPeers
	}
	return dir, nil
}
