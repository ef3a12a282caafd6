package state

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/testchild"
)

func init() {
	helpers["hold"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		fmt.Println("ready")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		return s.Close()
	}
}

func TestAFolderInUseSaysByWhom(t *testing.T) {
	dir := newDir(t)
	cmd := testchild.Command(t, "hold", dir)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 16))
	require.NoError(t, err)

	_, err = Open(dir)
	var held *HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, dir, held.Path)
	require.Equal(t, cmd.Process.Pid, held.PID)
	require.Equal(t, filepath.Base(os.Args[0]), held.Program)
	require.WithinDuration(t, time.Now(), held.Since, time.Minute)
	require.ErrorContains(t, err, fmt.Sprintf("process %d, since ", held.PID))

	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	s := open(t, dir)
	_, err = Open(dir)
	require.ErrorAs(t, err, &held)
	require.Equal(t, os.Getpid(), held.PID, "this very process")
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileLock), []byte("not what it should be"), 0o600))
	_, err = Open(dir)
	require.ErrorAs(t, err, &held)
	require.Zero(t, held.PID)
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, s.Close())
	open(t, dir)
}

func TestWhatAKilledStartLeftOfAFileIsReplaced(t *testing.T) {
	dir := newDir(t)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileState+".new"), []byte("half"), 0o600))
	require.Equal(t, State{}, load(t, open(t, dir)))
	require.NoFileExists(t, filepath.Join(dir, fileState+".new"))
}

func TestAPathThatIsNoFolderIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600))
	for name, dir := range map[string]string{"a file": file, "a folder in a file": filepath.Join(file, "data")} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(dir)
			require.ErrorIs(t, err, syscall.ENOTDIR)
			require.ErrorContains(t, err, "is a file: move that away")
		})
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
}

func TestAFolderInPlaceOfTheFileIsRefused(t *testing.T) {
	dir := newDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, fileState), 0o700))
	_, err := Open(dir)
	require.ErrorContains(t, err, "state.db is not a file: move it away")
	require.DirExists(t, filepath.Join(dir, fileState))
}
