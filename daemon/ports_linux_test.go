package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
	"github.com/stretchr/testify/require"
)

// newPublishing makes a daemon that can publish ports of three containers, two of
// them of IPv4.
func newPublishing(t testing.TB) *Daemon {
	t.Helper()
	d := newRuled(t)
	require.NoError(t, d.openPorts(nil))
	for i, a := range []string{"10.200.1.2", "10.200.1.3", "fd00:200:0:1::2"} {
		_, err := d.leases.AllocateAddr(netip.MustParseAddr(a), ipam.Owner{Kind: kindContainer, ID: fmt.Sprint(i)})
		require.NoError(t, err)
	}
	_, err := d.leases.AllocateAddr(netip.MustParseAddr("10.200.0.1"), ipam.Owner{Kind: ipam.KindNode, ID: "0"})
	require.NoError(t, err)
	return d
}

// publish is a request to publish, as "tcp 192.0.2.1:8080 10.200.1.2:80".
func publish(t testing.TB, text string) wire.PublishPort {
	t.Helper()
	fields := strings.Fields(text)
	r := wire.PublishPort{Proto: wire.Proto(fields[0])}
	if host := netip.MustParseAddrPort(strings.Replace(fields[1], "*", "240.0.0.0", 1)); !strings.Contains(fields[1], "*") {
		r.HostIP, r.HostPort = host.Addr(), host.Port()
	} else {
		r.HostPort = host.Port()
	}
	to := netip.MustParseAddrPort(fields[2])
	r.IP, r.TargetPort = to.Addr(), to.Port()
	return r
}

// portList is the published ports, in the same form.
func portList(t testing.TB, d *Daemon) (list []string) {
	t.Helper()
	ports, err := d.listPorts()
	require.NoError(t, err)
	for _, p := range ports.Ports {
		host := fmt.Sprintf("*:%d", p.HostPort)
		if p.HostIP.IsValid() {
			host = netip.AddrPortFrom(p.HostIP, p.HostPort).String()
		}
		list = append(list, fmt.Sprintf("%s %s %v", p.Proto, host, netip.AddrPortFrom(p.IP, p.TargetPort)))
	}
	return list
}

func recordedPorts(t testing.TB, d *Daemon) []wire.PublishedPort {
	t.Helper()
	recorded, err := d.store.Load()
	require.NoError(t, err)
	return recorded.Ports
}

func TestAPortIsPublishedUntilItIsUnpublished(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	for range 2 { // the same once more is no other
		for _, text := range []string{"tcp *:8080 10.200.1.2:80", "udp *:8080 10.200.1.3:80", "tcp [::1]:8080 [fd00:200:0:1::2]:80", "tcp 127.0.0.1:8081 10.200.1.2:80", "tcp 127.0.0.2:8081 10.200.1.3:80"} {
			p, err := d.publishPort(ctx, publish(t, text))
			require.NoError(t, err, text)
			require.Equal(t, publish(t, text).HostPort, p.HostPort)
		}
	}
	require.Equal(t, []string{
		"tcp *:8080 10.200.1.2:80", "tcp [::1]:8080 [fd00:200:0:1::2]:80", "udp *:8080 10.200.1.3:80",
		"tcp 127.0.0.1:8081 10.200.1.2:80", "tcp 127.0.0.2:8081 10.200.1.3:80",
	}, portList(t, d))
	require.Equal(t, 5, d.portCount())
	require.Len(t, recordedPorts(t, d), 5)
	require.Contains(t, sh(t, "nft", "list", "ruleset"), "8081")

	for range 2 { // one that is not there is no error
		require.NoError(t, d.unpublishPort(ctx, wire.UnpublishPort{Proto: wire.TCP, HostPort: 8080}))
		require.NoError(t, d.unpublishPort(ctx, wire.UnpublishPort{Proto: wire.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081}))
	}
	require.Equal(t, []string{"tcp [::1]:8080 [fd00:200:0:1::2]:80", "udp *:8080 10.200.1.3:80", "tcp 127.0.0.2:8081 10.200.1.3:80"}, portList(t, d))
	require.Len(t, recordedPorts(t, d), 3)

	// A container's ports go with its address.
	l, ok := d.leases.Lookup(netip.MustParseAddr("10.200.1.3"))
	require.True(t, ok)
	require.NoError(t, d.leases.Release(l))
	d.dropPorts(l)
	require.Equal(t, []string{"tcp [::1]:8080 [fd00:200:0:1::2]:80"}, portList(t, d))
	l, _ = d.leases.Lookup(netip.MustParseAddr("fd00:200:0:1::2"))
	require.NoError(t, d.leases.Release(l))
	d.sweepPorts() // as when nobody said so
	require.Empty(t, d.degraded())
	require.Empty(t, portList(t, d))
	require.Empty(t, recordedPorts(t, d))
	require.Empty(t, sh(t, "nft", "list", "tables"))
	require.Empty(t, d.ports.byAddr)
	require.Empty(t, d.ports.byPort)
}

func TestPortsThatOverlapAreRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	for _, text := range []string{"tcp *:8080 10.200.1.2:80", "tcp 127.0.0.1:8081 10.200.1.2:80", "tcp 0.0.0.0:8082 10.200.1.2:80", "tcp [::]:8082 [fd00:200:0:1::2]:80"} {
		_, err := d.publishPort(ctx, publish(t, text))
		require.NoError(t, err, text)
	}
	before := portList(t, d)
	for _, text := range []string{
		"tcp *:8080 10.200.1.3:80", "tcp *:8080 10.200.1.2:81", "tcp 127.0.0.1:8080 10.200.1.3:80", "tcp 0.0.0.0:8080 10.200.1.3:80",
		"tcp *:8080 [fd00:200:0:1::2]:80", // it would be known by the same name
		"tcp *:8081 10.200.1.3:80", "tcp 0.0.0.0:8081 10.200.1.3:80", "tcp 127.0.0.1:8081 10.200.1.3:80",
		"tcp *:8082 10.200.1.3:80", "tcp 127.0.0.1:8082 10.200.1.3:80", "tcp [::1]:8082 [fd00:200:0:1::2]:81",
	} {
		_, err := d.publishPort(ctx, publish(t, text))
		require.ErrorIs(t, err, wire.Conflict, text)
		require.Equal(t, "host_port", err.(*Error).Field, text)
	}
	require.Equal(t, before, portList(t, d))
	for _, text := range []string{"tcp [::1]:8081 [fd00:200:0:1::2]:80", "udp *:8080 10.200.1.3:80"} {
		_, err := d.publishPort(ctx, publish(t, text))
		require.NoError(t, err, text)
	}
}

func TestAPortThatAProgramHasIsRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	for network, text := range map[string]string{"tcp": "tcp", "tcp4": "tcp", "udp": "udp", "udp4": "udp"} {
		for _, host := range []string{":8080", "127.0.0.1:8080"} {
			var socket interface{ Close() error }
			var err error
			if text == "tcp" {
				socket, err = net.Listen(network, host)
			} else {
				socket, err = net.ListenPacket(network, host)
			}
			require.NoError(t, err)
			for _, at := range []string{"*:8080", "0.0.0.0:8080", "127.0.0.1:8080"} {
				_, err := d.publishPort(ctx, publish(t, text+" "+at+" 10.200.1.2:80"))
				require.ErrorIs(t, err, wire.Conflict, "%s %s: %s", network, host, at)
				require.ErrorContains(t, err, "ss -lnp sport = :8080")
			}
			socket.Close()
		}
	}
	require.Empty(t, portList(t, d))
	_, err := d.publishPort(ctx, publish(t, "tcp 192.0.2.7:8080 10.200.1.2:80"))
	require.ErrorIs(t, err, wire.InvalidRequest)
	require.Equal(t, "host_ip", err.(*Error).Field)
	require.Empty(t, d.ports.table)
	require.Empty(t, d.ports.byPort)
}

