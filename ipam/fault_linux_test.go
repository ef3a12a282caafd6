package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overlayd/overlayd/internal/testchild"
)

// The tests here have the kernel refuse what the file store asks of it. What they
// do to a process cannot be taken back, so each has a process of its own.

func init() {
	helpers["sync fails"] = syncFails
	helpers["last sync fails"] = lastSyncFails
	helpers["write fails"] = writeFails
	helpers["file limit"] = fileLimit
	helpers["small disk"] = smallDisk
}

// deny makes a system call fail with an errno from now on, in every thread.
func deny(call uint32, errno unix.Errno) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return skip(err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return skip(e)
	}
	return nil
}

const skipped = "SKIP: "

// skip is the error of a helper that cannot do its part here.
func skip(err error) error { return fmt.Errorf("%s%w", skipped, err) }

// runHelper runs a helper to its end, and skips the test if it cannot do its part.
func runHelper(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	var start *os.PathError // of the namespaces it was to have
	if errors.As(err, &start) {
		t.Skip(err)
	}
	if reason, ok := strings.CutPrefix(string(out), skipped); ok {
		t.Skip(strings.TrimSpace(reason))
	}
	require.NoError(t, err, "%s", out)
}

var faultPool = prefix("10.0.0.0/16")

// openWith opens an authority with three leases.
func openWith(path string) (*Authority, map[string]string, error) {
	a, err := Open(path, Config{Pools: []netip.Prefix{faultPool}})
	if err != nil {
		return nil, nil, err
	}
	for _, id := range []string{"a", "b", "c"} {
		if _, err := a.Allocate(faultPool, container(id)); err != nil {
			return nil, nil, err
		}
	}
	return a, contents(a), nil
}

// expect checks that a transaction failed with an errno, in these words, and that
// nothing came of it.
func expect(a *Authority, before map[string]string, err error, errno syscall.Errno, words string) error {
	// bbolt does not wrap what growing the file failed with.
	if !errors.Is(err, errno) && !strings.Contains(fmt.Sprint(err), errno.Error()) || !strings.Contains(fmt.Sprint(err), words) {
		return fmt.Errorf("got %v, want %v … %s", err, errno, words)
	}
	return errors.Join(sound(a), errorOf(difference(before, contents(a))))
}

// syncFails has the first sync of a commit fail, the one before the meta page: then
// nothing may be in the file.
func syncFails(args []string) error {
	a, before, err := openWith(args[0])
	if err != nil {
		return err
	}
	if err := deny(unix.SYS_FDATASYNC, unix.EIO); err != nil {
		return err
	}
	for range 3 {
		_, err = a.Allocate(faultPool, container("d"))
		if err := expect(a, before, err, syscall.EIO, "nothing was changed"); err != nil {
			return err
		}
	}
	return a.Close()
}

func TestAFailedSyncChangesNothing(t *testing.T) {
	path := newPath(t)
	runHelper(t, testchild.Command(t, "sync fails", path))
	requireLeases(t, path, "a", "b", "c")
}

// lastSyncFails has the last sync of a commit fail, the one after the meta page.
func lastSyncFails(args []string) error {
	a, before, err := openWith(args[0])
	if err != nil {
		return err
	}
	var denied error
	hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
		if isMeta(off) {
			denied = deny(unix.SYS_FDATASYNC, unix.EIO)
		}
		return next(b, off)
	})
	_, err = a.Allocate(faultPool, container("d"))
	if denied != nil {
		return denied
	}
	const words = "whether it is there shows when it is opened again"
	if err := expect(a, before, err, syscall.EIO, words); err != nil {
		return err
	}
	if a.Len() != 3 {
		return fmt.Errorf("%d leases", a.Len())
	}
	// Nobody knows what the file has. So nothing is built upon it.
	_, err = a.Allocate(faultPool, container("e"))
	if err := expect(a, before, err, syscall.EIO, words); err != nil {
		return err
	}
	return a.Close()
}

func TestAfterAFailedLastSyncNothingIsChangedAnyMore(t *testing.T) {
	path := newPath(t)
	runHelper(t, testchild.Command(t, "last sync fails", path))
	// The kernel had the page, so this time it is there.
	requireLeases(t, path, "a", "b", "c", "d")
}

