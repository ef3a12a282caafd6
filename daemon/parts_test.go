package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// newParts makes a daemon of what names, ports and the rest of its diagnosis stand
// on: a record, leases, and the networks that a fresh node has. It has no socket,
// and no host unless the test gives it one.
func newParts(t testing.TB) *Daemon {
	t.Helper()
	d := &Daemon{
		config:  Config{Zone: "overlay.internal", Version: "v0.0.0-test"},
		log:     slog.New(slog.DiscardHandler),
		mode:    ModeTUN,
		started: time.Unix(1_700_000_000, 0),
	}
	clusters := []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("fd00:200::/48")}
	d.global.view.Store(&globalView{Global: state.Global{Cluster: clusters}})
	d.node.now.Store(&state.Node{})
	var err error
	d.store, err = state.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { d.store.Close() })
	d.leases, err = ipam.NewMemory(ipam.Config{Pools: clusters})
	require.NoError(t, err)
	t.Cleanup(func() { d.leases.Close() })
	d.names.resolvConf = t.TempDir() + "/resolv.conf" // none, unless the test writes one
	return d
}

// reopen makes a daemon of the record that another has left.
func reopen(t testing.TB, d *Daemon) (*Daemon, state.State) {
	t.Helper()
	recorded, err := d.store.Load()
	require.NoError(t, err)
	next := newParts(t)
	next.store, next.leases = d.store, d.leases
	return next, recorded
}

// inNamespace runs the test again in a process of its own, in a network namespace
// of its own, as root; it returns false in the process that only waited for that.
// What the daemon does in the background is then done in the namespace as well.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const flag = "OVERLAYD_TEST_IN_NAMESPACE"
	if os.Getenv(flag) == t.Name() {
		return true
	}
	ns := testnet.NewNamespace(t)
	cmd := ns.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=10m", "-test.v=true")
	cmd.Env = append(os.Environ(), flag+"="+t.Name())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "%s", out)
	t.Logf("%s", out)
	return false
}

// addTestPeer gives the node's device a peer, whose key begins with n.
func addTestPeer(t testing.TB, d *Daemon, n byte, endpoint string, allowed ...string) overlay.PublicKey {
	t.Helper()
	p := overlay.Peer{PublicKey: overlay.PublicKey{n}, Endpoint: endpoint}
	for _, a := range allowed {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(a))
	}
	require.NoError(t, d.global.load().device.node().SetPeer(context.Background(), p))
	return p.PublicKey
}

// newRootless makes a daemon whose node is a TCP/IP stack of its own.
func newRootless(t testing.TB) *Daemon {
	t.Helper()
	d := newParts(t)
	d.mode = ModeRootless
	d.setStack(t, "10.200.0.1/16", "fd00:200::1/48")
	return d
}

// setStack makes the node's overlay anew.
func (d *Daemon) setStack(t testing.TB, of ...string) {
	t.Helper()
	var addrs []netip.Prefix
	for _, a := range of {
		addrs = append(addrs, netip.MustParsePrefix(a))
	}
	stack, err := netstack.New(netstack.Config{Addrs: addrs})
	require.NoError(t, err)
	key, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	node, err := overlay.New(overlay.Config{PrivateKey: key, Device: stack.Device(), Logger: d.log})
	require.NoError(t, err)
	t.Cleanup(func() { node.Close() })
	v := &device{d: d, name: "ovl-t-g", set: make(map[overlay.PublicKey]overlay.Peer)}
	v.now.Store(&tunnel{node: node, stack: stack, addrs: addrs})
	view := *d.global.load()
	view.device, view.Addrs = v, addrs
	d.global.view.Store(&view)
}

// makePeers makes the nodes of two daemons peers of each other; the second gets another
// address.
func makePeers(t testing.TB, a, b *Daemon) {
	t.Helper()
	b.setStack(t, "10.200.0.2/16", "fd00:200::2/48")
	for _, end := range []struct{ of, peer *Daemon }{{a, b}, {b, a}} {
		peer := end.peer.global.load().device
		p := overlay.Peer{PublicKey: peer.node().PublicKey(), Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), peer.node().ListenPort()).String()}
		for _, addr := range peer.addrs() {
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen()))
		}
		require.NoError(t, end.of.global.load().device.node().SetPeer(context.Background(), p))
	}
}
