package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain is the bench's own main where a test has started a child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		os.Exit(childMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// quickly has every scenario measured as shortly as possible.
func quickly(t *testing.T, p plan) {
	was := quickPlan
	quickPlan = p
	t.Cleanup(func() { quickPlan = was })
}

func TestACommandMeasuresEndToEnd(t *testing.T) {
	quickly(t, plan{pairs: 1, time: 300 * time.Millisecond})
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	var stdout, stderr bytes.Buffer
	status := command(t.Context(), []string{
		"-quick", "-run", "^(netstack-rtt|pipeline)$",
		"-json", file("r.json"), "-report", file("r.html"), "-markdown", file("r.md"),
	}, &stdout, &stderr)
	require.Zero(t, status, stderr.String())

	var rows []struct {
		Scenario string
		Peer     string
		Ours     struct{ Median float64 }
		Ratio    *struct{ Median float64 }
		Skipped  string
	}
	text, err := os.ReadFile(file("r.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &rows))
	require.Len(t, rows, 2)
	require.Equal(t, "netstack-rtt", rows[0].Scenario)
	require.Equal(t, "wireguard-go", rows[0].Peer)
	require.Positive(t, rows[0].Ours.Median)
	require.Positive(t, rows[0].Ratio.Median)
	require.Equal(t, "pipeline", rows[1].Scenario)
	require.Positive(t, rows[1].Ours.Median)

	for name, want := range map[string]string{"r.html": "</html>", "r.md": "| `netstack-rtt` |"} {
		text, err := os.ReadFile(file(name))
		require.NoError(t, err)
		require.Contains(t, string(text), want)
	}
	require.Contains(t, stdout.String(), "netstack-rtt against wireguard-go, 1 pair:")
	require.Contains(t, stderr.String(), "[2/3] netstack-rtt, pair 1 of 1: wireguard-go")
}

func TestAWrongCommandLineIsRefusedBeforeAnythingRuns(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no such flag":             {[]string{"-fast"}, "-fast"},
		"an argument":              {[]string{"netstack-rtt"}, "netstack-rtt"},
		"a bad expression":         {[]string{"-run", "("}, "-run"},
		"no such scenario":         {[]string{"-run", "nothing"}, "nothing"},
		"no folder for a file":     {[]string{"-json", "/nonexistent/file"}, "/nonexistent"},
		"charts of TCP's table":    {[]string{"-tcp", "-report", "x.html"}, "-report"},
		"scenarios of TCP's table": {[]string{"-tcp", "-run", "engine"}, "-run"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 2, command(t.Context(), test.args, &stdout, &stderr))
			require.Contains(t, stderr.String(), test.want)
			require.Empty(t, stdout.String())
		})
	}
	var stdout, stderr bytes.Buffer
	require.Zero(t, command(t.Context(), []string{"-h"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "-quick")
}

func TestACommandThatIsInterruptedWritesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "r.json")
	var stdout, stderr bytes.Buffer
	require.Equal(t, 1, command(ctx, []string{"-quick", "-run", "pipeline", "-json", file}, &stdout, &stderr))
	require.NoFileExists(t, file)
}

func TestScenariosAreComplete(t *testing.T) {
	names := make(map[string]bool)
	for _, s := range scenarios {
		require.False(t, names[s.name], s.name)
		names[s.name] = true
		require.NotEmpty(t, s.what, s.name)
		require.NotEmpty(t, s.metrics, s.name)
		require.NotNil(t, s.run, s.name)
		for _, m := range s.metrics {
			require.Contains(t, []string{"higher", "lower"}, m.better, s.name)
			require.NotEmpty(t, m.unit, s.name)
		}
	}
	for name := range strings.FieldsSeq(`netstack-tcp1 netstack-tcp4 netstack-rtt netstack-connect netstack-udp netstack-idle
		tun-tcp1 tun-tcp4 tun-udp64 engine stack-raw aead pipeline`) {
		require.True(t, names[name], name)
	}
	outside := make(map[string]bool)
	for _, o := range outsides {
		for _, name := range o.names {
			require.False(t, names[name] || outside[name], name)
			outside[name] = true
			require.Contains(t, o.args(name, true), "-json", name)
		}
	}
	for name := range strings.FieldsSeq(`ipam-alloc dns-udp dns-tcp dns-inline dns-cached ipc-attach ipc-status ipc-throughput`) {
		require.True(t, outside[name], name)
	}
}
