package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/client"
)

// A process is a daemon that a test runs: this program, as a process of its own.
type process struct {
	*exec.Cmd
	dir   string
	lines chan map[string]any // what it logs
}

// servingDaemon starts a rootless daemon.
func servingDaemon(t *testing.T, prepare func(*exec.Cmd), args ...string) *process {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := shortDir(t)
	p := &process{dir: dir, lines: make(chan map[string]any, 1024)}
	args = append([]string{"overlayd", "serve", "--mode", "rootless", "--data-dir", dir, "--log-format", "json"}, args...)
	p.Cmd = &exec.Cmd{Path: self, Args: args, Env: os.Environ()}
	stderr, err := p.StderrPipe()
	require.NoError(t, err)
	if prepare != nil {
		prepare(p.Cmd)
	}
	require.NoError(t, p.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			line := make(map[string]any)
			if err := json.Unmarshal(s.Bytes(), &line); err != nil {
				line["msg"] = s.Text()
			}
			p.lines <- line
		}
	}()
	t.Cleanup(func() {
		p.Process.Kill() //nolint:errcheck // it has ended, if the test passes
		p.Wait()         //nolint:errcheck // for the pipe
		<-read
	})
	return p
}

// said waits for a line whose message has a text in it.
func (p *process) said(t *testing.T, text string) map[string]any {
	t.Helper()
	var before []string
	for deadline := time.After(patience); ; {
		select {
		case line, ok := <-p.lines:
			msg, _ := line["msg"].(string)
			if ok && strings.Contains(msg, text) {
				return line
			}
			before = append(before, fmt.Sprint(line))
			require.True(t, ok, "it ended and never said %q, but %q", text, before)
		case <-deadline:
			t.Fatalf("it did not say %q, but %q", text, before)
		}
	}
}

// ends waits for the end, and returns the exit code.
func (p *process) ends(t *testing.T) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		for range p.lines {
		}
		p.Wait() //nolint:errcheck // its state tells
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	return p.ProcessState.ExitCode()
}

func (p *process) client(t *testing.T) *client.Client {
	c, err := client.Dial(t.Context(), client.Config{Endpoint: client.DataDirEndpoint(p.dir)})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTheDaemonSaysOnOneLineWhatItIs(t *testing.T) {
	t.Parallel()
	p := servingDaemon(t, nil)
	line := p.said(t, "ready")
	require.Equal(t, "rootless", line["mode"])
	require.NotContains(t, line, "why")
	require.Equal(t, client.DataDirEndpoint(p.dir), line["socket"])
	require.Equal(t, version(), line["version"])
	require.EqualValues(t, 1420, line["mtu"])
	require.Contains(t, line["addresses"], "not set up")
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.Zero(t, p.ends(t))
}

func TestSIGHUPIsIgnoredAndSIGTERMIsNot(t *testing.T) {
	t.Parallel()
	p := servingDaemon(t, nil)
	p.said(t, "ready")
	require.NoError(t, p.Process.Signal(syscall.SIGHUP))
	p.said(t, "SIGHUP is ignored")
	_, err := p.client(t).Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	p.said(t, "ending: ")
	require.Zero(t, p.ends(t))
	require.NoFileExists(t, client.DataDirEndpoint(p.dir))
}

func TestADaemonThatIsEndedBeforeItIsUpEndsWell(t *testing.T) {
	t.Parallel()
	for range 5 {
		p := servingDaemon(t, nil)
		require.NoError(t, p.client(t).Shutdown(t.Context()))
		require.Zero(t, p.ends(t))
	}
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	t.Parallel()
	p := servingDaemon(t, func(cmd *exec.Cmd) { cmd.Args = []string{"stubborn"} })
	p.said(t, "ready")
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	p.said(t, "ending: ")
	require.NoError(t, p.Process.Signal(syscall.SIGTERM), "which is the first once more")
	require.NoError(t, p.Process.Signal(os.Interrupt))
	require.Equal(t, "interrupt", p.said(t, "ending at once")["signal"])
	require.Equal(t, exitFailed, p.ends(t))
}

func TestMetricsAreServedOnTheirAddress(t *testing.T) {
	t.Parallel()
	p := servingDaemon(t, nil, "--metrics-listen", "0")
	at, _ := p.said(t, "metrics are served")["url"].(string)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/metrics$`, at)
	resp, err := http.Get(at)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, string(body), "overlayd_")
	other, err := http.Get(strings.TrimSuffix(at, "metrics"))
	require.NoError(t, err)
	other.Body.Close()
	require.Equal(t, http.StatusNotFound, other.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

// A manager is what systemd is to a daemon: the socket it tells things on.
type manager struct{ *net.UnixConn }

func newManager(t *testing.T) (*manager, string) {
	path := filepath.Join(shortDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &manager{conn}, path
}

// told waits until it is told something.
func (m *manager) told(t *testing.T, what string) string {
	t.Helper()
	require.NoError(t, m.SetReadDeadline(time.Now().Add(patience)))
	for buf := make([]byte, 4096); ; {
		n, err := m.Read(buf)
		require.NoError(t, err, "it was not told %s", what)
		if strings.Contains(string(buf[:n]), what) {
			return string(buf[:n])
		}
	}
}

func TestSystemdIsToldOfEveryChange(t *testing.T) {
	t.Parallel()
	m, path := newManager(t)
	p := servingDaemon(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=3000000")
	})
	require.Contains(t, m.told(t, "READY=1"), "\nSTATUS=rootless mode, 0 services, 0 containers")
	for range 3 {
		m.told(t, "WATCHDOG=1")
	}
	require.NoError(t, p.client(t).Shutdown(t.Context()))
	m.told(t, "STOPPING=1")
	require.Zero(t, p.ends(t))
}

func TestTheWatchdogIsNotFedWhenTheDaemonDoesNotAnswer(t *testing.T) {
	m, path := newManager(t)
	t.Setenv("NOTIFY_SOCKET", path)
	sys := &systemd{timeout: 30 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	sys.watchdog(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
		switch calls++; calls {
		case 1, 4:
			return nil
		case 5:
			cancel()
		}
		<-ctx.Done() // for as long as it is waited
		return ctx.Err()
	})
	sys.stopping()
	require.Equal(t, []string{"WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"}, []string{m.told(t, ""), m.told(t, ""), m.told(t, "")})
}

func TestASocketOfSystemdsIsServedAndStays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "systemds")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(true)
	t.Cleanup(func() { l.Close() })
	f, err := l.File()
	require.NoError(t, err)
	for range 2 { // with the socket there all the while, no client is ever refused
		p := servingDaemon(t, func(cmd *exec.Cmd) {
			cmd.ExtraFiles = []*os.File{f}
			// The variable is of the process that is started, which only a shell can say.
			cmd.Env = append(cmd.Env, "PATH="+installed(t))
			cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, cmd.Args...)
			cmd.Path = "/bin/sh"
		})
		c, err := client.Dial(t.Context(), client.Config{Endpoint: path})
		require.NoError(t, err)
		require.Equal(t, path, p.said(t, "ready")["socket"])
		hello, ok := c.Hello()
		require.True(t, ok)
		require.Equal(t, "rootless", hello.Mode)
		require.NoError(t, c.Shutdown(t.Context()))
		require.NoError(t, c.Close())
		require.Zero(t, p.ends(t))
		require.FileExists(t, path)
	}
	require.NoError(t, f.Close())
}

// installed is a folder with the command in it.
func installed(t *testing.T) string {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "overlayd")))
	return dir
}
