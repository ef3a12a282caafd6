package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// Every scenario is measured, too short to mean anything.
func TestEveryScenarioRuns(t *testing.T) {
	const d = 40 * time.Millisecond
	for i := range scenarios {
		s := &scenarios[i]
		t.Run(s.name, func(t *testing.T) {
			if s.name == "netstack-idle" {
				t.Skip("takes seconds; see TestCallersHaveSessions")
			}
			if s.check != nil {
				if err := s.check(); err != nil {
					t.Skip(err)
				}
			}
			sides := []side{ours, theirs}
			if s.peer == "" {
				sides = sides[:1]
			}
			for _, who := range sides {
				// A busy machine may do nothing at all for a while.
				for long := d; ; long *= 2 {
					var m meter
					values, err := s.run(t.Context(), who, &m, long)
					require.NoError(t, err)
					require.Len(t, values, len(s.metrics))
					wrong := missing(s, values)
					if wrong == "" && s.perUnit != 0 && m.sample(values).AllocsPerMB == nil {
						wrong = "it moves no bytes"
					}
					if wrong == "" {
						break
					}
					require.Less(t, long, 10*time.Second, wrong)
				}
			}
		})
	}
}

// missing says what is wrong with the first value that cannot be.
func missing(s *scenario, values []float64) string {
	for i, v := range values {
		switch m := s.metrics[i]; {
		case m.unit == "allocations/packet":
			if v >= 0.01 {
				return fmt.Sprintf("%s: %v %s", m.name, v, m.unit)
			}
		case v <= 0:
			return fmt.Sprintf("%s: nothing in that time", m.name)
		}
	}
	return ""
}

func TestCallersHaveSessions(t *testing.T) {
	for name, open := range map[string]func([]overlay.PublicKey) (*idleNode, error){
		"ours": newIdleOverlay, "wireguard-go": newIdleWireGuardGo,
	} {
		t.Run(name, func(t *testing.T) {
			callers, err := newCallers(20)
			require.NoError(t, err)
			defer callers.close()
			node, err := open(callers.keys)
			require.NoError(t, err)
			defer node.close()
			require.NoError(t, callers.call(t.Context(), node.public, node.port))

			stranger, err := newCallers(1)
			require.NoError(t, err)
			defer stranger.close()
			stranger.conn.SetReadDeadline(time.Now())
			ctx := t.Context()
			done := make(chan error, 1)
			go func() { done <- stranger.call(ctx, node.public, node.port) }()
			stranger.close() // nobody answers a stranger, and waiting for that takes long
			require.Error(t, <-done)
		})
	}
}

func TestAsManyKeepalivesAreDueAsOnAverage(t *testing.T) {
	due := 0
	for i := range idlePeers {
		if keepaliveOf(i) <= idleTime {
			due++
		}
	}
	require.Equal(t, int(idlePeers*idleTime/idleKeepalive), due)
}
