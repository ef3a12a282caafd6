package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A terminal of a test: what is typed into it, and what has appeared on it.
type screen struct {
	keys  *os.File
	mu    sync.Mutex
	shown strings.Builder
	done  chan struct{}
}

// onTerminal runs the command on a terminal of its own, of a size.
func onTerminal(t *testing.T, rows, cols uint16, env []string, args ...string) (*screen, *exec.Cmd) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)

	s := &screen{keys: master, done: make(chan struct{})}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := &exec.Cmd{
		Path: self, Args: append([]string{"overlayd"}, args...), Env: append(os.Environ(), env...),
		Stdin: slave, Stdout: slave, Stderr: slave,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	go func() {
		defer close(s.done)
		io.Copy(s, master) //nolint:errcheck // EIO is how the end of a terminal shows
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it has ended
		master.Close()
		<-s.done
	})
	return s, cmd
}

// Write takes in what appears.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) wait(t *testing.T, ready func(text string) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return ready(s.text()) }, patience, 10*time.Millisecond)
}

func listening(t *testing.T, how string) string {
	path := filepath.Join(shortDir(t), "s")
	f, err := startFake(path, how)
	require.NoError(t, err)
	t.Cleanup(f.stop)
	return path
}

func TestAWatchedStatusIsRedrawnInPlaceAndEndsWithCtrlC(t *testing.T) {
	t.Parallel()
	s, cmd := onTerminal(t, 12, 40, []string{"TERM=xterm", "NO_COLOR="}, "status", "--watch", "--socket", listening(t, ""))
	const up = "\x1b[11A" // all that fits, so that nothing scrolls
	s.wait(t, func(text string) bool { return strings.Count(text, up) >= 2 })
	_, err := s.keys.WriteString("\x03")
	require.NoError(t, err)
	require.NoError(t, cmd.Wait(), "Ctrl-C is a good end")
	s.wait(t, func(text string) bool { return strings.HasSuffix(text, "\x1b[?25h") })

	text := s.text()
	require.True(t, strings.HasPrefix(text, "\x1b[?25l"), "the cursor is hidden")
	require.Contains(t, text, "\x1b[1moverlayd v1.2.3\x1b[0m, tun, up 2 h 5 min", "there are colours")
	frame := strings.Split(text, up)[1]
	require.Equal(t, 11, strings.Count(frame, "\x1b[K\r\n"))
	require.Contains(t, frame, "AQEBAQEBAQEBAQEBAQEBAQEBAQE\x1b", "wide lines are there")
	require.NotContains(t, frame, "AQEBAQEBAQEBAQEBAQEBAQEBAQEB", "but cut")
}

func TestNoColorIsHeeded(t *testing.T) {
	t.Parallel()
	s, cmd := onTerminal(t, 50, 100, []string{"TERM=xterm", "NO_COLOR=1"}, "status", "--socket", listening(t, ""))
	require.NoError(t, cmd.Wait())
	s.wait(t, func(text string) bool { return strings.Contains(text, "set_local_wg_pubkey") })
	require.NotContains(t, s.text(), "\x1b")
}

func TestJSONIsIndentedOnATerminal(t *testing.T) {
	t.Parallel()
	s, cmd := onTerminal(t, 50, 100, nil, "call", "nat_tick", "--socket", listening(t, ""))
	require.NoError(t, cmd.Wait())
	s.wait(t, func(text string) bool { return text == "{\r\n  \"result\": \"ok\"\r\n}\r\n" })
}
