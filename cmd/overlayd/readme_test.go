package main

import (
	"os"
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

func TestTheReadmeHasTheExitCodesOfTheHelp(t *testing.T) {
	text := readme(t)
	for line := range strings.Lines(exitCodes) {
		if code, meaning, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			require.Contains(t, text, "| "+code+" | "+meaning+" |\n")
		}
	}
}
