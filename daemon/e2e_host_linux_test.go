package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon"
	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// A host is a network namespace, a data folder, and a daemon that can be started
// and ended.
type host struct {
	t     testing.TB
	ctx   context.Context    // of the whole test
	ns    *testnet.Namespace // nil: the machine's own
	dir   string
	order order
	setup func(*exec.Cmd) // changes how the daemon's process is started; may be nil

	process *exec.Cmd     // of the daemon; nil: none was started
	ended   chan struct{} // closed when it ended
	steer   *bufio.ReadWriter
	*client.Client

	standing []*container // that a test leaves alone
}

// newHost makes a host without a daemon.
func newHost(t testing.TB) *host {
	t.Helper()
	ns := testnet.NewNamespace(t)
	for _, tool := range []string{"ip", "nft", "ping", "dig"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s", tool)
		}
	}
	h := newUser(t)
	h.ns, h.order.Mode = ns, daemon.ModeTUN
	return h
}

// newUser makes a host that is this machine, for a daemon that needs no privilege
// and touches nothing of it.
func newUser(t testing.TB) *host {
	t.Helper()
	h := &host{t: t}
	var cancel context.CancelFunc
	h.ctx, cancel = context.WithTimeout(t.Context(), *patience)
	t.Cleanup(cancel)
	// Not t.TempDir, whose paths may be too long for a socket.
	dir, err := os.MkdirTemp("", "ovl")
	require.NoError(t, err)
	h.dir = dir
	h.order = order{
		DataDir:  filepath.Join(dir, "data"),
		Endpoint: filepath.Join(dir, "s"),
		Mode:     daemon.ModeRootless,
		Control:  filepath.Join(dir, "c"),
	}
	t.Cleanup(func() {
		if h.Client != nil {
			h.Close()
		}
		h.kill()
		h.checkLog()
		if t.Failed() {
			h.showLog()
		}
		os.RemoveAll(dir)
	})
	return h
}

// startHost makes a host with a daemon.
func startHost(t testing.TB) *host {
	t.Helper()
	h := newHost(t)
	h.start()
	return h
}

// start starts the daemon and returns when it answers.
func (h *host) start() {
	h.t.Helper()
	require.NoError(h.t, h.tryStart())
}

// tryStart is start, but returns what the daemon says when it refuses to.
func (h *host) tryStart() error {
	h.t.Helper()
	h.kill()
	text, err := json.Marshal(h.order)
	require.NoError(h.t, err)
	log, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(h.t, err)
	defer log.Close()
	fmt.Fprintln(log, "--- start")
	told, tell, err := os.Pipe()
	require.NoError(h.t, err)
	defer told.Close()

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if o := h.order; o.Boot+o.Hide+o.ReadOnly+o.Tiny != "" {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	if h.setup != nil {
		h.setup(cmd)
	}
	begin := func() { err = cmd.Start() }
	if h.ns != nil {
		h.ns.Do(begin)
	} else {
		begin()
	}
	tell.Close()
	require.NoError(h.t, err)
	h.process, h.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		cmd.Wait()
		close(ended)
	}(h.ended)

	told.SetReadDeadline(time.Now().Add(time.Minute))
	said, err := io.ReadAll(told)
	require.NoError(h.t, err, "the daemon does not start")
	if string(said) != "ready\n" {
		<-h.ended
		return errors.New(strings.TrimSpace(string(said)))
	}
	return h.dial()
}

// dial gives the host a client of its daemon.
func (h *host) dial() error {
	h.t.Helper()
	if h.Client != nil {
		h.Client.Close()
	}
	var err error
	h.Client, err = client.Dial(h.ctx, client.Config{Endpoint: h.order.Endpoint, Attempts: -1, Name: "test"})
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", h.order.Control)
	if err != nil {
		return err
	}
	h.t.Cleanup(func() { conn.Close() })
	h.steer = bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	return nil
}

// tell steers the daemon's process: see control.
func (h *host) tell(line string) string {
	h.t.Helper()
	fmt.Fprintln(h.steer, line)
	require.NoError(h.t, h.steer.Flush())
	quoted, err := h.steer.ReadString('\n')
	require.NoError(h.t, err)
	answer, err := strconv.Unquote(strings.TrimSpace(quoted))
	require.NoError(h.t, err)
	return answer
}

