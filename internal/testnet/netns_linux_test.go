package testnet_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func currentNamespace(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	return id
}

func TestDoRunsInTheNamespaceAndComesBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a, b := testnet.NewNamespace(t), testnet.NewNamespace(t)
	home := currentNamespace(t)

	var inA, inB, backInA string
	a.Do(func() {
		inA = currentNamespace(t)
		b.Do(func() { inB = currentNamespace(t) })
		backInA = currentNamespace(t)
	})

	require.Equal(t, home, currentNamespace(t))
	require.Equal(t, inA, backInA)
	require.NotEqual(t, home, inA)
	require.NotEqual(t, home, inB)
	require.NotEqual(t, inA, inB)
}

func TestDoComesBackFromATestThatEnds(t *testing.T) {
	ns := testnet.NewNamespace(t)
	ids := make(chan string)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		home, _ := os.Readlink("/proc/thread-self/ns/net")
		defer func() {
			now, _ := os.Readlink("/proc/thread-self/ns/net")
			ids <- now
		}()
		ids <- home
		ns.Do(runtime.Goexit) // as t.FailNow does
	}()
	home := <-ids
	require.NotEmpty(t, home)
	require.Equal(t, home, <-ids)
}

func TestANamespaceHasOnlyLoopbackAndItIsUp(t *testing.T) {
	ns := testnet.NewNamespace(t)
	var interfaces []net.Interface
	var err error
	ns.Do(func() { interfaces, err = net.Interfaces() })
	require.NoError(t, err)

	up := map[string]bool{}
	for _, i := range interfaces {
		up[i.Name] = i.Flags&net.FlagUp != 0
	}
	// The kernel itself may put dormant tunnel devices (sit0, ip6tnl0, …) there.
	require.True(t, up["lo"])
	delete(up, "lo")
	for name, isUp := range up {
		require.False(t, isUp, name)
	}
}

func TestCommandRunsInTheNamespace(t *testing.T) {
	ns := testnet.NewNamespace(t)
	var want string
	ns.Do(func() { want = currentNamespace(t) })

	out, err := ns.Command("readlink", "/proc/self/ns/net").Output()
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(string(out)))
}

func TestCloseKillsWhatRunsInTheNamespace(t *testing.T) {
	ns := testnet.NewNamespace(t)
	// The shell's child outlives the shell, and neither is waited for before.
	cmd := ns.Command("sh", "-c", "sleep 1000 & echo started; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, len("started\n"))
	_, err = io.ReadFull(out, line)
	require.NoError(t, err)

	require.NoError(t, ns.Close())
	_, err = io.ReadAll(out) // ends when both, who have the pipe, are gone
	require.NoError(t, err)
	require.ErrorContains(t, cmd.Wait(), "killed")
	require.NoError(t, ns.Close(), "a second time")
	require.Panics(t, func() { ns.Do(func() {}) })
}

func TestVethJoinsTwoNamespaces(t *testing.T) {
	a, b := testnet.NewNamespace(t), testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(
		testnet.Port{Namespace: a, Name: "left", Addrs: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		testnet.Port{Namespace: b, Name: "right", Addrs: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
	))
	for _, addr := range []string{"192.0.2.2:0", "[2001:db8::2]:0"} {
		var listener net.Listener
		var err error
		b.Do(func() { listener, err = net.Listen("tcp", addr) })
		require.NoError(t, err)
		defer listener.Close()

		var conn net.Conn
		a.Do(func() { conn, err = net.Dial("tcp", listener.Addr().String()) })
		require.NoError(t, err)
		conn.Close()
	}
}

func TestVethThatFailsLeavesNoCable(t *testing.T) {
	a, b := testnet.NewNamespace(t), testnet.NewNamespace(t)
	group := []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("ff02::1/64")}
	err := testnet.Veth(
		testnet.Port{Namespace: a, Name: "left"},
		testnet.Port{Namespace: b, Name: "right", Addrs: group},
	)
	require.ErrorIs(t, err, unix.EADDRNOTAVAIL)
	for ns, name := range map[*testnet.Namespace]string{a: "left", b: "right"} {
		ns.Do(func() { _, err = net.InterfaceByName(name) })
		require.Error(t, err)
	}
}
