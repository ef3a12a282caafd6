package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// namespace moves the test's goroutine into a network namespace of its own, with
// its loopback up. The thread is not given back, so it ends with the test and
// the namespace with it.
func namespace(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	for _, tool := range append(tools, "ip") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("no network namespace to be had here: %v", err)
	}
	run(t, "ip link set lo up")
}

func run(t *testing.T, command string) {
	t.Helper()
	require.NoError(t, execute(command))
}

func execute(command string) error {
	args := strings.Fields(command)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// sysctl sets a variable of the namespace. The thread's own view of /proc must be
// used: /proc/sys/net follows the reader's namespace.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644))
}

func TestAHostWithIPv6DisabledSpeaksIPv4(t *testing.T) {
	namespace(t)
	sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
	v4 := Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.Port())}
	v6 := Endpoint{Addr: netip.AddrPortFrom(netip.IPv6Loopback(), b.Port())}
	data := datagrams(3000, 1000)
	ms := []Message{{Data: data, Seg: 1000, Endpoint: v6}, {Data: data, Seg: 1000, Endpoint: v4}}
	sent, err := a.Send(0, ms)
	require.Equal(t, 1, sent)
	require.Error(t, err)
	require.Equal(t, err, ms[0].Err)
	require.NoError(t, ms[1].Err)
	collect(t, socketFor(t, b, v4.Addr.Addr()), 3)
}

func TestASegmentOverTheMTUIsFragmented(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			namespace(t)
			run(t, "ip link set lo mtu 1400")
			a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
			run := Message{Data: datagrams(1452*20+5, 1452), Seg: 1452, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}
			sendAll(t, a, socketFor(t, b, local), run)
			require.True(t, a.Capabilities().GSO)
		})
	}
}

// neighbour runs do in a second namespace, at the other end of a wire from "near"
// here to "far" there. It is another goroutine's, so it may not end the test.
func neighbour(t *testing.T, do func() error) {
	t.Helper()
	ready, linked, done := make(chan int), make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and so it ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			close(ready)
			done <- err
			return
		}
		ready <- unix.Gettid()
		<-linked
		done <- do()
	}()
	if tid, ok := <-ready; ok {
		err := execute(fmt.Sprintf("ip link add near type veth peer name far netns %d", tid))
		close(linked)
		require.NoError(t, errors.Join(err, <-done))
		run(t, "ip link set near up")
		return
	}
	require.NoError(t, <-done)
}

func TestALinkLocalEndpointKeepsItsZone(t *testing.T) {
	namespace(t)
	run(t, "ip link add left type veth peer name right")
	run(t, "ip link set left up")
	run(t, "ip link set right up")
	run(t, "ip -6 addr add fe80::1/64 dev left nodad")
	awaitLocal(t, "fe80::1", "left")
	a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
	s := socketFor(t, b, netip.IPv6Loopback())
	for _, zone := range []string{"left", zoneOf(t, "left")} {
		to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zone), b.Port())
		sent, err := a.Send(0, []Message{{Data: datagrams(2000, 1000), Seg: 1000, Endpoint: Endpoint{Addr: to}}})
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		_, from := collect(t, s, 2)
		require.Equal(t, zoneOf(t, "left"), from.Addr.Addr().Zone())

		// With the source and without it, the answer finds its way.
		for _, back := range []Endpoint{from, {Addr: from.Addr}} {
			sent, err = b.Send(0, []Message{{Data: datagrams(100, 100), Endpoint: back}})
			require.NoError(t, err)
			require.Equal(t, 1, sent)
			_, answer := collect(t, socketFor(t, a, netip.IPv6Loopback()), 1)
			require.Equal(t, netip.MustParseAddr("fe80::1").WithZone(zoneOf(t, "left")), answer.Addr.Addr())
		}
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone("absent"), b.Port())
	sent, err := a.Send(0, []Message{{Data: datagrams(100, 100), Endpoint: Endpoint{Addr: to}}})
	require.Error(t, err)
	require.Zero(t, sent)
}

// awaitLocal waits for the kernel to take packets to an address as its own, which
// it sees to in the background. It runs on the test's own thread, whose namespace
// this is about.
func awaitLocal(t *testing.T, addr, device string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		out, err := exec.Command("ip", "-6", "route", "show", "table", "local", "dev", device).CombinedOutput()
		require.NoError(t, err, "%s", out)
		if strings.Contains(string(out), addr+" ") {
			return
		}
		require.True(t, time.Now().Before(deadline), "%s did not become local: %s", addr, out)
	}
}

func zoneOf(t *testing.T, name string) string {
	t.Helper()
	i, err := net.InterfaceByName(name)
	require.NoError(t, err)
	return strconv.Itoa(i.Index)
}

// Older kernels refuse UDP_SEGMENT on such a device.
func TestADeviceWithoutChecksumOffloadIsServed(t *testing.T) {
	namespace(t, "ethtool")
	var b *Conn
	neighbour(t, func() (err error) {
		b, err = listen(Config{}, openBatch)
		return errors.Join(err, execute("ip link set far up"), execute("ip addr add 192.0.2.2/24 dev far"))
	})
	defer b.Close()
	run(t, "ip addr add 192.0.2.1/24 dev near")
	run(t, "ethtool -K near tx off")
	a := start(t, Config{}, openBatch)
	to := Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), b.Port())}
	for range 2 {
		sendAll(t, a, socketFor(t, b, to.Addr.Addr()), Message{Data: datagrams(10000, 1000), Seg: 1000, Endpoint: to})
	}
	t.Log("offload afterwards:", a.Capabilities().GSO)
}

// A slow link fills the socket: sends wait for it, and are not lost.
func TestAFullSocketIsWaitedFor(t *testing.T) {
	namespace(t, "tc")
	run(t, "tc qdisc add dev lo root tbf rate 100mbit burst 128k limit 64m")
	a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
	local := families["IPv4"]
	s := socketFor(t, b, local)
	tx := a.lanes[0].v4.(*batch)
	require.NoError(t, tx.setInt("SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, 200000))
	full := 0
	tx.tx.call = func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
		n, errno := sendmmsg(fd, hdrs)
		if errno == unix.EAGAIN {
			full++
		}
		return n, errno
	}
	const messages = 40
	var running sync.WaitGroup
	running.Go(func() {
		for range messages {
			sent, err := a.Send(0, []Message{{Data: datagrams(1000*50, 1000), Seg: 1000, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}})
			if sent != 1 || err != nil {
				t.Error(sent, err)
			}
		}
	})
	collect(t, s, messages*50)
	running.Wait()
	require.Positive(t, full, "the socket was never full")
}
