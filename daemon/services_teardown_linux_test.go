package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
)

// newWhole makes a daemon with a host, which the test's process has for itself.
func newWhole(t *testing.T) *Daemon {
	t.Helper()
	dir := t.TempDir()
	d, err := New(Config{DataDir: filepath.Join(dir, "data"), Endpoint: filepath.Join(dir, "s"), Mode: ModeTUN, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// fixed is a link that the kernel removes for nobody: it stands for one that cannot be
// removed now.
var fixed = hostnet.Link{Index: 1, Name: "lo"}

// TestWhatATeardownLeavesIsRemovedByTheNext has the kernel refuse to remove a bridge.
func TestWhatATeardownLeavesIsRemovedByTheNext(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, again := range map[string]func(d *Daemon, ctx context.Context) error{
		"by who asks once more": func(d *Daemon, ctx context.Context) error {
			return d.teardownService(ctx, wire.TeardownServiceOverlay{Service: "web"})
		},
		"by upkeep": func(d *Daemon, _ context.Context) error {
			d.removeRests()
			return nil
		},
		"by who sets it up anew": func(d *Daemon, ctx context.Context) error {
			if _, err := d.setupService(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeShared}); err != nil {
				return err
			}
			return d.teardownService(ctx, wire.TeardownServiceOverlay{Service: "web"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, ctx := newWhole(t), t.Context()
			setup := func() error {
				_, err := d.setupService(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeDedicated})
				return err
			}
			teardown := func() error { return d.teardownService(ctx, wire.TeardownServiceOverlay{Service: "web"}) }
			require.NoError(t, setup())
			p := d.services.named["web"]
			p.change.Lock()
			require.NoError(t, d.strikeService(ctx, p, p.now.Load()))
			rest := *p.rest.Load()
			bridge := rest.bridge
			rest.bridge = fixed
			p.rest.Store(&rest)
			p.change.Unlock()

			for range 2 {
				err := teardown()
				require.ErrorContains(t, err, `service "web" is torn down, but not all of it went`)
				require.ErrorContains(t, err, "delete link 1: operation not supported")
				recorded, err := d.store.Load()
				require.NoError(t, err)
				require.Empty(t, recorded.Services)
				require.Empty(t, d.allServices())
				_, err = d.host.Link(bridge.Index)
				require.NoError(t, err)
				require.Len(t, slices.Collect(d.leases.Subnets(netip.Prefix{})), 1, "its addresses are nobody else's")
				require.Contains(t, d.degraded()[partService("web")], "not all of it went")
			}
			require.ErrorContains(t, setup(), "what is left of the one torn down cannot be removed")
			_, _, err := d.service("web")
			require.ErrorIs(t, err, wire.NotFound)

			p.change.Lock()
			healed := rest
			healed.bridge = bridge
			p.rest.Store(&healed)
			p.change.Unlock()
			require.NoError(t, again(d, ctx))
			links, err := d.host.Links()
			require.NoError(t, err)
			require.Len(t, links, 1, "but the loopback interface")
			require.Empty(t, slices.Collect(d.leases.Subnets(netip.Prefix{})))
			require.Empty(t, d.degraded())
			// Upkeep may just be looking at it.
			require.Eventually(t, func() bool { return !d.services.known("web") }, 10*time.Second, time.Millisecond)
			has, err := d.host.HasFirewall()
			require.NoError(t, err)
			require.False(t, has)
			require.NoError(t, teardown())
		})
	}
}

// TestRulesThatCannotBeRemovedAreRemovedByTheNextTeardown has another program own the
// table of rules for a while (NFT_TABLE_F_OWNER, Linux 5.12).
func TestRulesThatCannotBeRemovedAreRemovedByTheNextTeardown(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d, ctx := newWhole(t), t.Context()
	setup := func() error {
		_, err := d.setupGlobal(ctx, wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16", SliceCIDR: "10.200.1.0/24", WGPort: 51420})
		return err
	}
	require.NoError(t, setup())
	d.firewall.apply.Lock() // nobody is to put the table back
	other := exec.Command("nft", "-i")
	in, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	fmt.Fprintln(in, "delete table inet overlayd\nadd table inet overlayd { flags owner; }")
	owned := func() bool {
		out, _ := exec.Command("nft", "list", "tables", "inet").Output()
		listed, _ := exec.Command("nft", "list", "table", "inet", "overlayd").Output()
		return bytes.Contains(out, []byte("overlayd")) && bytes.Contains(listed, []byte("owner"))
	}
	require.Eventually(t, owned, 10*time.Second, 10*time.Millisecond)
	d.firewall.apply.Unlock()

	for range 2 {
		require.ErrorContains(t, d.teardownGlobal(ctx), "the node's overlay is torn down, but not all of it went")
		recorded, err := d.store.Load()
		require.NoError(t, err)
		require.Nil(t, recorded.Node.Global)
		require.Nil(t, d.global.load().device)
		require.NotEmpty(t, slices.Collect(d.leases.Leases(netip.Prefix{})), "its addresses are nobody else's")
		require.Contains(t, d.degraded()[partOverlay], "not all of it went")
	}
	require.ErrorContains(t, setup(), "what is left of the one torn down cannot be removed")

	require.NoError(t, in.Close())
	require.NoError(t, other.Wait())
	require.NoError(t, d.teardownGlobal(ctx))
	require.Empty(t, slices.Collect(d.leases.Leases(netip.Prefix{})))
	require.NotContains(t, d.degraded(), partOverlay)
	has, err := d.host.HasFirewall()
	require.NoError(t, err)
	require.False(t, has)
	require.NoError(t, setup())
	require.NoError(t, d.teardownGlobal(ctx))
}