// writeFails has every write fail, as on a disk that is full or was made read-only.
func writeFails(args []string) error {
	errno, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	a, before, err := openWith(args[0])
	if err != nil {
		return err
	}
	if err := deny(unix.SYS_PWRITE64, unix.Errno(errno)); err != nil {
		return err
	}
	for range 3 {
		_, err = a.Allocate(faultPool, container("d"))
		if err := expect(a, before, err, syscall.Errno(errno), "nothing was changed"); err != nil {
			return err
		}
		l, _ := a.Lookup(addr("10.0.0.1"))
		err = a.Release(l)
		if err := expect(a, before, err, syscall.Errno(errno), "nothing was changed"); err != nil {
			return err
		}
	}
	return a.Close()
}

func TestAFullOrReadOnlyDiskChangesNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			path := newPath(t)
			runHelper(t, testchild.Command(t, "write fails", path, strconv.Itoa(int(errno))))
			requireLeases(t, path, "a", "b", "c")
		})
	}
}

// fileLimit may not make the file any longer.
func fileLimit(args []string) error {
	a, before, err := openWith(args[0])
	if err != nil {
		return err
	}
	info, err := os.Stat(args[0])
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	low := unix.Rlimit{Cur: uint64(info.Size()), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &low); err != nil {
		return skip(err)
	}
	many := func(tx *Tx) error {
		for i := range 2000 {
			if _, err := tx.Allocate(faultPool, container(fmt.Sprint("many ", i))); err != nil {
				return err
			}
		}
		return nil
	}
	for range 3 {
		if err := expect(a, before, a.Update(many), syscall.EFBIG, "nothing was changed"); err != nil {
			return err
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := a.Update(many); err != nil {
		return err
	}
	if a.Len() != 2003 {
		return fmt.Errorf("%d leases", a.Len())
	}
	return errors.Join(sound(a), a.Close())
}

func TestAFileThatMayNotGrowChangesNothing(t *testing.T) {
	path := newPath(t)
	runHelper(t, testchild.Command(t, "file limit", path))
	a, err := Open(path, Config{})
	require.NoError(t, err)
	require.Equal(t, 2003, a.Len())
	requireSound(t, a)
	require.NoError(t, a.Close())
}

// smallDisk fills a file system of its own, and then makes it read-only.
func smallDisk(args []string) error {
	dir := args[0]
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return skip(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		return skip(err)
	}
	path, ballast := filepath.Join(dir, "leases.db"), filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err != nil {
		return err
	}
	a, _, err := openWith(path)
	if err != nil {
		return err
	}
	var before map[string]string
	for i := 0; err == nil; i++ {
		if i > 10_000 {
			return errors.New("the disk does not fill")
		}
		before = contents(a)
		err = a.Update(func(tx *Tx) error {
			for j := range 50 {
				if _, err := tx.Allocate(faultPool, container(fmt.Sprint(i, " ", j))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := expect(a, before, err, syscall.ENOSPC, "nothing was changed"); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	if a, err = Open(path, Config{}); err != nil {
		return fmt.Errorf("on a full disk: %w", err)
	}
	if err := errors.Join(sound(a), errorOf(difference(before, contents(a)))); err != nil {
		return err
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := a.Allocate(faultPool, container("there is room again")); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return skip(err)
	}
	if _, err = Open(path, Config{}); !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("on a read-only disk: %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(file) != string(after) {
		return errors.New("a read-only disk was written")
	}
	return nil
}

func TestADiskThatFillsUp(t *testing.T) {
	cmd := testchild.Command(t, "small disk", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runHelper(t, cmd)
}

// requireLeases opens a file in which these owners have leases and no other.
func requireLeases(t *testing.T, path string, want ...string) {
	t.Helper()
	a, err := Open(path, Config{})
	require.NoError(t, err)
	var got []string
	for l := range a.Leases(netip.Prefix{}) {
		got = append(got, l.Owner.ID)
	}
	require.Equal(t, want, got)
	requireSound(t, a)
	require.NoError(t, a.Close())
}
