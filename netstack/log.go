package netstack

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	gvisor "gvisor.dev/gvisor/pkg/log"
)

// divertLog has gVisor's own messages go to package slog, at debug level, instead
// of to standard error, where peers could have it write by what they send. A
// target that the program has set stays.
var divertLog = sync.OnceFunc(func() {
	if _, untouched := gvisor.Log().Emitter.(gvisor.GoogleEmitter); untouched {
		gvisor.SetTarget(slogEmitter{})
	}
})

type slogEmitter struct{}

// Emit implements log.Emitter of gVisor.
func (slogEmitter) Emit(_ int, _ gvisor.Level, _ time.Time, format string, args ...any) {
	if slog.Default().Enabled(context.Background(), slog.LevelDebug) {
		slog.Debug("netstack: " + fmt.Sprintf(format, args...))
	}
}
