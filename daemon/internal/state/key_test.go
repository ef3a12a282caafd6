package state

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/overlay"
)

func TestTheNodeKeyIsMadeOnce(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	var keys [8]overlay.PrivateKey
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := s.NodeKey()
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	require.NoError(t, s.Close())
	text, err := os.ReadFile(filepath.Join(dir, fileKey))
	require.NoError(t, err)
	require.Regexp(t, `^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\n$`, string(text), "as wg genkey prints it")

	again, err := open(t, dir).NodeKey()
	require.NoError(t, err)
	require.False(t, again.IsZero())
	for _, k := range keys {
		require.True(t, again.Equal(k))
	}
}

func TestAKeyThatIsThereIsUsed(t *testing.T) {
	want, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	text, err := want.MarshalText()
	require.NoError(t, err)
	for name, end := range map[string]string{"with a line's end": "\n", "without one": "", "with one of Windows": "\r\n"} {
		t.Run(name, func(t *testing.T) {
			s := open(t, newDir(t))
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, fileKey), []byte(string(text)+end), 0o600))
			got, err := s.NodeKey()
			require.NoError(t, err)
			require.True(t, want.Equal(got))
		})
	}
}

func TestADamagedKeyIsRefusedAndNeverReplaced(t *testing.T) {
	good := strings.Repeat("A", 42) + "E=\n"
	for name, test := range map[string]struct{ text, want string }{
		"empty":      {"", "is empty"},
		"cut":        {good[:20], "20 characters"},
		"too long":   {good + good, "characters"},
		"huge":       {strings.Repeat(good, 1000), "characters"},
		"not base64": {"!" + good[1:], "is not base64"},
		"zero":       {strings.Repeat("A", 43) + "=\n", "zero"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, newDir(t))
			path := filepath.Join(s.dir, fileKey)
			require.NoError(t, os.WriteFile(path, []byte(test.text), 0o600))
			for range 2 {
				key, err := s.NodeKey()
				require.True(t, key.IsZero())
				require.ErrorContains(t, err, "node.key: it is damaged")
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, "restore it")
				require.NotContains(t, err.Error(), "AAAA", "an error does not tell the key")
			}
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, test.text, string(after))
		})
	}
	t.Run("a folder", func(t *testing.T) {
		s := open(t, newDir(t))
		require.NoError(t, os.Mkdir(filepath.Join(s.dir, fileKey), 0o700))
		_, err := s.NodeKey()
		require.ErrorContains(t, err, "node.key: it is not a file")
	})
	t.Run("a link to nowhere", func(t *testing.T) {
		s := open(t, newDir(t))
		require.NoError(t, os.Symlink("nowhere", filepath.Join(s.dir, fileKey)))
		_, err := s.NodeKey()
		require.ErrorContains(t, err, "link to where nothing is")
	})
}

func TestWhatAKilledStartLeftOfAKeyIsNoKey(t *testing.T) {
	s := open(t, newDir(t))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, fileKey+".new"), []byte("half"), 0o600))
	_, err := s.NodeKey()
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(s.dir, fileKey+".new"))
}
