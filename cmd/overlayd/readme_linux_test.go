package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func readme(t *testing.T) string {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	return string(text)
}

func TestTheReadmeHasEveryOperationOnce(t *testing.T) {
	var table []string
	for line := range strings.Lines(readme(t)) {
		if strings.HasPrefix(line, "| `") {
			table = append(table, strings.SplitN(line, "|", 3)[1])
		}
	}
	cells := strings.Join(table, "\n")
	for _, op := range wire.Ops() {
		require.Equal(t, 1, strings.Count(cells, "`"+op+"`"), op)
	}
	require.Equal(t, 2*len(wire.Ops()), strings.Count(cells, "`"), "there are no others")
}

// The commands are run as they are there, but for how they are built and how one
// becomes root, on a host that is a namespace.
func TestTheReadmesCommandsForTheDaemonWork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a daemon that makes interfaces needs root")
	}
	_, section, ok := strings.Cut(readme(t), "\n## The daemon\n")
	require.True(t, ok)
	_, block, ok := strings.Cut(section, "```sh\n")
	require.True(t, ok)
	block, _, _ = strings.Cut(block, "```")
	block, ok = strings.CutPrefix(block, "go build ./cmd/overlayd\n")
	require.True(t, ok)
	script := "set -e\nmount -t tmpfs none /var/lib\nmount -t tmpfs none $(readlink -f /var/run)\n" +
		strings.ReplaceAll(block, "sudo ./overlayd", "overlayd") +
		"overlayd shutdown\noverlayd cleanup\n"
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+installed(t)+":"+os.Getenv("PATH"))
	cmd.WaitDelay = patience
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "interface  ovl-demo-a-g, UDP port 51420, MTU 1420\n")
	require.Contains(t, string(out), "here       1 service, 0 containers attached\n")
}

func TestTheReadmeHasTheExitCodesOfTheHelp(t *testing.T) {
	text := readme(t)
	for line := range strings.Lines(exitCodes) {
		if code, meaning, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			require.Contains(t, text, "| "+code+" | "+meaning+" |\n")
		}
	}
}
