package netstack

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	gvisor "gvisor.dev/gvisor/pkg/log"
)

func TestGVisorsMessagesGoToSlog(t *testing.T) {
	newStack(t, Config{})
	before := slog.Default()
	defer slog.SetDefault(before)
	var out bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	gvisor.Warningf("a %s", "message")
	require.Contains(t, out.String(), "netstack: a message")
	out.Reset()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	gvisor.Warningf("a %s", "message")
	require.Empty(t, out.String(), "below the program's level")
}
