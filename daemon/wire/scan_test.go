package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzValidate holds the scanner against encoding/json, which is looser: it takes
// text that is not UTF-8, halves of surrogate pairs, and deeper nests.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{
		``, ` `, `{}`, `[]`, `null`, `true`, `falsy`, `nul`, `""`, `"\u00e9\n\/"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ude00\ud83d"`, `"\ud83dx"`, `"\x"`, `"a`, "\"\n\"", "\"\xff\"",
		`0`, `-`, `-0`, `01`, `1.`, `1.5e+3`, `1e`, `.5`, `+1`, `1 2`, `{"a":1,"b":[{},[],""]}`, `{"a":1,}`, `[1,]`, `{a:1}`, `{"a"}`, `{"a":}`, `[1 2]`, `{"a":1 "b":2}`, "\ufeff{}", "\v1",
		strings.Repeat(`[`, maxDepth) + strings.Repeat(`]`, maxDepth), strings.Repeat(`{"":`, maxDepth+1) + `1` + strings.Repeat(`}`, maxDepth+1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := validate(data)
		if err == nil {
			require.True(t, json.Valid(data), "taken, and is not JSON: %q", data)
			if s := trim(data); s[0] == '"' {
				var want string
				require.NoError(t, json.Unmarshal(data, &want))
				require.Equal(t, want, unquote(s))
			}
			return
		}
		offset := err.(*syntaxError).offset
		require.True(t, 0 <= offset && offset <= len(data))
		if !json.Valid(data) || !utf8.Valid(data) {
			return
		}
		require.True(t, strings.Contains(err.Error(), "surrogate") || strings.Contains(err.Error(), "nested"), "refused, and is JSON: %q: %v", data, err)
	})
}

func TestANestMayBeSoDeepAndNoDeeper(t *testing.T) {
	nest := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	require.NoError(t, validate(nest(maxDepth)))
	require.ErrorContains(t, validate(nest(maxDepth+1)), "nested more than 128 deep")
}
