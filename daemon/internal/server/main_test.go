package server

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	helperMain() // does not return in a process a test started
	goleak.VerifyTestMain(m)
}

// helpers are what a process that a test starts can do.
var helpers = map[string]func(args []string) error{}

func helperMain() {
	name := os.Getenv("SERVER_TEST_HELPER")
	if name == "" {
		return
	}
	err := fmt.Errorf("no helper %q", name)
	if help, ok := helpers[name]; ok {
		err = help(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// helper is this test binary, to be run as one of the helpers.
func helper(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "SERVER_TEST_HELPER="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}
