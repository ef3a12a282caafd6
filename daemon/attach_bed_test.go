package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// An attachBed is a host, which is a namespace, with a daemon on it.
type attachBed struct {
	t    *testing.T
	host *testnet.Namespace
	dir  string
	d    *Daemon

	mu     sync.Mutex
	logged strings.Builder
}

// newAttachBed is a host with the node's own overlay and a service "web".
func newAttachBed(t *testing.T) *attachBed {
	t.Helper()
	b := newBareAttachBed(t)
	b.setup(wire.SetupGlobalOverlay{Deployment: "t", InstanceID: "1", ClusterCIDR: "10.200.0.0/16,fd00:200::/48", SliceCIDR: "10.200.1.0/24,fd00:200:0:1::/64", WGPort: 51820})
	b.setup(wire.SetupServiceOverlay{Service: "web"})
	return b
}

// newBareAttachBed is a host with nothing on it but a daemon.
func newBareAttachBed(t *testing.T) *attachBed {
	t.Helper()
	b := &attachBed{t: t, host: testnet.NewNamespace(t), dir: t.TempDir()}
	for _, forward := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"} {
		out, err := b.host.Command("sysctl", "-qw", forward).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	b.start()
	t.Cleanup(func() {
		b.stop()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", b.logged.String())
		}
	})
	return b
}

// Write takes the daemon's log.
func (b *attachBed) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logged.Write(p)
}

func (b *attachBed) start() {
	b.t.Helper()
	b.d = b.open(b)
}

// open makes a daemon of the bed's data folder. What it opens belongs to the host's
// namespace.
func (b *attachBed) open(log io.Writer) (d *Daemon) {
	b.t.Helper()
	var err error
	b.host.Do(func() {
		d, err = New(Config{DataDir: b.dir, Mode: ModeTUN, Logger: slog.New(slog.NewTextHandler(log, nil))})
	})
	require.NoError(b.t, err)
	return d
}

func (b *attachBed) stop() {
	if b.d != nil {
		require.NoError(b.t, b.d.Close())
		b.d = nil
	}
}

func (b *attachBed) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// call sends a request as a client does, on a thread in the host's namespace.
func (b *attachBed) call(r wire.Request) (resp wire.Response, err error) {
	b.host.Do(func() { resp, err = b.d.handle(context.Background(), r) })
	return resp, err
}

func (b *attachBed) setup(r wire.Request) wire.Response {
	b.t.Helper()
	resp, err := b.call(r)
	require.NoError(b.t, err)
	return resp
}

// attach attaches a box to "web".
func (b *attachBed) attach(x *box) wire.Attached {
	b.t.Helper()
	return b.setup(x.request()).(wire.Attached)
}

func (b *attachBed) detach(x *box) {
	b.t.Helper()
	b.setup(wire.DetachContainer{Handle: wire.LinuxPID{PID: x.pid}})
}

// A box is a container: a namespace with a process in it.
type box struct {
	ns  *testnet.Namespace
	pid uint32
}

func newBox(t *testing.T) *box {
	t.Helper()
	x := &box{ns: testnet.NewNamespace(t)}
	x.pid = x.run(t)
	return x
}

// run starts a process in the box that does nothing, and returns its PID.
func (x *box) run(t *testing.T) uint32 {
	t.Helper()
	cmd := x.ns.Command("sleep", "infinity")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	want, err := os.Readlink(x.ns.Path())
	require.NoError(t, err)
	soon(t, func() bool { // nsenter takes a moment
		is, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		return err == nil && is == want
	})
	return uint32(cmd.Process.Pid)
}

// end ends the box as a container ends: with all its processes.
func (x *box) end(t *testing.T) {
	t.Helper()
	require.NoError(t, x.ns.Close())
}

func (x *box) request() wire.AttachContainer {
	return wire.AttachContainer{Handle: wire.LinuxPID{PID: x.pid}, Service: "web", JoinGlobal: true}
}

