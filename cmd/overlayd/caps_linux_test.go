package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
)

// With the unit's capabilities, and no way to get others, the daemon does all it is
// for, and without any one of them it does not.
func TestTheUnitsCapabilitiesAreThoseItNeeds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("capabilities are root's to give up")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	set := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(unit(t, "overlayd.service"))
	require.NotNil(t, set)
	all := strings.Fields(set[1])
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		require.NoError(t, work(t, all))
	})
	for i, cap := range all {
		t.Run("without "+cap, func(t *testing.T) {
			t.Parallel()
			err := work(t, slices.Delete(slices.Clone(all), i, i+1))
			require.Error(t, err, "it is not needed")
			t.Log(err)
		})
	}
}

// work has a daemon with some capabilities, in a namespace that is its host, do what
// it is for.
func work(t *testing.T, caps []string) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	host := testnet.NewNamespace(t)
	dir := shortDir(t)
	names := "-all"
	for _, c := range caps {
		names += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	d := host.Command("setpriv", "--bounding-set", names, "--inh-caps", "-all", "--no-new-privs",
		"overlayd", "serve", "--mode", "tun", "--data-dir", dir)
	d.Env = append(os.Environ(), "PATH="+installed(t)+":"+os.Getenv("PATH"))
	d.Stderr = log
	require.NoError(t, d.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Wait() //nolint:errcheck // what it did not do tells
		cancel()
	}()
	t.Cleanup(func() {
		d.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		<-ended
	})

	c, err := client.Dial(ctx, client.Config{Endpoint: client.DataDirEndpoint(dir)})
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w: %s", err, said)
	}
	defer c.Close()
	if _, err := c.SetupGlobalOverlay(ctx, wire.SetupGlobalOverlay{
		Deployment: "caps", InstanceID: "1", ClusterCIDR: "10.200.0.0/16", SliceCIDR: "10.200.7.0/28", WGPort: 51420,
	}); err != nil {
		return err
	}
	if _, err := c.SetupServiceOverlay(ctx, wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeDedicated}); err != nil {
		return err
	}
	container := wire.LinuxPID{PID: uint32(somebodyElses(t))}
	at, err := c.AttachContainer(ctx, wire.AttachContainer{Handle: container, Service: "web", JoinGlobal: true})
	if err != nil {
		return err
	}
	if _, err := c.PublishPort(ctx, wire.PublishPort{Proto: wire.TCP, HostPort: 80, IP: at.IP, TargetPort: 80}); err != nil {
		return err
	}
	if err := c.RegisterDNS(ctx, wire.RegisterDNS{Name: "web", IP: at.IP}); err != nil {
		return err
	}
	if _, err := c.Ping(ctx, at.IP); err != nil {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if len(status.Warnings) > 0 {
		return fmt.Errorf("it warns: %q", status.Warnings)
	}
	if err := c.DetachContainer(ctx, container); err != nil {
		return err
	}
	if err := c.TeardownServiceOverlay(ctx, "web"); err != nil {
		return err
	}
	return c.TeardownGlobalOverlay(ctx)
}

// somebodyElses is a process of another user in a network namespace of its own.
func somebodyElses(t *testing.T) int {
	const nobody = 65534
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it runs
		cmd.Wait()         //nolint:errcheck // it was killed
	})
	return cmd.Process.Pid
}
