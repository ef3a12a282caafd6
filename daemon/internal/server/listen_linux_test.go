package server

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testchild"
)

func init() {
	helpers["call"] = func(args []string) error {
		nc, err := net.Dial("unix", args[0])
		if err != nil {
			return err
		}
		defer nc.Close()
		nc.Write(request(1, wire.NATTick{})) //nolint:errcheck // one that was sent away may be gone
		body, err := wire.ReadFrame(nc, nil)
		if err != nil {
			return err
		}
		fmt.Println(string(body))
		return nil
	}
	helpers["connect for ever"] = func(args []string) error {
		fmt.Println("ready")
		for {
			if nc, err := net.Dial("unix", args[0]); err == nil {
				nc.Close()
				return errors.New("connected")
			}
		}
	}
	helpers["listen"] = func(args []string) error {
		l, err := New(Config{}).Listen(args[0])
		if err != nil {
			return err
		}
		fmt.Println("ready")
		_, err = l.Accept()
		return err
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openDir is a folder that every user can reach.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "srv-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// as makes a helper run as another user, from a copy of this binary it can reach.
func as(t *testing.T, cmd *exec.Cmd, uid, gid uint32, groups ...uint32) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	binary, err := os.ReadFile(cmd.Path)
	require.NoError(t, err)
	cmd.Path, cmd.Dir = filepath.Join(openDir(t), "test"), "/"
	require.NoError(t, os.WriteFile(cmd.Path, binary, 0o755))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	return cmd
}

func mode(t testing.TB, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func listen(t testing.TB, c Config, path string) net.Listener {
	t.Helper()
	c.Logger = quiet()
	l, err := New(c).Listen(path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTheSocketIsPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "s")
	listen(t, Config{Group: "no such group there is"}, path)
	require.EqualValues(t, 0o600, mode(t, path))
	require.EqualValues(t, 0o700, mode(t, filepath.Dir(path)))
	require.EqualValues(t, 0o700, mode(t, filepath.Join(dir, "a")))
}

func TestTheSocketIsTheGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to groups")
	}
	path := filepath.Join(t.TempDir(), "a", "s")
	listen(t, Config{Group: "nogroup"}, path)
	require.EqualValues(t, 0o660, mode(t, path))
	require.EqualValues(t, 0o755, mode(t, filepath.Dir(path)))
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	require.EqualValues(t, 65534, st.Gid)
	require.EqualValues(t, 0, st.Uid)
}

// The file has its mode from bind on, whatever the umask, and not from a chmod later.
func TestTheSocketIsBoundPrivate(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	path := filepath.Join(t.TempDir(), "s")
	l, err := bindPrivate(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, mode(t, path))
	require.NoError(t, l.Close())
}

// TestWhatIsPutInTheSocketsPlaceKeepsItsMode is of somebody who may write in the
// folder, and does so right after the socket was bound.
func TestWhatIsPutInTheSocketsPlaceKeepsItsMode(t *testing.T) {
	me := uint32(os.Getgid())
	for name, put := range map[string]func(other, path string) error{
		"a link to it":     os.Symlink,
		"a second name":    os.Link,
		"the other itself": os.Rename,
	} {
		for _, kind := range []string{"a file", "a socket"} {
			for _, grouped := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, for a group: %v", kind, name, grouped), func(t *testing.T) {
					path, other := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "other")
					ul, err := bindPrivate(path)
					require.NoError(t, err)
					defer ul.Close()
					made, err := os.Lstat(path)
					require.NoError(t, err)
					if kind == "a file" {
						require.NoError(t, os.WriteFile(other, nil, 0o640))
					} else {
						another, err := bindPrivate(other)
						require.NoError(t, err)
						defer another.Close()
					}
					require.NoError(t, os.Chmod(other, 0o640))
					require.NoError(t, os.Remove(path))
					require.NoError(t, put(other, path))
					err = New(Config{Logger: quiet()}).share(path, made, me, grouped)
					require.ErrorContains(t, err, "give a path in a folder that nobody else may write to")
					now, err := os.Stat(path) // of what is behind a link
					require.NoError(t, err)
					require.EqualValues(t, 0o640, now.Mode().Perm())
				})
			}
		}
	}
}

