package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// newOnHost starts a whole daemon on the host, which is the namespace of this
// process, with a way to the outside, and makes a request of it as a client does.
func newOnHost(t testing.TB) (d *Daemon, ask func(wire.Request) wire.Response) {
	t.Helper()
	sh(t, "ip", "link", "add", "wan", "type", "veth", "peer", "name", "far")
	for _, args := range []string{"link set wan up", "link set far up", "addr add 192.0.2.10/24 dev wan", "route add default via 192.0.2.1"} {
		sh(t, "ip", strings.Fields(args)...)
	}
	d, err := New(Config{DataDir: t.TempDir(), Endpoint: t.TempDir() + "/s", Mode: ModeTUN, Logger: newParts(t).log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d, func(r wire.Request) wire.Response {
		t.Helper()
		resp, err := d.handle(context.Background(), r)
		require.NoError(t, err, "%s", r.Op())
		return resp
	}
}

// newProcess starts a process in a network namespace of its own.
func newProcess(t testing.TB) wire.LinuxPID {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return wire.LinuxPID{PID: uint32(cmd.Process.Pid)}
}

func TestExplainFollowsThePathThatPacketsTake(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d, ask := newOnHost(t)
	explain := func(text string) wire.Explanation {
		t.Helper()
		fields := strings.Fields(text)
		r := wire.Explain{Src: netip.MustParseAddr(fields[0]), Dst: netip.MustParseAddr(fields[1])}
		if len(fields) > 2 {
			proto, port, _ := strings.Cut(fields[2], "/")
			r.Proto = wire.Proto(proto)
			fmt.Sscan(port, &r.Port)
		}
		return ask(r).(wire.Explanation)
	}
	ask(wire.SetupGlobalOverlay{Deployment: "t", InstanceID: "1", ClusterCIDR: "10.200.0.0/16,fd00:200::/48", SliceCIDR: "10.200.250.0/24", WGPort: 51820})
	ask(wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeShared})
	ask(wire.SetupServiceOverlay{Service: "api", Mode: wire.ModeShared})
	ask(wire.SetupServiceOverlay{Service: "own", Mode: wire.ModeDedicated})
	a := ask(wire.AttachContainer{Handle: newProcess(t), Service: "web"}).(wire.Attached)
	b := ask(wire.AttachContainer{Handle: newProcess(t), Service: "web"}).(wire.Attached)
	c := ask(wire.AttachContainer{Handle: newProcess(t), Service: "api", JoinGlobal: true}).(wire.Attached)
	gone := ask(wire.AttachContainer{Handle: newProcess(t), Service: "own"}).(wire.Attached)
	far, silent := overlay.PublicKey{1}, overlay.PublicKey{2}
	ask(wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: far.String(), Endpoint: "192.0.2.77:51820", AllowedIPs: "10.200.7.0/24,fd00:200:0:7777::/64"}})
	ask(wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: silent.String(), AllowedIPs: "10.200.8.0/24"}})
	ask(wire.PublishPort{Proto: wire.TCP, HostPort: 8080, IP: a.IP, TargetPort: 80})

	for _, test := range []struct {
		what, packet    string
		verdict, reason string
		says            []string
	}{
		{"a container to its sibling", fmt.Sprintf("%v %v tcp/80", a.IP, b.IP), "delivered", "",
			[]string{`in service "web", on the bridge ovl-`, "through ovl-"}},
		{"a container to another service", fmt.Sprintf("%v %v udp/53", a.IP, c.IP), "delivered", "", []string{`in service "api"`}},
		{"a container to one that joined the node's network", fmt.Sprintf("%v %v", a.IP, c.GlobalIP), "delivered", "", []string{"on the node's own network"}},
		{"a container to the host", fmt.Sprintf("%v %v tcp/53", a.IP, a.Gateway), "delivered", "", []string{`this host's own address in service "web"`}},
		{"a container to a peer's", fmt.Sprintf("%v 10.200.7.9 tcp/80", a.IP), "sent", "",
			[]string{far.String(), "by its allowed 10.200.7.0/24", "never answered at 192.0.2.77:51820"}},
		{"the node to a peer's", "10.200.250.1 10.200.7.9 icmp", "sent", "", []string{far.String()}},
		{"a container to a peer nobody can call", fmt.Sprintf("%v 10.200.8.9", a.IP), "dropped", "no_endpoint", []string{"has no endpoint, and did not call yet"}},
		{"a container to nobody", fmt.Sprintf("%v 10.200.99.9", a.IP), "dropped", "no_peer", []string{"no peer of the node's device has 10.200.99.9", "add_peer"}},
		{"a container to a place in its service where nobody is", fmt.Sprintf("%v %v", a.IP, b.IP.Next()), "dropped", "no_container", []string{`service "web" that no container has`}},
		{"a container to the outside", fmt.Sprintf("%v 198.51.100.1 tcp/443", a.IP), "forwarded", "", []string{"through wan by 192.0.2.1", "is masqueraded behind"}},
		{"the outside to a published port", "198.51.100.1 192.0.2.10 tcp/8080", "delivered", "",
			[]string{"outside the overlay", fmt.Sprintf("port 8080/tcp of every address is published: it leads to %v:80", a.IP), `in service "web"`}},
		{"the outside to a port that is not published", "198.51.100.1 192.0.2.10 tcp/8081", "delivered", "", []string{"this node's own address"}},
		{"the host to its published port", "127.0.0.1 127.0.0.1 tcp/8080", "delivered", "", []string{"is published"}},
		{"the outside to a container", fmt.Sprintf("198.51.100.1 %v tcp/80", a.IP), "dropped", "filtered", []string{"not taken from outside", "publish_port"}},
		{"a peer's to a container", fmt.Sprintf("10.200.7.9 %v tcp/80", a.IP), "delivered", "", []string{"behind peer " + far.String()}},
		{"nobody to a container", fmt.Sprintf("10.200.99.9 %v", a.IP), "dropped", "no_container", []string{"nothing sends from 10.200.99.9"}},
		{"a container to a peer's by IPv6", fmt.Sprintf("%v fd00:200:0:7777::9 tcp/80", six(t, d, a.IP)), "sent", "", []string{far.String()}},
		{"a container to no way out", fmt.Sprintf("%v 2001:db8::1 tcp/80", six(t, d, a.IP)), "dropped", "no_route", []string{"the kernel has no way"}},
	} {
		e := explain(test.packet)
		var text []string
		for _, hop := range e.Path {
			require.NotEmpty(t, hop.Part)
			text = append(text, hop.Part+": "+hop.Detail)
		}
		path := strings.Join(text, "\n")
		require.Equal(t, test.verdict, e.Verdict, "%s\n%s", test.what, path)
		require.Equal(t, test.reason, e.Reason, "%s\n%s", test.what, path)
		for _, says := range test.says {
			require.Contains(t, path, says, test.what)
		}
	}

	// A dedicated service has a way of its own, and none when it is torn down.
	e := explain(fmt.Sprintf("%v %v", a.IP, gone.IP))
	require.Equal(t, "delivered", e.Verdict)
	ask(wire.TeardownServiceOverlay{Service: "own"})
	e = explain(fmt.Sprintf("%v %v", a.IP, gone.IP))
	require.Equal(t, "no_peer", e.Reason)
	require.Contains(t, e.Path[len(e.Path)-1].Detail, "may have been torn down")
	ask(wire.TeardownGlobalOverlay{})
	e = explain(fmt.Sprintf("%v 10.200.7.9", a.IP))
	require.Equal(t, "dropped", e.Verdict)
	require.Equal(t, "filtered", e.Reason, "%v", e.Path)
	require.Contains(t, e.Path[len(e.Path)-1].Detail, "not sent out by wan in the clear")
}

