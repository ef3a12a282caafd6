package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain lets the test binary be the second process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-join" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestTwoProcessesTalk(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, first("127.0.0.1", startSecond, &out))
	var asks, answers int
	var from string
	_, err := fmt.Sscanf(out.String(), "process %d asked http://10.200.0.2/ and got: hello %s this is process %d\n", &asks, &from, &answers)
	require.NoError(t, err, out.String())
	require.Equal(t, os.Getpid(), asks)
	require.NotEqual(t, asks, answers, "the answer comes from another process")
	require.Contains(t, from, "10.200.0.1:")
}

func TestAnArgumentIsRefused(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	out, err := exec.Command(self, "-join", "card", "extra").CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, 2, exit.ExitCode())
	require.Contains(t, string(out), "twonodes: \"extra\" is more than is wanted here\nUsage")
}

func TestFirstTellsThatTheSecondFailed(t *testing.T) {
	err := first("127.0.0.1", func(string) (string, func() error, error) { return startSecond("no card") }, io.Discard)
	require.ErrorContains(t, err, "the second process did not say who it is")
}

func TestFirstRefusesWhatIsNoCard(t *testing.T) {
	for card, want := range map[string]string{
		"nonsense":           "not of the form KEY@HOST:PORT",
		"nokey@127.0.0.1:51": "public key",
		overlay.PublicKey{1}.String() + "@127.0.0.1": "127.0.0.1",
	} {
		err := first("127.0.0.1", func(string) (string, func() error, error) {
			return card, func() error { return nil }, nil
		}, io.Discard)
		require.ErrorContains(t, err, want)
	}
}
