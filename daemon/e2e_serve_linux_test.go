package daemon_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/overlayd/overlayd/daemon"
	"golang.org/x/sys/unix"
)

// The tests named e2e_… run overlayd as it is run for real: a process of its own,
// in the network namespace that stands for its host, driven over its socket, and
// killed at will. That process is this test binary again. Everything they make is
// in namespaces of theirs, which end with them.
//
// Without flags they are a suite of well under a minute. What takes longer is
// asked for:
//
//	go test ./daemon -run E2E -v -args -transfer 1024 -rounds 100 -containers 500 -every

// serveEnv holds the order of a process that is to be a daemon.
const serveEnv = "OVERLAYD_TEST_SERVE"

// An order is what a daemon's process is told.
type order struct {
	DataDir  string
	Endpoint string
	Mode     daemon.Mode
	Control  string // the socket at which a test steers it
	Arm      string // die at this point

	Boot     string // a file in place of the host's boot id
	Hide     string // a folder that is to be empty
	ReadOnly string // a folder that is not to be written to
	Tiny     string // a folder of a file system of its own
	TinySize string // and how large that is
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(serveEnv); ok {
		os.Unsetenv(serveEnv)
		os.Exit(serve(text))
	}
	os.Exit(m.Run())
}

// ready is the file that a daemon's process says on how its start went.
const ready = 3

// serve is what the process of a daemon does.
func serve(text string) int {
	tell := os.NewFile(ready, "ready")
	fail := func(err error) int {
		fmt.Fprintln(tell, err)
		return 1
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fail(err)
	}
	if err := o.arrange(); err != nil {
		return fail(err)
	}
	c := &control{armed: o.Arm, points: make(map[string]int)}
	if err := c.listen(o.Control); err != nil {
		return fail(err)
	}
	daemon.SetFailpoint(c.reach)

	// Before New, so that a signal that comes early is not missed.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := daemon.New(daemon.Config{
		DataDir:  o.DataDir,
		Endpoint: o.Endpoint,
		Mode:     o.Mode,
		Version:  "test",
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return fail(err)
	}
	fmt.Fprintln(tell, "ready")
	tell.Close()
	if err := d.Serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		return 1
	}
	return 0
}

// arrange changes what the process sees of the file system, which is its own
// (mount_namespaces(7)) if anything is to be changed.
func (o *order) arrange() error {
	if o.Boot+o.Hide+o.ReadOnly+o.Tiny == "" {
		return nil
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if o.Boot != "" && err == nil {
		err = unix.Mount(o.Boot, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
	}
	if o.Hide != "" && err == nil {
		err = unix.Mount("none", o.Hide, "tmpfs", 0, "")
	}
	if o.Tiny != "" && err == nil {
		err = unix.Mount("none", o.Tiny, "tmpfs", 0, "mode=0700,size="+cmp.Or(o.TinySize, "16k"))
	}
	if o.ReadOnly != "" && err == nil {
		if err = unix.Mount(o.ReadOnly, o.ReadOnly, "", unix.MS_BIND, ""); err == nil {
			err = unix.Mount("", o.ReadOnly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	return err
}

// control is a test's hand in the process of a daemon.
type control struct {
	mu     sync.Mutex
	armed  string
	points map[string]int // that were reached, and how often
}

// reach is the daemon's failpoint. At the armed one the process is killed.
func (c *control) reach(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.points[point]++
	if point == c.armed {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (c *control) listen(path string) error {
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// One at a time, and no goroutine more: a test counts them.
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				fmt.Fprintf(conn, "%q\n", c.answer(lines.Text()))
			}
			conn.Close()
		}
	}()
	return nil
}

func (c *control) answer(line string) string {
	word, rest, _ := strings.Cut(line, " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	switch word {
	case "arm": // POINT
		c.armed = rest
	case "forget":
		clear(c.points)
	case "points":
		return strings.Join(slices.Sorted(maps.Keys(c.points)), " ")
	case "goroutines":
		buf := make([]byte, 16<<20)
		return string(buf[:runtime.Stack(buf, true)])
	case "memory":
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return fmt.Sprint(m.HeapAlloc)
	}
	return ""
}
