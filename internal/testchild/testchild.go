// Package testchild runs a test's binary once more, as a process of its own: for
// what a test cannot have done to itself, such as to be killed, or to be another
// user.
package testchild

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// nameEnv tells the process which of the helpers it is.
const nameEnv = "OVERLAYD_TEST_CHILD"

// Helpers are what such processes can do, by name.
type Helpers map[string]func(args []string) error

// Main is the first thing in a TestMain. In a process that Command started it does
// not return.
func (h Helpers) Main() {
	name := os.Getenv(nameEnv)
	if name == "" {
		return
	}
	err := fmt.Errorf("no helper %q", name)
	if help, ok := h[name]; ok {
		err = help(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command is this test's binary, to be run as one of its helpers.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	// The race detector would wait for a second at the end.
	cmd.Env = append(os.Environ(), nameEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}