// TestTheSocketIsPrivateFromItsFirstMoment has another user try to connect while a
// socket is made again and again, with a umask that takes nothing.
func TestTheSocketIsPrivateFromItsFirstMoment(t *testing.T) {
	path := filepath.Join(openDir(t), "s")
	cmd := as(t, testchild.Command(t, "connect for ever", path), 65534, 65534)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 8))
	require.NoError(t, err)
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	for range 600 {
		l, err := New(Config{Logger: quiet()}).Listen(path)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Empty(t, stderr.String())
}

func TestASocketThatAnswersIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cmd := testchild.Command(t, "listen", path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 8))
	require.NoError(t, err)
	before, err := os.Lstat(path)
	require.NoError(t, err)

	_, err = New(Config{Logger: quiet()}).Listen(path)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorIs(t, err, wire.Conflict)
	require.ErrorContains(t, err, fmt.Sprintf(" (process %d, user %d) answers there already: stop it", cmd.Process.Pid, os.Getuid()))
	after, err := os.Lstat(path)
	require.NoError(t, err)
	require.True(t, sameFile(before, after), "it is as it was")
	cmd.Wait() //nolint:errcheck // the attempt was what it waited for

	// It never removed its file, so now it is stale.
	require.FileExists(t, path)
	listen(t, Config{}, path)
	_, err = net.Dial("unix", path)
	require.NoError(t, err)
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, files, 1, "nothing is left behind")
}

func TestAFullBacklogIsNoStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	nc, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer nc.Close()
	_, err = New(Config{Logger: quiet()}).Listen(path)
	require.ErrorContains(t, err, "cannot be told")
	require.FileExists(t, path)
}

func TestWhatIsNoSocketIsNeverRemoved(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"a file":   func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte("x"), 0o600)) },
		"a folder": func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"a link":   func(t *testing.T, path string) { require.NoError(t, os.Symlink("/dev/null", path)) },
		"a pipe":   func(t *testing.T, path string) { require.NoError(t, unix.Mkfifo(path, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			put(t, path)
			before, err := os.Lstat(path)
			require.NoError(t, err)
			_, err = New(Config{Logger: quiet()}).Listen(path)
			require.ErrorContains(t, err, "which is no socket: move it away")
			after, err := os.Lstat(path)
			require.NoError(t, err)
			require.True(t, sameFile(before, after))
		})
	}
}

func TestTheFileIsRemovedInTheEndUnlessItIsAnothers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, Config{}, path)
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)
	require.NoError(t, l.Close())

	first := listen(t, Config{}, path)
	require.NoError(t, os.Remove(path)) // somebody tidies up
	second := listen(t, Config{}, path)
	require.NoError(t, first.Close())
	require.FileExists(t, path)
	require.NoError(t, second.Close())
	require.NoFileExists(t, path)

	third := listen(t, Config{}, path)
	require.NoError(t, os.Remove(path))
	require.NoError(t, third.Close())
}

func TestOfManyThatStartOnAStaleSocketOneGetsIt(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint(i))
		stale, err := net.Listen("unix", path)
		require.NoError(t, err)
		stale.(*net.UnixListener).SetUnlinkOnClose(false)
		require.NoError(t, stale.Close())
		var mu sync.Mutex
		var got []net.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := New(Config{Logger: quiet()}).Listen(path)
				if err == nil {
					mu.Lock()
					got = append(got, l)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.Len(t, got, 1)
		nc, err := net.Dial("unix", path)
		require.NoError(t, err)
		nc.Close()
		require.NoError(t, got[0].Close())
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}

// Every user can lock a folder they may read, as /run.
func TestALockOnTheFolderDoesNotKeepTheDaemonFromStarting(t *testing.T) {
	dir := openDir(t)
	other, err := os.Open(dir)
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, syscall.Flock(int(other.Fd()), syscall.LOCK_SH))
	path := filepath.Join(dir, "s")
	listen(t, Config{}, path)
	nc, err := net.Dial("unix", path)
	require.NoError(t, err)
	require.NoError(t, nc.Close())
}

func TestEndpointsThatCannotBeAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, test := range map[string]struct{ path, want string }{
		"nothing":            {"", "is empty: give one"},
		"a long path":        {"/" + strings.Repeat("x", 103), "has 104 bytes, and a system takes at most 103: use a shorter one"},
		"a zero byte":        {"/tmp/a\x00b", "zero byte"},
		"an abstract name":   {"@overlayd", "neither owner nor mode"},
		"a pipe's name":      {`\\.\pipe\overlayd`, "named pipes are Windows's"},
		"a folder in a file": {filepath.Join(file, "d", "s"), "its folder cannot be made"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Config{Logger: quiet()}).Listen(test.path)
			require.ErrorContains(t, err, test.want)
		})
	}
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("x", 103-len(dir)-1))
	require.NoError(t, client.CheckEndpoint(path))
	listen(t, Config{}, path)
}

