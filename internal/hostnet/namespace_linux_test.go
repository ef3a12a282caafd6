package hostnet_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNamespacesAreToldApart(t *testing.T) {
	a, b := startContainer(t), startContainer(t)
	again, err := hostnet.ProcessNamespace(uint32(a.cmd.Process.Pid))
	require.NoError(t, err)
	defer again.Close()
	require.Equal(t, a.ns.ID(), again.ID())
	require.NotEqual(t, a.ns.ID(), b.ns.ID())

	var s unix.Stat_t
	require.NoError(t, unix.Stat("/proc/self/ns/net", &s))
	own, err := hostnet.OwnNamespace()
	require.NoError(t, err)
	require.Equal(t, hostnet.NamespaceID{Dev: uint64(s.Dev), Inode: s.Ino}, own)
	require.NotEqual(t, own, a.ns.ID())
	mine, err := hostnet.ProcessNamespace(uint32(os.Getpid()))
	require.NoError(t, err)
	defer mine.Close()
	require.Equal(t, own, mine.ID())

	first, err := hostnet.HostNamespace()
	if err != nil { // where even root may not look
		require.ErrorIs(t, err, fs.ErrPermission)
	}
	require.NotEqual(t, first, a.ns.ID())
}

// TestTheProcessStaysAtHome looks while others are at work in a container.
func TestTheProcessStaysAtHome(t *testing.T) {
	c := startContainer(t)
	home, err := hostnet.OwnNamespace()
	require.NoError(t, err)
	enter := func() error {
		if unix.Gettid() == unix.Getpid() {
			return errors.New("on the first thread")
		}
		if own, err := hostnet.OwnNamespace(); err != nil || own != home {
			return fmt.Errorf("the process seems to be in %v: %w", own, err)
		}
		mine, err := hostnet.ProcessNamespace(uint32(os.Getpid()))
		if err != nil {
			return err
		}
		if mine.ID() != home {
			return fmt.Errorf("the process seems to be in %v", mine.ID())
		}
		return mine.Close()
	}
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			var err error
			for i := 0; i < 250 && err == nil; i++ {
				err = c.ns.Do(enter)
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		require.NoError(t, <-failed)
	}
}

func TestAProcessThatIsNotHasNoNamespace(t *testing.T) {
	var before int
	for range 2 { // the first time the runtime may open files of its own
		before = openFiles(t)
		zombie := exec.Command("true")
		require.NoError(t, zombie.Start())
		require.NoError(t, unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
		for _, pid := range []uint32{0, uint32(zombie.Process.Pid), math.MaxInt32, math.MaxUint32} {
			_, err := hostnet.ProcessNamespace(pid)
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		require.NoError(t, zombie.Wait())
	}
	requireNoMoreFiles(t, before)
}

func TestABootHasAnID(t *testing.T) {
	id, err := hostnet.BootID()
	require.NoError(t, err)
	require.Len(t, strings.Split(id, "-"), 5)
	require.Len(t, id, 36)
}

func TestSysctlsAreReadAndWritten(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		require.NoError(t, hostnet.WriteSysctl("net.ipv4.ip_forward", "1"))
		value, err := hostnet.ReadSysctl("net.ipv4.ip_forward")
		require.NoError(t, err)
		require.Equal(t, "1", value)
		require.ErrorIs(t, hostnet.WriteSysctl("net.ipv4.ip_forward", "many"), unix.EINVAL)
	})
	require.Equal(t, "1\n", run(t, h.Namespace, "sysctl", "-n", "net.ipv4.ip_forward"))

	run(t, h.Namespace, "ip", "link", "add", "eth0.100", "type", "bridge")
	require.Equal(t, "1", readIn(t, h, "net.ipv6.conf.eth0/100.accept_ra"))

	for _, name := range []string{"net.ipv4.nothing", "net.ipv6.conf.nothing.accept_ra"} {
		_, err := hostnet.ReadSysctl(name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
		require.ErrorIs(t, hostnet.WriteSysctl(name, "1"), fs.ErrNotExist, name)
	}
	for _, name := range []string{"", ".", "/", "//", "..", "net.", ".net", "net..ipv4", "//.//.etc.passwd", "net.//.kernel.hostname", "net.\x00"} {
		_, err := hostnet.ReadSysctl(name)
		require.Error(t, err, "%q", name)
		require.NotErrorIs(t, err, unix.EISDIR, "%q", name)
	}
}
