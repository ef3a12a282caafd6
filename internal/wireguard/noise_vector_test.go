package wireguard

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata anew, with what wireguard-go says now")

// TestVectors makes and consumes again what was once exchanged with wireguard-go.
func TestVectors(t *testing.T) {
	name := filepath.Join("testdata", "handshakes.json")
	var vectors []*vector
	if *update {
		exchanges(t, func(t *testing.T, v *vector) { vectors = append(vectors, v) })
		b, err := json.MarshalIndent(vectors, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o777))
		require.NoError(t, os.WriteFile(name, append(b, '\n'), 0o666))
		vectors = nil
	}
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &vectors))
	require.Len(t, vectors, 4)
	for _, v := range vectors {
		t.Run(v.Name, v.verify)
	}
}
