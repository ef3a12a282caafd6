package main

import (
	"testing"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// Every scenario is measured once, too short to mean anything.
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
				var m meter
				values, err := s.run(t.Context(), who, &m, d)
				require.NoError(t, err)
				require.Len(t, values, len(s.metrics))
				for j, v := range values {
					if s.metrics[j].unit == "allocations/packet" {
						require.Less(t, v, 0.01)
					} else {
						require.Positive(t, v, s.metrics[j].name)
					}
				}
				if s.perUnit != 0 {
					require.NotNil(t, m.sample(values).AllocsPerMB, "it moves bytes")
				}
			}
		})
	}
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
