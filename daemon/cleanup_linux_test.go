package daemon_test

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"testing"

	"github.com/overlayd/overlayd/daemon"
	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// second is another client of the host's daemon.
func (h *host) second() (*client.Client, error) {
	return client.Dial(h.ctx, client.Config{Endpoint: h.order.Endpoint, Attempts: -1, Name: "second"})
}

func (h *host) cleanup(stop bool) (report daemon.CleanupReport, err error) {
	h.ns.Do(func() {
		report, err = daemon.Cleanup(h.ctx, daemon.Config{DataDir: h.order.DataDir, Endpoint: h.order.Endpoint}, stop)
	})
	return report, err
}

func TestCleanupLeavesTheHostAsItWasBefore(t *testing.T) {
	h := startHost(t)
	fresh := h.listing()
	web, _ := everything(t, h)
	bystander := "ovl-nobodys-b"
	h.run("ip", "link", "add", bystander, "type", "bridge")

	_, err := h.cleanup(false)
	require.ErrorContains(t, err, strconv.Itoa(h.process.Process.Pid), "who holds it")
	require.Len(t, h.ours(), 8)

	key := h.facts().Status.PublicKey
	report, err := h.cleanup(true)
	require.NoError(t, err)
	require.True(t, report.Stopped)
	require.True(t, report.Firewall)
	require.Len(t, report.Links, 5, "two bridges, and the cables of two containers, of which one joined")
	h.awaitEnd()
	require.Contains(t, h.links(), bystander, "it has our name, but not our alias")
	h.run("ip", "link", "delete", bystander)
	require.Equal(t, fresh, h.listing())
	require.NotContains(t, web.links(), "eth0")

	again, err := h.cleanup(true)
	require.NoError(t, err)
	require.Equal(t, daemon.CleanupReport{}, again)
	h.start()
	require.Equal(t, key, h.facts().Status.PublicKey, "its identity stays")
	require.Empty(t, h.facts().Leases)
	require.Empty(t, h.facts().Services)
	require.Equal(t, fresh, h.listing())
}

func TestCleanupDoesWithoutADataFolder(t *testing.T) {
	h := startHost(t)
	everything(t, h)
	h.kill()
	require.NoError(t, os.RemoveAll(h.order.DataDir))
	report, err := h.cleanup(false)
	require.NoError(t, err)
	require.Len(t, report.Links, 5)
	require.Empty(t, h.ours())
	require.NotContains(t, h.run("nft", "list", "tables"), "overlayd")
	require.NoDirExists(t, h.order.DataDir)
}

func TestCleanupKeepsAwayFromAnotherDaemon(t *testing.T) {
	h := startHost(t)
	web, db := everything(t, h)
	before := h.listing()
	h.ns.Do(func() {
		_, err := daemon.Cleanup(context.Background(), daemon.Config{DataDir: t.TempDir()}, false)
		require.ErrorContains(t, err, h.facts().Status.Interface)
	})
	require.Equal(t, before, h.listing())
	h.verify(web, db)
}

// beside is another daemon's order for the same network.
func (h *host) beside() (folder string, err error) {
	folder = h.t.TempDir()
	h.ns.Do(func() {
		var d *daemon.Daemon
		if d, err = daemon.New(daemon.Config{DataDir: folder, Mode: daemon.ModeTUN, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			err = d.Close()
		}
	})
	return folder, err
}

func TestASecondDaemonWithAnotherFolderRefusesToStart(t *testing.T) {
	h := startHost(t)
	_, err := h.beside()
	require.ErrorIs(t, err, wire.Conflict, "also while nothing is set up")
	require.ErrorContains(t, err, strconv.Itoa(h.process.Process.Pid))
	web, db := everything(t, h)
	before := h.listing()
	folder, err := h.beside()
	require.ErrorContains(t, err, strconv.Itoa(h.process.Process.Pid))
	require.Equal(t, before, h.listing())

	// Nothing on the host is of the folder that could not be used.
	h.ns.Do(func() {
		report, err := daemon.Cleanup(context.Background(), daemon.Config{DataDir: folder}, false)
		require.NoError(t, err)
		require.Equal(t, daemon.CleanupReport{}, report)
	})
	require.Equal(t, before, h.listing())
	h.verify(web, db)

	// What is killed holds nothing.
	h.kill()
	_, err = h.beside()
	require.NoError(t, err)
	h.start()
	h.verify(web, db)
}
