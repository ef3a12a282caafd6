package packet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryReasonHasItsOwnName(t *testing.T) {
	seen := map[string]Reason{}
	for r := Reason(0); r < numReasons; r++ {
		require.NotEmpty(t, r.String(), "reason %d", r)
		require.NotContains(t, seen, r.String())
		seen[r.String()] = r
	}
	require.Equal(t, "unknown", numReasons.String())
}
