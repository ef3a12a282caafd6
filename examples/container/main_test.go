package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The test binary is the program too, with what it starts, when this is set.
const asProgram = "CONTAINER_EXAMPLE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func program(t *testing.T) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "") // not the test's, as a socket in it has to have a short path
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+dir)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func needsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces and links need root")
	}
	for _, name := range []string{"ip", "nsenter", "unshare", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
}

func TestEachContainerReachesTheOtherByName(t *testing.T) {
	needsRoot(t)
	cmd := program(t)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "this is the container on host a\n")
	require.Contains(t, string(out), "this is the container on host b\n")
	nothingLeft(t, cmd)
}

func TestNothingIsLeftAfterCtrlC(t *testing.T) {
	needsRoot(t)
	cmd := program(t)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	for !strings.HasPrefix(lines.Text(), "-- on each an overlay") {
		require.True(t, lines.Scan(), "%s", &stderr)
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	rest, err := io.ReadAll(stdout)
	require.NoError(t, err)
	exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
	require.True(t, ok, "%s", rest)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, stderr.String(), "container: interrupted: everything is removed\n")
	nothingLeft(t, cmd)
}

// nothingLeft checks that what the program made is gone: its namespaces are gone
// with their processes, which have its pipes open for as long as they run.
func nothingLeft(t *testing.T, cmd *exec.Cmd) {
	for _, v := range cmd.Env {
		if dir, ok := strings.CutPrefix(v, "TMPDIR="); ok {
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		}
	}
}

func TestAnArgumentIsRefused(t *testing.T) {
	cmd := program(t)
	cmd.Args = append(cmd.Args, "extra")
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, 2, exit.ExitCode())
	require.Equal(t, "container: \"extra\" is more than is wanted here\nusage: sudo go run ./examples/container\n", string(out))
}

func TestAnOrdinaryUserIsToldWhatToDo(t *testing.T) {
	cmd := program(t)
	if os.Geteuid() == 0 {
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			t.Skip("setpriv is not installed")
		}
		require.NoError(t, os.Chmod(cmd.Path, 0o755))
		cmd.Args = []string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", cmd.Path}
		cmd.Path = setpriv
	}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "failed to execute") {
		t.Skipf("another user cannot run the test: %s", out)
	}
	require.Error(t, err)
	require.Equal(t, "container: namespaces and links need root, on Linux: sudo go run ./examples/container\n", string(out))
}