func TestAFreePortIsPicked(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	sh(t, "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40003")
	d := newPublishing(t)
	l, err := net.Listen("tcp", "127.0.0.1:40001")
	require.NoError(t, err)
	defer l.Close()
	picked := map[uint16]bool{}
	for i := range 3 {
		p, err := d.publishPort(ctx, publish(t, fmt.Sprintf("tcp *:0 10.200.1.2:%d", 80+i)))
		require.NoError(t, err)
		require.Contains(t, []uint16{40000, 40002, 40003}, p.HostPort)
		require.False(t, picked[p.HostPort])
		picked[p.HostPort] = true
		again, err := d.publishPort(ctx, publish(t, fmt.Sprintf("tcp *:0 10.200.1.2:%d", 80+i)))
		require.NoError(t, err)
		require.Equal(t, p, again, "the same again is answered the same")
	}
	_, err = d.publishPort(ctx, publish(t, "tcp *:0 10.200.1.2:99"))
	require.ErrorIs(t, err, wire.Exhausted)
	require.ErrorContains(t, err, "exhausted")
	_, err = d.publishPort(ctx, publish(t, "udp *:0 10.200.1.2:80"))
	require.NoError(t, err)
	require.Len(t, portList(t, d), 4)
}

func TestWhatCannotBePublishedIsRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	for text, want := range map[string]struct {
		code  wire.Code
		field string
	}{
		"icmp *:8080 10.200.1.2:80":                {wire.InvalidRequest, "proto"},
		"sctp *:8080 10.200.1.2:80":                {wire.InvalidRequest, "proto"},
		"tcp *:8080 10.200.1.2:0":                  {wire.InvalidRequest, "target_port"},
		"tcp *:8080 10.200.1.9:80":                 {wire.NotFound, "ip"},
		"tcp *:8080 192.0.2.1:80":                  {wire.NotFound, "ip"},
		"tcp *:8080 10.200.0.1:80":                 {wire.NotFound, "ip"}, // the node's own
		"tcp [::1]:8080 10.200.1.2:80":             {wire.InvalidRequest, "host_ip"},
		"tcp 127.0.0.1:8080 [fd00:200:0:1::2]:80":  {wire.InvalidRequest, "host_ip"},
		"tcp 224.0.0.1:8080 10.200.1.2:80":         {wire.InvalidRequest, "host_ip"},
		"tcp [fe80::1%lo]:80 [fd00:200:0:1::2]:80": {wire.InvalidRequest, "host_ip"},
	} {
		_, err := d.publishPort(ctx, publish(t, text))
		require.ErrorIs(t, err, want.code, text)
		require.Equal(t, want.field, err.(*Error).Field, text)
	}
	for _, r := range []wire.UnpublishPort{{Proto: wire.ICMP, HostPort: 1}, {HostPort: 1}, {Proto: wire.TCP}} {
		require.ErrorIs(t, d.unpublishPort(ctx, r), wire.InvalidRequest)
	}
	require.Empty(t, d.ports.table)
	require.Empty(t, sh(t, "nft", "list", "tables"))
}

func TestAPortThatCannotBeRecordedIsNotPublished(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	_, err := d.publishPort(ctx, publish(t, "tcp *:8080 10.200.1.2:80"))
	require.NoError(t, err)
	was := sh(t, "nft", "list", "ruleset")
	require.NoError(t, d.store.Close())
	_, err = d.publishPort(ctx, publish(t, "tcp *:8081 10.200.1.2:80"))
	require.ErrorContains(t, err, "publish port 8081/tcp of every address")
	require.Error(t, d.unpublishPort(ctx, wire.UnpublishPort{Proto: wire.TCP, HostPort: 8080}))
	require.Equal(t, []string{"tcp *:8080 10.200.1.2:80"}, portList(t, d))
	require.Equal(t, was, sh(t, "nft", "list", "ruleset"))
}

