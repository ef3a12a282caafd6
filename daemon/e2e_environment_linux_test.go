package daemon_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// refuses wants a daemon not to start, and to say all that somebody needs to know.
func refuses(t *testing.T, h *host, says ...string) {
	t.Helper()
	err := h.tryStart()
	require.Error(t, err)
	t.Log(err)
	for _, what := range says {
		require.Contains(t, err.Error(), what)
	}
	require.NotContains(t, err.Error(), "panic")
}

func TestE2EASecondDaemonIsRefusedAndTheFirstGoesOn(t *testing.T) {
	h := startHost(t)
	pid := h.process.Process.Pid
	second := newHost(t)
	second.ns = h.ns
	for name, change := range map[string]func(o *order){
		"the same data folder": func(o *order) { o.DataDir = h.order.DataDir },
		"the same socket":      func(o *order) { o.Endpoint = h.order.Endpoint },
	} {
		t.Run(name, func(t *testing.T) {
			was := second.order
			defer func() { second.order = was }()
			change(&second.order)
			path := h.order.DataDir
			if second.order.Endpoint == h.order.Endpoint {
				path = h.order.Endpoint
			}
			refuses(t, second, path, strconv.Itoa(pid))
			_, err := h.Status(h.ctx)
			require.NoError(t, err)
			require.NoError(t, h.dial(), "the first one's socket")
		})
	}
}

func TestE2EAStaleSocketIsReplacedAndAnothersIsNot(t *testing.T) {
	h := newHost(t)
	l, err := net.Listen("unix", h.order.Endpoint)
	require.NoError(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	refuses(t, h, h.order.Endpoint)
	require.FileExists(t, h.order.Endpoint)

	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.FileExists(t, h.order.Endpoint)
	h.start()
	h.kill()
	require.FileExists(t, h.order.Endpoint, "a daemon that is killed leaves its socket")
	h.start()
	h.stop()
	require.NoFileExists(t, h.order.Endpoint, "one that ends does not")

	require.NoError(t, os.WriteFile(h.order.Endpoint, []byte("precious"), 0o600))
	refuses(t, h, h.order.Endpoint)
	kept, err := os.ReadFile(h.order.Endpoint)
	require.NoError(t, err)
	require.Equal(t, "precious", string(kept))
}

func TestE2EASocketsPathThatIsTooLongIsRefused(t *testing.T) {
	h := newHost(t)
	h.order.Endpoint = filepath.Join(h.dir, strings.Repeat("x", 104))
	refuses(t, h, "103", h.order.Endpoint)
}

func TestE2ETheSocketIsPrivate(t *testing.T) {
	h := startHost(t)
	info, err := os.Stat(h.order.Endpoint)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o007, "what others may do with it: %v", info.Mode())
	info, err = os.Stat(h.order.DataDir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	err = filepath.WalkDir(h.order.DataDir, func(path string, e os.DirEntry, err error) error {
		require.NoError(t, err)
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
		}
		return nil
	})
	require.NoError(t, err)
}

func TestE2EAReadOnlyDataFolderIsRefused(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.MkdirAll(h.order.DataDir, 0o700))
	h.order.ReadOnly = h.order.DataDir
	refuses(t, h, h.order.DataDir, "read-only")
}

func TestE2EAFullDataFolderIsRefused(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.MkdirAll(h.order.DataDir, 0o700))
	h.order.Tiny = h.order.DataDir
	refuses(t, h, h.order.DataDir, "no space left")
}

func TestE2EADataFolderThatIsAFileIsRefused(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.WriteFile(h.order.DataDir, nil, 0o600))
	refuses(t, h, h.order.DataDir)
}