func TestAUserWhoMayNotMakeASocketIsToldSo(t *testing.T) {
	cmd := as(t, testchild.Command(t, "listen", filepath.Join(openDir(t), "s")), 65534, 65534)
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "this user may not make it: give a path in a folder of its own")
}

func TestWhoMayConnect(t *testing.T) {
	for name, test := range map[string]struct {
		group    string
		uid, gid uint32
		groups   []uint32
		want     string // "": they may
	}{
		"root":                          {"", 0, 0, nil, ""},
		"root, with other groups":       {"nogroup", 0, 12345, []uint32{5}, ""},
		"another user":                  {"", 12345, 12345, nil, "user 12345 (process %d) may not use this socket: only root may"},
		"one who is not in the group":   {"nogroup", 12345, 12345, []uint32{1, 2, 3}, "only root may, and members of group nogroup"},
		"one whose group it is":         {"nogroup", 12345, 65534, nil, ""},
		"one who is also in the group":  {"nogroup", 12345, 12345, []uint32{1, 65534, 70000}, ""},
		"one who is in very many":       {"nogroup", 12345, 12345, append(numbers(1000), 65534), ""},
		"anybody, without such a group": {"no such group there is", 12345, 65534, nil, "members of group no such group there is if there were one"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := as(t, testchild.Command(t, "call", ""), test.uid, test.gid, test.groups...)
			b := startAt(t, filepath.Join(openDir(t), "s"), Config{Group: test.group})
			// The file's mode would keep them out before they are looked at.
			require.NoError(t, os.Chmod(b.path, 0o666))
			cmd.Args[1] = b.path
			cmd.Stderr = nil
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			if test.want == "" {
				require.Equal(t, `{"frame":"response","id":1,"response":{"result":"ok"}}`+"\n", string(out))
				require.Zero(t, b.Stats().Refused)
				return
			}
			if strings.Contains(test.want, "%d") {
				test.want = fmt.Sprintf(test.want, cmd.Process.Pid)
			}
			require.Contains(t, string(out), `"id":0,"response":{"result":"err","message":"`)
			require.Contains(t, string(out), test.want)
			require.Contains(t, string(out), `"code":"permission"}}`)
			require.EqualValues(t, 1, b.Stats().Refused)
			require.Zero(t, b.Stats().Requests["nat_tick"])
			require.Contains(t, b.log.String(), fmt.Sprintf("uid=%d pid=%d", test.uid, cmd.Process.Pid))
		})
	}
}

func numbers(n int) (list []uint32) {
	for i := range n {
		list = append(list, uint32(100_000+i))
	}
	return list
}

func TestCredentialsAreThoseOfTheOtherEnd(t *testing.T) {
	dir := openDir(t)
	cmd := as(t, testchild.Command(t, "listen", filepath.Join(dir, "own", "s")), 65534, 65534)
	require.NoError(t, os.Chown(dir, 65534, 65534))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 8))
	require.NoError(t, err)
	nc, err := net.Dial("unix", filepath.Join(dir, "own", "s"))
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, cmd.Wait())

	p, err := users{}.check(nc)
	require.Error(t, err, "to root it is another user")
	require.EqualValues(t, 65534, p.uid)
	require.Equal(t, cmd.Process.Pid, p.pid)
}

func TestAListenerThatTellsNothingOfItsClientsServesNobody(t *testing.T) {
	b := start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- b.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	_, e := (&raw{nc, t}).refused()
	require.Equal(t, wire.Permission, e.Code)
	require.NoError(t, b.Close())
	require.NoError(t, <-served)
}

// systemd hands a daemon a descriptor of a socket it has made itself, and removes it
// itself.
func TestASocketTheDaemonWasStartedWithIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	made, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	made.SetUnlinkOnClose(false)
	file, err := made.File()
	require.NoError(t, err)
	l, err := net.FileListener(file)
	require.NoError(t, err)
	require.NoError(t, errors.Join(file.Close(), made.Close()))

	b := start(t, nil)
	served := make(chan error, 1)
	go func() { served <- b.Serve(l) }()
	b.path = path
	require.Equal(t, wire.OK{}, b.raw().call(1, wire.NATTick{}))
	require.NoError(t, b.Close())
	require.NoError(t, <-served)
	require.FileExists(t, path)
}
