package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overlayd/overlayd/internal/testchild"
)

func init() {
	helpers["open"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		_, err = s.NodeKey()
		return errors.Join(err, s.Close())
	}
	helpers["small disk"] = smallDisk
}

func TestAFolderOthersCanWriteToIsRefused(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{
		0o700: "", 0o755: "", 0o750: "", 0o770: "", // the group is this process's own
		0o777: "mode 0777", 0o702: "mode 0702", 0o777 | fs.ModeSticky: "mode 0777",
	} {
		t.Run(mode.String(), func(t *testing.T) {
			dir := newDir(t)
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.Chmod(dir, mode))
			s, err := Open(dir)
			if want == "" {
				require.NoError(t, err)
				require.NoError(t, s.Close())
				return
			}
			require.ErrorIs(t, err, fs.ErrPermission)
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "chmod it to 0700")
			files, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, files, "nothing was put into it")
		})
	}
}

func TestAKeyOthersCanReadIsRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o666} {
		t.Run(mode.String(), func(t *testing.T) {
			dir := newDir(t)
			s := open(t, dir)
			_, err := s.NodeKey()
			require.NoError(t, err)
			require.NoError(t, s.Close())
			path := filepath.Join(dir, fileKey)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Chmod(path, mode))
			s = open(t, dir)
			_, err = s.NodeKey()
			require.ErrorContains(t, err, fmt.Sprintf("others can read or change it (mode %#o): chmod it to 0600", mode))
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after)
			require.NoError(t, os.Chmod(path, 0o600))
			_, err = s.NodeKey()
			require.NoError(t, err)
		})
	}
}

func TestAStateFileOthersCanReadIsRefused(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	require.NoError(t, s.Update(func(tx *Tx) error { tx.PutService(Service{Name: "web"}); return nil }))
	require.NoError(t, s.Close())
	path := filepath.Join(dir, fileState)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o602} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := Open(dir)
		require.ErrorContains(t, err, fmt.Sprintf("state.db: others can read or change it (mode %#o): chmod it to 0600", mode))
	}
	require.NoError(t, os.Chmod(path, 0o600))
	st, err := open(t, dir).Load()
	require.NoError(t, err)
	require.Len(t, st.Services, 1)
}

// asNobody runs a helper as another user, with a copy of this binary it can reach.
func asNobody(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	cmd := testchild.Command(t, name, args...)
	dir, err := os.MkdirTemp("/tmp", "state-test-") // t.TempDir is in a folder of mode 0700
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile(cmd.Path)
	require.NoError(t, err)
	cmd.Path = filepath.Join(dir, "test")
	require.NoError(t, os.WriteFile(cmd.Path, binary, 0o755))
	cmd.Dir = "/"
	cmd.Stderr = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAFolderOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	t.Run("root and a user's folder", func(t *testing.T) {
		dir := newDir(t)
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chown(dir, 65534, 65534))
		_, err := Open(dir)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "it belongs to user 65534, and this is user 0: run as that user, chown it, or use another folder")
	})
	t.Run("root and a user's key", func(t *testing.T) {
		s := open(t, newDir(t))
		path := filepath.Join(s.dir, fileKey)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Chown(path, 65534, 65534))
		_, err := s.NodeKey()
		require.ErrorContains(t, err, "node.key: it belongs to user 65534")
	})
	t.Run("a user and root's folder", func(t *testing.T) {
		dir, err := os.MkdirTemp("/tmp", "state-test-")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		out, err := asNobody(t, "open", dir)
		require.Error(t, err)
		require.Contains(t, out, "it belongs to user 0, and this is user 65534")
		out, err = asNobody(t, "open", filepath.Join(dir, "data"))
		require.Error(t, err)
		require.Contains(t, out, "permission denied: run as the user it belongs to")
	})
	t.Run("a user's own", func(t *testing.T) {
		dir, err := os.MkdirTemp("/tmp", "state-test-")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		require.NoError(t, os.Chown(dir, 65534, 65534))
		out, err := asNobody(t, "open", filepath.Join(dir, "data"))
		require.NoError(t, err, out)
	})
}

