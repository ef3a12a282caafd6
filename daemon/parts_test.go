package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/ipam"
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
	cmd := ns.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=60s", "-test.v=true")
	cmd.Env = append(os.Environ(), flag+"="+t.Name())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "%s", out)
	t.Logf("%s", out)
	return false
}

// A told keeps the events that a daemon publishes.
type told struct {
	mu     sync.Mutex
	events []wire.Event
}

func (l *told) add(e wire.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *told) take() []wire.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
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
