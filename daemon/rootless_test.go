package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// startRootless makes a daemon that needs no privilege, in this process, on a data
// folder.
func startRootless(t *testing.T, dir string) *Daemon {
	t.Helper()
	d, err := New(Config{DataDir: dir, Mode: ModeRootless, Version: "test", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ovl")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// freePort is a UDP port that nobody has, in either family.
func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

func TestARootlessDaemonIsThereAgainOnTheSameFolder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir, ctx := shortDir(t), t.Context()
	d := startRootless(t, dir)
	setup := wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16,fd00:200::/48", SliceCIDR: "10.200.7.0/28", WGPort: freePort(t)}
	name, err := d.setupGlobal(ctx, setup)
	require.NoError(t, err)
	require.Equal(t, "ovl-g", name.Name)
	again, err := d.setupGlobal(ctx, setup)
	require.NoError(t, err)
	require.Equal(t, name, again)
	web, err := d.setupService(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeAuto})
	require.NoError(t, err)
	require.Equal(t, wire.ServiceOverlay{Name: "ovl-web-b", Mode: wire.ModeShared}, web)
	_, err = d.setupService(ctx, wire.SetupServiceOverlay{Service: "db", Mode: wire.ModeDedicated})
	require.ErrorIs(t, err, wire.Unsupported)
	require.Nil(t, d.lookService("db"))
	require.NoError(t, d.addPeer(ctx, wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: aKey, Endpoint: "127.0.0.1:9", AllowedIPs: "10.200.9.0/24"}}))
	ip, err := d.allocateIP(ctx, wire.AllocateIP{Service: "web"})
	require.NoError(t, err)

	before := d.status()
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.200.7.1/16"), netip.MustParsePrefix("fd00:200::1/48")}, before.Addresses)
	require.Equal(t, setup.WGPort, before.ListenPort)
	require.Len(t, before.Peers, 1)
	leases, err := d.listLeases(wire.ListLeases{Service: "web"})
	require.NoError(t, err)
	require.Contains(t, leases.Leases, wire.Lease{IP: ip.IP, Pool: d.lookService("web").Subnets[0], Kind: kindReserved, Owner: leases.Leases[1].Owner, Since: leases.Leases[1].Since})

	_, err = New(Config{DataDir: dir, Mode: ModeRootless})
	held := new(state.HeldError)
	require.ErrorAs(t, err, &held)
	require.ErrorContains(t, err, strconv.Itoa(os.Getpid()))
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "twice")
	require.NoFileExists(t, filepath.Join(dir, "run", "overlayd.sock"))

	d = startRootless(t, dir)
	after := d.status()
	require.NotEqual(t, before.BootID, after.BootID)
	after.BootID, after.Uptime, before.Uptime = before.BootID, 0, 0
	after.DNS, before.DNS, after.NAT, before.NAT = wire.DNSStatus{}, wire.DNSStatus{}, wire.NATStatus{}, wire.NATStatus{}
	require.Equal(t, before, after)
	now, err := d.listLeases(wire.ListLeases{Service: "web"})
	require.NoError(t, err)
	require.Equal(t, leases, now)

	require.NoError(t, d.teardownService(ctx, wire.TeardownServiceOverlay{Service: "web"}))
	require.NoError(t, d.teardownGlobal(ctx))
	require.Zero(t, d.leases.Len())
	require.Equal(t, "10.200.0.0/16", d.status().OverlayCIDR)
	require.NoError(t, d.Close())
}

func TestADaemonThatIsAskedToEndEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, d *Daemon, c *client.Client, cancel context.CancelFunc){
		"by its context": func(_ *testing.T, _ *Daemon, _ *client.Client, cancel context.CancelFunc) { cancel() },
		"by a client": func(t *testing.T, _ *Daemon, c *client.Client, _ context.CancelFunc) {
			require.NoError(t, c.Shutdown(t.Context()))
		},
		"by Close": func(t *testing.T, d *Daemon, _ *client.Client, _ context.CancelFunc) { require.NoError(t, d.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			d := startRootless(t, shortDir(t))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- d.Serve(ctx) }()
			c, err := client.Dial(ctx, client.Config{Endpoint: d.config.Endpoint, Attempts: client.Patient})
			require.NoError(t, err)
			defer c.Close()
			s, err := c.Status(ctx)
			require.NoError(t, err)
			require.Equal(t, wire.Status{PublicKey: s.PublicKey, OverlayCIDR: "10.200.0.0/16", Version: "test", BootID: s.BootID, Mode: "rootless", Uptime: s.Uptime, MTU: tunnelMTU, DNS: s.DNS, NAT: s.NAT}, s)
			end(t, d, c, cancel)
			require.NoError(t, <-served)
			require.NoFileExists(t, d.config.Endpoint)
			_, err = client.Dial(t.Context(), client.Config{Endpoint: d.config.Endpoint, Attempts: -1})
			require.ErrorIs(t, err, client.ErrUnreachable)
		})
	}
}

func TestAFolderOfANodeOnTheHostIsNotRootless(t *testing.T) {
	dir := shortDir(t)
	store, err := state.Open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Update(func(tx *state.Tx) error {
		tx.PutService(state.Service{Name: "web", Mode: wire.ModeShared, Bridge: "ovl---web-b", Subnets: prefixes("10.200.46.224/28")})
		return nil
	}))
	require.NoError(t, store.Close())
	_, err = New(Config{DataDir: dir, Mode: ModeRootless, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.ErrorContains(t, err, "overlayd cleanup")
	require.ErrorContains(t, err, dir)
}

func TestAConfigThatMakesNoSenseIsRefused(t *testing.T) {
	for says, c := range map[string]Config{
		`mode "bogus"`: {DataDir: shortDir(t), Mode: "bogus"},
		"at most 103":  {DataDir: filepath.Join(shortDir(t), string(make([]byte, 100)))},
	} {
		_, err := New(c)
		require.ErrorContains(t, err, says)
	}
	dir := shortDir(t)
	c, err := Config{DataDir: dir}.checked()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "run", "overlayd.sock"), c.Endpoint)
	require.Equal(t, ModeAuto, c.Mode)
	require.Equal(t, "overlay.internal", c.Zone)
	require.NotEmpty(t, c.Version)
	require.NotNil(t, c.Logger)
}

func TestADaemonWhoseLeasesAreLostStartsWithWhatItHad(t *testing.T) {
	dir, ctx := shortDir(t), t.Context()
	d := startRootless(t, dir)
	_, err := d.setupService(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeShared, Subnet: "10.200.0.0/28"})
	require.NoError(t, err)
	_, err = d.setupGlobal(ctx, wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16", WGPort: freePort(t)})
	require.NoError(t, err)
	was := d.status()
	require.Equal(t, "10.200.0.16", was.NodeIP.String())
	require.NoError(t, d.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, leaseFile), []byte("no leases at all"), 0o600))

	d = startRootless(t, dir)
	is := d.status()
	require.Equal(t, was.Addresses, is.Addresses)
	require.Equal(t, was.Leases, is.Leases)
}

func TestAPeerThatCalledIsShownWithTheEndpointItIsGiven(t *testing.T) {
	d := startRootless(t, shortDir(t))
	_, err := d.setupGlobal(t.Context(), wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16", WGPort: freePort(t)})
	require.NoError(t, err)
	spec := wire.PeerSpec{PublicKey: aKey, AllowedIPs: "10.200.9.0/24"}
	require.NoError(t, d.addPeer(t.Context(), wire.AddPeer{PeerSpec: spec}))
	v := d.global.load().device
	v.now.Load().called.Store(v.clients()[0], true) // as after a restart
	spec.Endpoint = "127.0.0.1:9"
	require.NoError(t, d.addPeer(t.Context(), wire.AddPeer{PeerSpec: spec}))
	require.Equal(t, spec.Endpoint, d.status().Peers[0].Endpoint)
}
