package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unit is the text of a unit of systemd.
func unit(t *testing.T, name string) string {
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func TestSystemdAcceptsTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	self, err := os.Executable() // as what a unit starts has to be there
	require.NoError(t, err)
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"overlayd.service", "overlayd.socket"} {
		path := filepath.Join(dir, name)
		text := strings.ReplaceAll(unit(t, name), "/usr/bin/overlayd", self)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		paths = append(paths, path)
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		require.NotContains(t, line, dir, "a unit has a line that systemd ignores")
	}
}

// commandLine is one in a unit: in force, or for the reader to put in force.
var commandLine = regexp.MustCompile(`(?m)^#?(Exec\w+)=/usr/bin/overlayd (.*)$`)

func TestTheUnitsCommandsAreOnesThereAre(t *testing.T) {
	all := commandLine.FindAllStringSubmatch(unit(t, "overlayd.service"), -1)
	require.Len(t, all, 2)
	all = append(all, []string{"", "", "serve --metrics-listen 9586"}) // as a comment says
	for _, m := range all {
		a := &app{out: io.Discard, err: io.Discard}
		cmd, args, err := a.root().Find(strings.Fields(m[2]))
		require.NoError(t, err, m[0])
		require.NoError(t, cmd.ParseFlags(args), m[0])
		require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), m[0])
	}
	require.Contains(t, unit(t, "overlayd.service"), "--metrics-listen 9586")
}

func TestTheUnitsCodesAreThoseOfTheCommand(t *testing.T) {
	require.Contains(t, unit(t, "overlayd.service"), "\nRestartPreventExitStatus=5 6\n")
	require.Equal(t, []int{5, 6}, []int{exitPermission, exitConflict})
}

// Clients look for it in /var/run, which on a system with systemd is /run.
func TestTheSocketIsWhereClientsLookForIt(t *testing.T) {
	require.Contains(t, unit(t, "overlayd.socket"), "\nListenStream=/run/overlayd.sock\n")
}
