package hostnet_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const mtu = 1420

// A container is a process with a network namespace of its own.
type container struct {
	t   testing.TB
	cmd *exec.Cmd
	ns  *hostnet.Namespace
}

// startContainer starts one, which ends with the test.
func startContainer(t testing.TB) *container {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs root: %v", err)
	}
	require.NoError(t, err)
	c := &container{t: t, cmd: cmd}
	t.Cleanup(c.end)
	c.ns, err = hostnet.ProcessNamespace(uint32(cmd.Process.Pid))
	require.NoError(t, err)
	return c
}

// end ends the process, and with it its namespace. It is idempotent.
func (c *container) end() {
	if c.ns != nil {
		c.ns.Close()
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

func (c *container) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", strconv.Itoa(c.cmd.Process.Pid), "--net", "--"}, args...)...)
}

func (c *container) run(args ...string) string {
	c.t.Helper()
	out, err := c.command(args...).CombinedOutput()
	require.NoError(c.t, err, "%v: %s", args, out)
	return string(out)
}

// run runs a program in a namespace and returns what it prints.
func run(t testing.TB, ns *testnet.Namespace, args ...string) string {
	t.Helper()
	out, err := ns.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// A host is a namespace that stands for one, and a handle on it.
type host struct {
	*testnet.Namespace
	*hostnet.Handle
}

func newHost(t testing.TB) host {
	t.Helper()
	h := host{Namespace: testnet.NewNamespace(t)}
	h.open(t)
	return h
}

// open gives the host a new handle, as a daemon that starts.
func (h *host) open(t testing.TB) {
	t.Helper()
	var err error
	h.Do(func() { h.Handle, err = hostnet.Open() })
	require.NoError(t, err)
	t.Cleanup(h.Handle.Close)
}

// Close is the namespace's, as the handle's has its own clean-up.
func (h host) Close() error { return h.Namespace.Close() }

// listing is what ip, nft and sysctl say of a host, by lines, but for what changes
// with time or with what is attached: states and counters.
func (h host) listing(t testing.TB) []string {
	t.Helper()
	out := run(t, h.Namespace, "sh", "-c", "ip -details link; ip addr; ip route show table all; ip -6 route show table all; "+
		"ip neigh show nud permanent; nft --stateless list ruleset; sysctl -a --pattern '^net.ipv[46].(conf|ip_)' 2>/dev/null")
	return strings.Split(passing.ReplaceAllString(out, ""), "\n")
}

var passing = regexp.MustCompile(`(NO-CARRIER,|,LOWER_UP| state (UP|DOWN|disabled|forwarding)| linkdown|[a-z_]+_timer +[0-9.]+|tso_max_size \d+)`)

// same requires that lines are as before.
func same(t testing.TB, before, after []string) {
	t.Helper()
	var gone, come []string
	for _, l := range before {
		if !slices.Contains(after, l) {
			gone = append(gone, l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			come = append(come, l)
		}
	}
	require.Empty(t, gone, "gone")
	require.Empty(t, come, "come")
}

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func addrs(list ...string) (a []netip.Addr) {
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

var testBridge = hostnet.Bridge{Name: "ovl-b", Alias: "overlayd:test:bridge:web", MTU: mtu, Addrs: prefixes("10.200.1.1/22", "fd00:200:0:1::1/112")}

func newBridge(t testing.TB, h host) hostnet.Link {
	t.Helper()
	link, made, err := h.EnsureBridge(testBridge)
	require.NoError(t, err)
	require.True(t, made)
	return link
}

// eth0 is the cable of the nth container on the test's bridge.
func eth0(bridge hostnet.Link, c *container, n int) hostnet.Veth {
	return hostnet.Veth{
		Host:      fmt.Sprintf("ovl-%d-s", n),
		Alias:     fmt.Sprintf("overlayd:test:eth0:%d", n),
		Bridge:    bridge.Index,
		Namespace: c.ns,
		Container: "eth0",
		MTU:       mtu,
		Addrs:     prefixes(fmt.Sprintf("10.200.%d.%d/22", 1+n/250, 2+n%250), fmt.Sprintf("fd00:200:0:1::%x/112", 2+n)),
		Gateways:  addrs("10.200.1.1", "fd00:200:0:1::1"),
	}
}

// eth1 is a routed cable.
func eth1(c *container, n int) hostnet.Veth {
	return hostnet.Veth{
		Host:      fmt.Sprintf("ovl-%d-j", n),
		Alias:     fmt.Sprintf("overlayd:test:eth1:%d", n),
		Namespace: c.ns,
		Container: "eth1",
		MTU:       mtu,
		Addrs:     prefixes(fmt.Sprintf("10.200.7.%d/32", 2+n), fmt.Sprintf("fd00:200:0:7::%x/128", 2+n)),
		Routes:    prefixes("10.200.0.0/16", "fd00:200::/48"),
		Via:       addrs("10.200.7.1", "fd00:200:0:7::1"),
	}
}

// openFiles counts the process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

// requireNoMoreFiles waits until no more descriptors are open than before: the
// kernel and what was before a test go on for a moment after they ended.
func requireNoMoreFiles(t testing.TB, before int) {
	t.Helper()
	require.Eventually(t, func() bool { return openFiles(t) <= before }, 30*time.Second, 10*time.Millisecond)
}

// untilLocal waits, as a line of a shell's, until the kernel takes packets to an IPv6
// address as its own, which it sees to in the background (addrconf_dad_work).
func untilLocal(addr string) string {
	return "until ip -6 route get " + addr + " 2>&1 | grep -q ^local; do sleep 0.01; done"
}

// once sends one packet of a family, with no second try, as the first that leaves.
func once(addr string) []string { return []string{"ping", "-n", "-c", "1", "-W", "20", addr} }

// readIn reads a sysctl of a host.
func readIn(t testing.TB, h host, name string) (value string) {
	t.Helper()
	var err error
	h.Do(func() { value, err = hostnet.ReadSysctl(name) })
	require.NoError(t, err)
	return value
}