// points are the points the daemon reached since it was told to forget them.
func (h *host) points() []string { return strings.Fields(h.tell("points")) }

// kill ends the daemon as kill -9 does, if one runs.
func (h *host) kill() {
	if h.process != nil {
		h.process.Process.Kill()
		<-h.ended
		h.process = nil
	}
}

// stop ends the daemon as a service manager does.
func (h *host) stop() {
	h.t.Helper()
	require.NoError(h.t, h.process.Process.Signal(syscall.SIGTERM))
	h.awaitEnd()
	require.Zero(h.t, h.process.ProcessState.ExitCode(), "the daemon's exit code after SIGTERM")
	h.process = nil
}

func (h *host) awaitEnd() {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(20 * time.Second):
		h.showGoroutines()
		require.Fail(h.t, "the daemon does not end")
	}
}

// killed reports whether the daemon died of a kill -9, once it has ended.
func (h *host) killed() bool {
	h.t.Helper()
	h.awaitEnd()
	status, ok := h.process.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// showGoroutines makes the daemon end with a trace of all its goroutines in its log.
func (h *host) showGoroutines() {
	h.process.Process.Signal(syscall.SIGQUIT)
	<-h.ended
}

// noting does something, and tells what it was about if the test fails in it.
func (h *host) noting(what string, do func()) {
	h.t.Helper()
	defer func() {
		if h.t.Failed() {
			h.t.Log("it was about: ", what)
		}
	}()
	do()
}

// checkLog fails the test if a daemon wrote what none may ever write.
func (h *host) checkLog() {
	log, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	for _, never := range []string{"WARNING: DATA RACE", "panic:", "fatal error:"} {
		if i := bytes.Index(log, []byte(never)); i >= 0 {
			h.t.Errorf("a daemon wrote:\n%s", log[i:min(len(log), i+8<<10)])
		}
	}
}

func (h *host) showLog() {
	log, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	if keep := 16 << 10; len(log) > keep {
		log = append([]byte("…"), log[len(log)-keep:]...)
	}
	h.t.Logf("log of the daemon in %s:\n%s", h.dir, log)
}

// run runs a program on the host and returns what it prints.
func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	return string(h.ns.Output(h.t, name, args...))
}

// usage is what the daemon's process uses of the host.
type usage struct {
	files      int // open descriptors
	goroutines []string
	rss        int // bytes
}

func (h *host) usage() usage {
	h.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", h.process.Process.Pid)
	fds, err := os.ReadDir(proc + "fd")
	require.NoError(h.t, err)
	u := usage{files: len(fds)}
	u.goroutines = strings.Split(strings.TrimSpace(h.tell("goroutines")), "\n\n")
	status, err := os.ReadFile(proc + "status")
	require.NoError(h.t, err)
	for line := range strings.Lines(string(status)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			u.rss = kb << 10
		}
	}
	return u
}

// A container is a network namespace that lives as long as the process in it.
type container struct {
	t    testing.TB
	name string
	pid  uint32
	cmd  *exec.Cmd
	at   wire.Attached
}

// newContainer starts a container.
func newContainer(t testing.TB, name string) *container {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	c := &container{t: t, name: name, pid: uint32(cmd.Process.Pid), cmd: cmd}
	t.Cleanup(c.die)
	return c
}

// die ends the container's process, and its namespace with it.
func (c *container) die() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

func (c *container) handle() wire.Handle { return wire.LinuxPID{PID: c.pid} }

// in runs f in the container's network, on the calling goroutine: sockets that f
// opens are the container's.
func (c *container) in(f func()) {
	c.t.Helper()
	// The path is of a process, not of a thread, so it stays good.
	inNetwork(c.t, fmt.Sprintf("/proc/%d/ns/net", c.pid), f)
}

// run runs a program in the container and returns what it prints.
func (c *container) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	c.in(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("in %s: %s %s: %w: %s", c.name, name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}