func TestPortsAreThereAfterARestart(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	for _, text := range []string{"tcp *:8080 10.200.1.2:80", "udp 127.0.0.1:53 10.200.1.3:53", "tcp [::]:8080 [fd00:200:0:1::2]:80"} {
		_, err := d.publishPort(ctx, publish(t, text))
		require.NoError(t, err)
	}
	was := sh(t, "nft", "list", "ruleset")
	l, _ := d.leases.Lookup(netip.MustParseAddr("10.200.1.3"))

	d, recorded := reopen(t, d)
	d.node.now.Store(&recorded.Node)
	hosted(t, d)
	require.NoError(t, d.openPorts(recorded.Ports))
	d.openFirewall()
	require.Equal(t, was, sh(t, "nft", "list", "ruleset"))
	require.Len(t, portList(t, d), 3)

	// One whose container died meanwhile is gone.
	require.NoError(t, d.leases.Release(l))
	d, recorded = reopen(t, d)
	d.node.now.Store(&recorded.Node)
	hosted(t, d)
	require.NoError(t, d.openPorts(recorded.Ports))
	d.openFirewall()
	require.Equal(t, []string{"tcp *:8080 10.200.1.2:80", "tcp [::]:8080 [fd00:200:0:1::2]:80"}, portList(t, d))
	require.Len(t, recordedPorts(t, d), 2)
	require.NotContains(t, sh(t, "nft", "list", "ruleset"), "10.200.1.3")
}

// Whoever publishes while a container goes either is refused, or what he published
// goes with it.
func TestPublishingAndDetachingAtOnceLeavesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx := context.Background()
	d := newPublishing(t)
	owner := ipam.Owner{Kind: kindContainer, ID: "racer"}
	for round := range 20 {
		l, err := d.leases.AllocateAddr(netip.MustParseAddr("10.200.1.7"), owner)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				_, err := d.publishPort(ctx, publish(t, fmt.Sprintf("tcp *:%d 10.200.1.7:80", 9000+i)))
				if err != nil && !strings.Contains(err.Error(), "no container") {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Go(func() {
			if err := d.leases.Release(l); err != nil {
				t.Error(err)
			}
			d.dropPorts(l)
		})
		wg.Wait()
		require.Empty(t, portList(t, d))
		require.Empty(t, recordedPorts(t, d))
		require.Empty(t, d.firewall.load().Ports)
	}
}

func TestARootlessNodeHasNoPortsToPublish(t *testing.T) {
	d := newParts(t)
	d.mode = ModeRootless
	recorded := []wire.PublishedPort{{Proto: wire.TCP, HostPort: 80, IP: netip.MustParseAddr("10.200.1.2"), TargetPort: 80}}
	require.NoError(t, d.store.Update(func(tx *state.Tx) error { tx.PutPort(recorded[0]); return nil }))
	require.NoError(t, d.openPorts(recorded))
	_, err := d.publishPort(context.Background(), publish(t, "tcp *:8080 10.200.1.2:80"))
	require.ErrorIs(t, err, wire.Unsupported)
	require.ErrorContains(t, err, "rootless")
	require.Empty(t, portList(t, d))
	require.Equal(t, recorded, recordedPorts(t, d), "the next run may have a host again")
}

func TestPortsAreBounded(t *testing.T) {
	d := newParts(t)
	require.NoError(t, d.openPorts(nil))
	to := netip.MustParseAddrPort("10.200.1.2:80")
	for i := range maxPorts {
		require.NoError(t, d.ports.claim(hostPort{wire.TCP, netip.Addr{}, uint16(i + 1)}, to))
	}
	err := d.ports.claim(hostPort{wire.UDP, netip.Addr{}, 1}, to)
	require.ErrorIs(t, err, wire.Exhausted)
	require.ErrorContains(t, err, "exhausted")
}

func TestADevicesPortIsNonePublished(t *testing.T) {
	b := newAttachBed(t)
	b.attach(newBox(t))
	to := b.leased()[0]
	for _, port := range []uint16{51821, 51999} {
		b.setup(wire.PublishPort{Proto: wire.UDP, HostPort: port, IP: to, TargetPort: 53})
	}
	b.setup(wire.PublishPort{Proto: wire.TCP, HostPort: 51822, IP: to, TargetPort: 53})
	_, err := b.call(wire.SetupGlobalOverlay{Deployment: "t", InstanceID: "1", ClusterCIDR: "10.200.0.0/16,fd00:200::/48", SliceCIDR: "10.200.1.0/24,fd00:200:0:1::/64", WGPort: 51999})
	require.ErrorIs(t, err, wire.Conflict)
	require.Equal(t, "wg_port", fieldOf(err))
	require.EqualValues(t, 51822, b.setup(wire.SetupServiceOverlay{Service: "db", Mode: wire.ModeDedicated}).(wire.ServiceOverlay).WGPort)
}