const skipped = "SKIP: "

// smallDisk fills a file system of its own, and then makes it read-only.
func smallDisk(args []string) error {
	dir := args[0]
	skip := func(err error) error { return fmt.Errorf("%s%w", skipped, err) }
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return skip(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		return skip(err)
	}
	ballast := filepath.Join(dir, "ballast")
	fill := func() error {
		err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600)
		if !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("the disk does not fill: %v", err)
		}
		return nil
	}
	expect := func(what string, err error, no syscall.Errno, words string) error {
		if !errors.Is(err, no) || !strings.Contains(fmt.Sprint(err), words) {
			return fmt.Errorf("%s: got %v, want %v … %s", what, err, no, words)
		}
		return nil
	}
	const room = "make room on its disk"

	if err := fill(); err != nil {
		return err
	}
	_, err := Open(filepath.Join(dir, "data"))
	if err := expect("making a folder", err, unix.ENOSPC, room); err != nil {
		return err
	}
	if files, err := filepath.Glob(filepath.Join(dir, "data", "state*")); err != nil || len(files) > 0 {
		return fmt.Errorf("left behind: %v %v", files, err)
	}
	if err := os.Truncate(ballast, 100<<10); err != nil {
		return err
	}
	s, err := Open(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	n := 0
	for err = nil; err == nil && n < 1000; n++ {
		err = s.Update(func(tx *Tx) error {
			tx.PutService(Service{Name: fmt.Sprint(n), Bridge: strings.Repeat("x", 5000)})
			return nil
		})
	}
	n-- // the one that failed
	if err := expect("writing", err, unix.ENOSPC, room); err != nil {
		return err
	}
	if !strings.Contains(err.Error(), "nothing was changed") {
		return err
	}
	_, err = s.NodeKey()
	if err == nil { // there may be a page left
		if err := os.Remove(filepath.Join(dir, "data", fileKey)); err != nil {
			return err
		}
		s.key = [32]byte{}
		if err := fill(); err != nil {
			return err
		}
		_, err = s.NodeKey()
	}
	if err := expect("making a key", err, unix.ENOSPC, room); err != nil {
		return err
	}
	if files, err := filepath.Glob(filepath.Join(dir, "data", "node*")); err != nil || len(files) > 0 {
		return fmt.Errorf("left behind: %v %v", files, err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	check := func(want int) error {
		st, err := s.Load()
		if err != nil || len(st.Services) != want {
			return fmt.Errorf("%d services, not %d: %v", len(st.Services), want, err)
		}
		return nil
	}
	if s, err = Open(filepath.Join(dir, "data")); err != nil {
		return fmt.Errorf("opening on a full disk: %w", err)
	}
	if err := check(n); err != nil {
		return err
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if err := s.Update(func(tx *Tx) error { tx.PutService(Service{Name: "room again"}); return nil }); err != nil {
		return err
	}
	if err := errors.Join(check(n+1), s.Close()); err != nil {
		return err
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return skip(err)
	}
	_, err = Open(filepath.Join(dir, "data"))
	if err := expect("opening on a read-only disk", err, unix.EROFS, "mount it writable"); err != nil {
		return err
	}
	_, err = Open(filepath.Join(dir, "more"))
	return expect("making a folder on a read-only disk", err, unix.EROFS, "mount it writable")
}

func TestAFullOrReadOnlyDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	cmd := testchild.Command(t, "small disk", t.TempDir())
	cmd.Stderr = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	var start *os.PathError
	if errors.As(err, &start) {
		t.Skip(err)
	}
	if reason, ok := strings.CutPrefix(string(out), skipped); ok {
		t.Skip(strings.TrimSpace(reason))
	}
	var exit *exec.ExitError
	require.False(t, errors.As(err, &exit), "%s", out)
	require.NoError(t, err)
}