func (x *box) pings(t *testing.T, to netip.Addr) {
	t.Helper()
	out, err := x.ns.Command("ping", "-n", "-c", "1", "-W", "20", to.String()).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// links are the names of what a namespace has but for its loopback interface.
func links(t *testing.T, ns *testnet.Namespace) (names []string) {
	t.Helper()
	for _, l := range ipJSON(t, ns, "link", "show") {
		if name := l["ifname"].(string); name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

// ipJSON is what ip(8) says, which knows independently of us.
func ipJSON(t *testing.T, ns *testnet.Namespace, args ...string) (list []map[string]any) {
	t.Helper()
	out := ns.Output(t, "ip", append([]string{"-json"}, args...)...)
	if len(out) > 0 {
		require.NoError(t, json.Unmarshal(out, &list), "%s", out)
	}
	return list
}

// cableNames are the hosts' ends of containers' cables.
func (b *attachBed) cableNames() []string {
	b.t.Helper()
	return slices.DeleteFunc(links(b.t, b.host), func(name string) bool {
		return !strings.HasSuffix(name, "-s") && !strings.HasSuffix(name, "-j")
	})
}

// leased are the addresses that containers and guests have leased.
func (b *attachBed) leased() (addrs []netip.Addr) {
	for l := range b.d.leases.Leases(netip.Prefix{}) {
		if l.Owner.Kind == kindContainer || l.Owner.Kind == kindGuest {
			addrs = append(addrs, l.Addr)
		}
	}
	return addrs
}

// recorded is what is on disk of attachments.
func (b *attachBed) recorded() []wire.Handle {
	b.t.Helper()
	st, err := b.d.store.Load()
	require.NoError(b.t, err)
	handles := []wire.Handle{}
	for _, a := range st.Attachments {
		handles = append(handles, handleOf(&a))
	}
	return handles
}

// isEmpty asserts that there is nothing of any container.
func (b *attachBed) isEmpty() {
	b.t.Helper()
	require.Empty(b.t, b.cableNames())
	require.Empty(b.t, b.leased())
	require.Empty(b.t, b.recorded())
	require.Empty(b.t, b.d.attachmentCount())
	list, err := b.d.listAttachments(wire.ListAttachments{})
	require.NoError(b.t, err)
	require.Empty(b.t, list.Attachments)
	require.Eventually(b.t, func() bool { return len(b.d.attachments.all()) == 0 }, 30*time.Second, time.Millisecond, "the keeper may have one, to look at it")
	require.Empty(b.t, b.d.attachments.links)
	require.Empty(b.t, b.d.attachments.keys)
}

// agree asserts that record, host and leases say the same of the boxes, each of
// which is attached.
func (b *attachBed) agree(boxes ...*box) {
	b.t.Helper()
	list, err := b.d.listAttachments(wire.ListAttachments{})
	require.NoError(b.t, err)
	require.Len(b.t, list.Attachments, len(boxes))
	require.Len(b.t, b.recorded(), len(boxes))
	var addrs []netip.Addr
	for _, a := range list.Attachments {
		for _, p := range a.Addresses {
			addrs = append(addrs, p.Addr())
		}
	}
	require.ElementsMatch(b.t, addrs, b.leased())
	var names []string
	for _, a := range b.d.attachments.records() {
		names = append(names, a.Link)
		if a.GlobalLink != "" {
			names = append(names, a.GlobalLink)
		}
	}
	require.ElementsMatch(b.t, names, b.cableNames())
	for _, x := range boxes {
		i := slices.IndexFunc(list.Attachments, func(a wire.Attachment) bool { return a.Handle == wire.LinuxPID{PID: x.pid} })
		require.GreaterOrEqual(b.t, i, 0, "process %d is not attached", x.pid)
		for _, p := range list.Attachments[i].Addresses {
			require.Contains(b.t, addressesOf(b.t, x.ns), p.Addr().String())
		}
	}
}

// addressesOf are the addresses a namespace has.
func addressesOf(t *testing.T, ns *testnet.Namespace) (addrs []string) {
	t.Helper()
	for _, l := range ipJSON(t, ns, "addr", "show") {
		for _, a := range l["addr_info"].([]any) {
			if local, ok := a.(map[string]any)["local"].(string); ok {
				addrs = append(addrs, local)
			}
		}
	}
	return addrs
}