// six is a container's address of IPv6.
func six(t testing.TB, d *Daemon, ip netip.Addr) netip.Addr {
	t.Helper()
	list, err := d.listAttachments(wire.ListAttachments{})
	require.NoError(t, err)
	for _, a := range list.Attachments {
		for _, p := range a.Addresses {
			if a.IP == ip && p.Addr().Is6() {
				return p.Addr()
			}
		}
	}
	t.Fatalf("%v has no address of IPv6", ip)
	return netip.Addr{}
}

func TestPingSaysWhoAnsweredOrWhyNobodyDid(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d, ask := newOnHost(t)
	ask(wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16,fd00:200::/48", WGPort: 51820})
	ask(wire.SetupServiceOverlay{Service: "web", Mode: wire.ModeShared})
	a := ask(wire.AttachContainer{Handle: newProcess(t), Service: "web"}).(wire.Attached)
	for _, privileged := range []bool{true, false} { // by a raw socket, and by a datagram socket
		if !privileged {
			sh(t, "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
		}
		for _, ip := range []netip.Addr{a.IP, six(t, d, a.IP), a.Gateway, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			p := ask(wire.Ping{IP: ip}).(wire.Pong)
			require.Equal(t, ip, p.IP)
			require.Empty(t, p.Pubkey)
			require.Less(t, p.RTT, uint64(5_000_000))
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := d.handle(ctx, wire.Ping{IP: netip.MustParseAddr("10.200.99.9")})
		cancel()
		require.Contains(t, []wire.Code{wire.NotReady, wire.Timeout}, reply(err).Code, "by whether the socket is told that nobody has it")
		require.ErrorContains(t, err, "no peer of the node's device has 10.200.99.9 among its allowed IPs")
		require.Less(t, time.Since(began), pingTime)
	}
	// Where the kernel says at once that there is no way, nobody waits.
	_, err := d.handle(context.Background(), wire.Ping{IP: netip.MustParseAddr("2001:db8::1")})
	require.ErrorIs(t, err, wire.NotReady)
	require.ErrorContains(t, err, "is not reached")
	for _, ip := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("fe80::1%wan")} {
		_, err := d.handle(context.Background(), wire.Ping{IP: ip})
		require.ErrorIs(t, err, wire.InvalidRequest)
		require.Equal(t, "ip", err.(*Error).Field)
	}
}

func TestARootlessNodePingsAndExplains(t *testing.T) {
	a, b := newRootless(t), newRootless(t)
	makePeers(t, a, b)
	ask := func(d *Daemon, r wire.Request) (wire.Response, error) { return d.handle(context.Background(), r) }
	p, err := ask(a, wire.Ping{IP: netip.MustParseAddr("10.200.0.2")})
	require.NoError(t, err)
	require.Equal(t, b.global.load().device.node().PublicKey().String(), p.(wire.Pong).Pubkey)
	p, err = ask(b, wire.Ping{IP: netip.MustParseAddr("fd00:200::1")})
	require.NoError(t, err)
	require.Equal(t, a.global.load().device.node().PublicKey().String(), p.(wire.Pong).Pubkey)

	explain := func(src, dst string) (verdict, reason string) {
		e, err := ask(a, wire.Explain{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst)})
		require.NoError(t, err)
		return e.(wire.Explanation).Verdict, e.(wire.Explanation).Reason
	}
	verdict, _ := explain("10.200.0.1", "10.200.0.2")
	require.Equal(t, "sent", verdict)
	verdict, _ = explain("10.200.0.2", "10.200.0.1")
	require.Equal(t, "delivered", verdict)
	_, reason := explain("10.200.0.1", "10.200.0.3")
	require.Equal(t, "no_peer", reason)
	_, reason = explain("10.200.0.1", "192.0.2.1")
	require.Equal(t, "no_peer", reason, "a stack has no other way")

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = a.ping(ctx, wire.Ping{IP: netip.MustParseAddr("10.200.0.3")})
	require.ErrorIs(t, err, wire.NotReady)
	require.ErrorContains(t, err, "no_peer")

	none := newParts(t)
	none.mode = ModeRootless
	_, err = ask(none, wire.Ping{IP: netip.MustParseAddr("10.200.0.1")})
	require.ErrorIs(t, err, wire.NotReady)
	require.ErrorContains(t, err, "global overlay not set up")
}

func FuzzExplain(f *testing.F) {
	f.Add([]byte{10, 200, 0, 1}, []byte{10, 200, 0, 2}, "tcp", uint16(80))
	f.Add(netip.IPv6Loopback().AsSlice(), []byte{}, "icmp", uint16(0))
	f.Add(netip.MustParseAddr("fd00:200::1").AsSlice(), netip.MustParseAddr("::ffff:10.200.0.2").AsSlice(), "", uint16(53))
	d := newRootless(f)
	addTestPeer(f, d, 1, "192.0.2.7:51820", "10.200.7.0/28", "fd00:200:0:7::/64")
	f.Fuzz(func(t *testing.T, src, dst []byte, proto string, port uint16) {
		r := wire.Explain{Proto: wire.Proto(proto), Port: port}
		r.Src, _ = netip.AddrFromSlice(src)
		r.Dst, _ = netip.AddrFromSlice(dst)
		e, err := d.explain(r)
		if err != nil {
			require.ErrorIs(t, err, wire.InvalidRequest)
			require.Contains(t, []string{"src", "dst", "proto", "port"}, err.(*Error).Field)
			return
		}
		require.Contains(t, []string{"delivered", "sent", "forwarded", "dropped"}, e.Verdict)
		require.Equal(t, e.Verdict == "dropped", e.Reason != "")
		require.NotEmpty(t, e.Path)
		require.Less(t, len(e.Path), 10)
		_, err = wire.AppendFrame(nil, wire.ResponseFrame{ID: 1, Response: e})
		require.NoError(t, err)
	})
}

// TestAPingThatIsNotAnsweredSaysWhatIsKnownOfThePeer is of a rootless node, as the way
// does not matter.
func TestAPingThatIsNotAnsweredSaysWhatIsKnownOfThePeer(t *testing.T) {
	a, b := newRootless(t), newRootless(t)
	makePeers(t, a, b)
	public := a.global.load().device.node().PublicKey().String()
	silent := addTestPeer(t, a, 1, "127.0.0.1:9", "10.200.8.0/24").String()
	mute := addTestPeer(t, a, 2, "", "10.200.9.0/24").String()
	peer := b.global.load().device.node().PublicKey()
	ping := func(ip string, wait time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		_, err := a.ping(ctx, wire.Ping{IP: netip.MustParseAddr(ip)})
		return err
	}
	says := func(code wire.Code, ip string, want ...string) {
		t.Helper()
		err := ping(ip, 100*time.Millisecond)
		require.ErrorIs(t, err, code)
		for _, w := range want {
			require.ErrorContains(t, err, w)
		}
	}
	says(wire.Timeout, "10.200.8.1", "10.200.8.1 did not answer: the packet is sent: ", "10.200.8.1 is behind "+silent+" of the node's device, by its allowed 10.200.8.0/24; ",
		silent+" never answered at 127.0.0.1:9: there was no handshake with it: ", "as a peer with the public key "+public)
	says(wire.NotReady, "10.200.9.1", "the packet is dropped (no_endpoint): ", mute+" has no endpoint, and did not call yet: add_peer gives it one")
	require.NoError(t, ping("10.200.0.2", 10*time.Second))
	b.global.load().device.node().Close()
	says(wire.Timeout, "10.200.0.2", peer.String()+" is at 127.0.0.1:", "and its last handshake was ", "ago: as far as is known the peer is reached, so see there whether 10.200.0.2 is up")
	sick := map[peerID]bool{{"", peer}: true}
	a.monitor.sick.Store(&sick)
	says(wire.Timeout, "10.200.0.2", peer.String()+" does not answer at 127.0.0.1:", "its last handshake was ", "see whether the peer still runs there, and UDP reaches it")
}