// When the folder fills up later, requests fail, nothing changes, and what was
// asked for can be asked for again when there is room.
func TestE2EADataFolderThatFillsUpFailsRequestsWhole(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.MkdirAll(h.order.DataDir, 0o700))
	h.order.Tiny, h.order.TinySize = h.order.DataDir, "2m"
	h.start()
	h.setupGlobal(1)
	h.setupService("web", "shared")
	before, listing := h.verify(), h.listing()

	// The folder is in the daemon's mount namespace.
	inside := filepath.Join("/proc", strconv.Itoa(h.process.Process.Pid), "root", h.order.DataDir, "filler")
	filler, err := os.Create(inside)
	require.NoError(t, err)
	defer filler.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = filler.Write(block)
	}
	c := newContainer(t, "c")
	// Free pages of the files may still take some.
	var failed error
	for i := 0; failed == nil && i < 1000; i++ {
		failed = h.RegisterDNS(h.ctx, wire.RegisterDNS{Name: strings.Repeat("x", 60) + strconv.Itoa(i), IP: before.Status.NodeIP})
	}
	require.Error(t, failed)
	t.Log(failed)
	require.Contains(t, failed.Error(), "no space left")
	_, err = h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web", JoinGlobal: true})
	if err != nil {
		t.Log(err)
		require.Equal(t, listing, h.listing())
		require.NotContains(t, c.links(), "eth0")
	}
	require.NoError(t, os.Remove(inside))
	h.attach(c, "web", true)
	h.verify(c)
	_, err = h.Status(h.ctx)
	require.NoError(t, err)
}

func TestE2EWithoutATUNDeviceItSaysSoOrGoesWithout(t *testing.T) {
	h := newHost(t)
	h.order.Hide = "/dev/net"
	refuses(t, h, "/dev/net/tun", "rootless")

	h.order.Mode = "auto"
	h.start()
	s, err := h.Status(h.ctx)
	require.NoError(t, err)
	require.Equal(t, "rootless", s.Mode)
}

func TestE2EWithoutACapabilityItSaysSoOrGoesWithout(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs the program setpriv")
	}
	h := newHost(t)
	h.setup = func(cmd *exec.Cmd) {
		path, err := exec.LookPath("setpriv")
		require.NoError(t, err)
		cmd.Args = append([]string{"setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = path
	}
	refuses(t, h, "CAP_NET_ADMIN")

	h.order.Mode = "auto"
	h.start()
	s, err := h.Status(h.ctx)
	require.NoError(t, err)
	require.Equal(t, "rootless", s.Mode)
}

func TestE2EADaemonAskedToEndAnswersAndEnds(t *testing.T) {
	h := startHost(t)
	web, db := everything(t, h)
	listing := h.links()
	require.NoError(t, h.Shutdown(h.ctx))
	h.awaitEnd()
	require.Zero(t, h.process.ProcessState.ExitCode())
	require.NoFileExists(t, h.order.Endpoint)
	after := h.links()
	for name, l := range listing {
		if l.Info.Kind == "bridge" || l.Info.Kind == "veth" {
			require.Contains(t, after, name, "what containers need stays")
		}
	}
	h.start()
	h.verify(web, db)
}

func TestE2ESIGTERMLetsWhatWasBegunComeToItsEnd(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	var containers []*container
	for range 8 {
		containers = append(containers, newContainer(t, "c"))
	}
	type outcome struct {
		c   *container
		err error
	}
	outcomes := make(chan outcome, len(containers))
	for _, c := range containers {
		go func() {
			_, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web"})
			outcomes <- outcome{c, err}
		}()
	}
	first := <-outcomes
	require.NoError(t, first.err)
	begin := time.Now()
	require.NoError(t, h.process.Process.Signal(syscall.SIGTERM))
	attached := map[wire.Handle]bool{first.c.handle(): true}
	for range len(containers) - 1 {
		if o := <-outcomes; o.err == nil {
			attached[o.c.handle()] = true
		} else {
			t.Log(o.err)
		}
	}
	h.awaitEnd()
	require.Zero(t, h.process.ProcessState.ExitCode())
	t.Logf("%d of %d attached, ended in %v", len(attached), len(containers), time.Since(begin))
	h.start()
	f := h.verify(containers...)
	for handle := range attached {
		require.Contains(t, handles(f), handle)
	}
}
