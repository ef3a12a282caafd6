package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

func TestAContainerIsOnTheOverlay(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	web := b.d.lookService("web")

	got := b.attach(x)
	require.Equal(t, first(got.Addresses), got.IP)
	require.True(t, web.Subnets[0].Contains(got.IP))
	require.Equal(t, web.gateways[0], got.Gateway)
	require.EqualValues(t, web.Subnets[0].Bits(), got.PrefixLen)
	require.EqualValues(t, 1420, got.MTU)
	require.Equal(t, "eth0", got.Interface)
	require.Equal(t, web.gateways[0], got.DNSServer, "where the daemon answers, when nobody says otherwise")
	require.True(t, netip.MustParsePrefix("10.200.1.0/24").Contains(got.GlobalIP))
	require.Len(t, got.Addresses, 4, "of both families, on both networks")

	for _, l := range ipJSON(t, x.ns, "link", "show") {
		if l["ifname"] != "lo" {
			require.EqualValues(t, 1420, l["mtu"], l["ifname"])
		}
		require.Contains(t, l["flags"], "UP", l["ifname"])
	}
	require.ElementsMatch(t, []string{"eth0", "eth1"}, links(t, x.ns))
	for _, p := range got.Addresses {
		require.Contains(t, addressesOf(t, x.ns), p.Addr().String())
	}
	for _, family := range []string{"-4", "-6"} {
		routes := ipJSON(t, x.ns, family, "route", "show", "default")
		require.Len(t, routes, 1, "one default route")
		require.Equal(t, "eth0", routes[0]["dev"])
	}

	other := b.attach(y)
	node := b.d.global.load().Addrs
	for i, p := range other.Addresses {
		x.pings(t, p.Addr())
		require.NotEqual(t, p, got.Addresses[i])
	}
	for _, a := range slices.Concat(web.gateways, addrsOf(node)) {
		x.pings(t, a)
	}
	b.agree(x, y)

	list, err := b.d.listAttachments(wire.ListAttachments{Service: "web"})
	require.NoError(t, err)
	i := slices.IndexFunc(list.Attachments, func(a wire.Attachment) bool { return a.IP == got.IP })
	require.Equal(t, wire.LinuxPID{PID: x.pid}, list.Attachments[i].Handle)
	require.Equal(t, got.Addresses, list.Attachments[i].Addresses)
	require.Equal(t, got.GlobalIP, list.Attachments[i].GlobalIP)
	require.Contains(t, b.cableNames(), list.Attachments[i].HostInterface)
	_, err = b.d.listAttachments(wire.ListAttachments{Service: "other"})
	require.ErrorIs(t, err, wire.NotFound)
	require.Equal(t, map[string]int{"web": 2}, b.d.attachmentCount())

	b.detach(x)
	b.detach(y)
	b.isEmpty()
	require.Empty(t, links(t, x.ns))
}

// TestServicesReachEachOther is of containers that joined the node's own network, and
// so answer on another way than they are asked, on a host that looks at the source
// of what it forwards (RFC 3704 section 2.2).
func TestServicesReachEachOther(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "api"})
	x, y := newBox(t), newBox(t)
	b.attach(x)
	r := y.request()
	r.Service = "api"
	for _, p := range b.setup(r).(wire.Attached).Addresses {
		x.pings(t, p.Addr())
	}
}

func TestTheSameAttachAgainIsTheSameAttachment(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	want := b.attach(x)
	before := ipJSON(t, x.ns, "link", "show")

	require.Equal(t, want, b.attach(x))
	require.Equal(t, before, ipJSON(t, x.ns, "link", "show"), "nothing was touched")
	b.agree(x)

	// It is the namespace that is attached, whichever process stands for it.
	second := &box{ns: x.ns, pid: x.run(t)}
	require.Equal(t, want, b.attach(second))
	require.Equal(t, before, ipJSON(t, x.ns, "link", "show"))
	b.agree(second)
	b.detach(x)
	b.isEmpty()
	b.detach(x)
	b.detach(second)
}

func TestARepeatedAttachIsWhatItAsksFor(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	want := b.attach(x)

	r := x.request()
	r.JoinGlobal = false
	got := b.setup(r).(wire.Attached)
	require.Equal(t, want.IP, got.IP)
	require.False(t, got.GlobalIP.IsValid())
	require.Equal(t, []string{"eth0"}, links(t, x.ns))
	b.agree(x)

	require.Equal(t, want, b.attach(x), "with its last address on the node's own network")
	b.agree(x)
}

func TestARepeatedAttachMendsWhatIsBroken(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	want := b.attach(x)
	for _, damage := range [][]string{
		{"ip", "link", "set", "eth0", "down"},
		{"ip", "addr", "flush", "dev", "eth0"},
		{"ip", "route", "del", "default"},
		{"ip", "link", "set", "eth1", "mtu", "1300"},
		{"ip", "link", "del", "eth1"},
	} {
		out, err := x.ns.Command(damage[0], damage[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, b.attach(x), damage)
		x.pings(t, want.Gateway)
		b.agree(x)
	}
}

func TestAContainerOfAnotherServiceIsRefused(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "api"})
	x := newBox(t)
	want := b.attach(x)
	r := x.request()
	r.Service = "api"
	_, err := b.call(r)
	require.ErrorIs(t, err, wire.Conflict)
	require.ErrorContains(t, err, `attached to service "web"`)
	require.Equal(t, want, b.attach(x))
	b.agree(x)
}

func TestWhatIsNoContainerIsRefused(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	zombie := exec.Command("true")
	require.NoError(t, zombie.Start())
	defer zombie.Wait()
	soon(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", zombie.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") Z ")
	})
	pid := func(n int) wire.AttachContainer {
		return wire.AttachContainer{Handle: wire.LinuxPID{PID: uint32(n)}, Service: "web"}
	}
	with := func(change func(*wire.AttachContainer)) wire.AttachContainer {
		r := x.request()
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		r     wire.AttachContainer
		code  wire.Code
		field string
		says  string
	}{
		"no process":             {pid(0), wire.InvalidRequest, "handle.pid", "0 is no process"},
		"a dead process":         {pid(dead.Process.Pid), wire.NotFound, "handle.pid", "no process"},
		"a zombie":               {pid(zombie.Process.Pid), wire.NotFound, "handle.pid", "ended"},
		"a PID out of range":     {pid(1<<32 - 1), wire.NotFound, "handle.pid", "no process"},
		"the first process":      {pid(1), wire.InvalidRequest, "handle.pid", "never a container"},
		"a Windows container":    {with(func(r *wire.AttachContainer) { r.Handle = wire.WindowsContainer{ContainerID: "c"} }), wire.Unsupported, "handle.platform", "Windows"},
		"nothing":                {with(func(r *wire.AttachContainer) { r.Handle = nil }), wire.InvalidRequest, "handle", ""},
		"an unknown service":     {with(func(r *wire.AttachContainer) { r.Service = "nope" }), wire.NotFound, "service", `service "nope" is not set up: send setup_service_overlay first`},
		"no service":             {with(func(r *wire.AttachContainer) { r.Service = "" }), "", "", ""},
		"a huge service":         {with(func(r *wire.AttachContainer) { r.Service = strings.Repeat("x", 1<<20) }), "", "", ""},
		"a key of no guest":      {with(func(r *wire.AttachContainer) { r.PublicKey = "AAAA" }), wire.InvalidRequest, "public_key", "guest"},
		"a multicast DNS server": {with(func(r *wire.AttachContainer) { r.DNSServer = netip.MustParseAddr("ff02::1") }), wire.InvalidRequest, "dns_server", "no address of a server"},
		"DNS server 0.0.0.0":     {with(func(r *wire.AttachContainer) { r.DNSServer = netip.MustParseAddr("0.0.0.0") }), wire.InvalidRequest, "dns_server", "no address of a server"},
		"a domain of two lines":  {with(func(r *wire.AttachContainer) { r.DNSDomain = "a\nnameserver 6.6.6.6" }), wire.InvalidRequest, "dns_domain", "no domain"},
		"a domain with no label": {with(func(r *wire.AttachContainer) { r.DNSDomain = "a..b" }), wire.InvalidRequest, "dns_domain", "no domain"},
		"a domain too long":      {with(func(r *wire.AttachContainer) { r.DNSDomain = strings.Repeat("a.", 1<<19) }), wire.InvalidRequest, "dns_domain", "no domain"},
	} {
		_, err := b.call(c.r)
		require.Error(t, err, name)
		e := reply(err)
		require.Less(t, len(e.Message), 1024, name)
		if c.code == "" {
			require.Contains(t, []wire.Code{wire.InvalidRequest, wire.NotFound}, e.Code, name)
			continue
		}
		require.Equal(t, c.code, e.Code, "%s: %s", name, e.Message)
		require.Equal(t, c.field, e.Field, "%s: %s", name, e.Message)
		require.Contains(t, e.Message, c.says, name)
	}
	b.isEmpty()
	require.Empty(t, links(t, x.ns))
	require.Empty(t, b.d.node.load().DNSServer)
}

func TestTheProcessesOfTheDaemonsOwnNamespaceAreNoContainer(t *testing.T) {
	b := newAttachBed(t)
	cmd := b.host.Command("sleep", "infinity")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	x := &box{ns: b.host, pid: uint32(cmd.Process.Pid)}
	want, err := os.Readlink(b.host.Path())
	require.NoError(t, err)
	soon(t, func() bool {
		is, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", x.pid))
		return err == nil && is == want
	})
	_, err = b.call(x.request())
	require.ErrorIs(t, err, wire.InvalidRequest)
	require.ErrorContains(t, err, "handle.pid")
}

func TestWhatIsSaidOfNamesIsRemembered(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	r := x.request()
	r.DNSServer, r.DNSDomain = netip.MustParseAddr("10.200.7.1"), "prod.local"
	require.Equal(t, r.DNSServer, b.setup(r).(wire.Attached).DNSServer)
	require.Equal(t, r.DNSServer, b.attach(x).DNSServer, "the same without")
	b.restart()
	require.Equal(t, r.DNSServer, b.attach(y).DNSServer)
	other := y.request()
	other.DNSServer = netip.MustParseAddr("10.200.7.2")
	require.Equal(t, other.DNSServer, b.setup(other).(wire.Attached).DNSServer)
	require.Equal(t, r.DNSServer, b.attach(x).DNSServer, "what was said of another is for those to come")
	other.DNSServer = r.DNSServer
	b.setup(other)
	guest := b.setup(wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"}).(wire.GuestConfig)
	require.Equal(t, r.DNSServer, guest.DNSServer)
	require.Equal(t, "prod.local", guest.DNSDomain)
}

func TestDetachingWhatIsNotAttachedIsDone(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	for _, h := range []wire.Handle{
		wire.LinuxPID{PID: x.pid}, wire.LinuxPID{PID: 1}, wire.LinuxPID{PID: 1<<32 - 1},
		wire.GuestManaged{ID: "unknown"}, wire.WindowsContainer{ContainerID: "c"},
	} {
		b.setup(wire.DetachContainer{Handle: h})
	}
	for field, h := range map[string]wire.Handle{
		"handle.pid": wire.LinuxPID{}, "handle.id": wire.GuestManaged{ID: strings.Repeat("x", 1<<20)}, "handle": nil,
	} {
		_, err := b.call(wire.DetachContainer{Handle: h})
		require.Equal(t, wire.InvalidRequest, reply(err).Code)
		require.Equal(t, field, reply(err).Field)
	}
	b.isEmpty()
}

func TestAContainerIsDetachedByAPIDThatEnded(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	keeper := x.run(t)
	b.attach(x)
	p, err := os.FindProcess(int(x.pid))
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	_, err = p.Wait()
	require.NoError(t, err)
	require.NotZero(t, keeper)
	b.agree(x)
	b.detach(x)
	b.isEmpty()
	require.Empty(t, links(t, x.ns))
}

func TestManyClientsAttachOneContainerOnce(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	answers := make([]wire.Attached, 16)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			resp, err := b.d.attach(context.Background(), x.request())
			if err != nil {
				t.Error(err)
				return
			}
			answers[i] = resp.(wire.Attached)
		})
	}
	wg.Wait()
	for _, a := range answers {
		require.Equal(t, answers[0], a)
	}
	b.agree(x)
	for range 16 {
		wg.Go(func() {
			if err := b.d.detach(context.Background(), wire.DetachContainer{Handle: wire.LinuxPID{PID: x.pid}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.isEmpty()
}

func TestAWaitingClientGivesUpInTime(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	b.attach(x)
	at, err := b.d.attachments.claim(context.Background(), containerIn(b.d.attachments.records()[0]))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = b.d.attach(ctx, x.request())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, wire.Timeout, reply(err).Code)
	require.Equal(t, wire.Timeout, reply(b.d.detach(ctx, wire.DetachContainer{Handle: wire.LinuxPID{PID: x.pid}})).Code)
	b.d.attachments.yield(at)
	b.agree(x)
}

func TestThereIsABoundOfAttachments(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	for i := range maxAttachments {
		c := container{guest: fmt.Sprint(i)}
		b.d.attachments.of[c] = &attachment{container: c}
	}
	_, err := b.call(x.request())
	require.Equal(t, wire.Exhausted, reply(err).Code)
	require.ErrorContains(t, err, "16384")
	clear(b.d.attachments.of)
	b.attach(x)
}

func TestAServiceHasAsManyContainersAsAddresses(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "small", Subnet: "10.200.40.0/29"})
	var last error
	n := 0
	for ; last == nil && n < 10; n++ {
		r := newBox(t).request()
		r.Service = "small"
		_, last = b.call(r)
	}
	require.Equal(t, 6, n, "five, besides network, gateway and broadcast")
	require.Equal(t, wire.Exhausted, reply(last).Code)
	require.ErrorContains(t, last, "exhausted")
	require.Len(t, b.cableNames(), 10)
}

// TestAFailureHalfWayLeavesNothing makes each step of an attach fail, by what makes
// such steps fail.
func TestAFailureHalfWayLeavesNothing(t *testing.T) {
	ip := func(x *box, args ...string) {
		out, err := x.ns.Command("ip", args...).CombinedOutput()
		if err != nil {
			panic(fmt.Sprintf("ip %v: %s", args, out))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	for name, c := range map[string]struct {
		at    string // the failpoint at which harm is done
		harm  func(b *attachBed, x *box)
		after func(b *attachBed, x *box)
		code  wire.Code
		says  string
	}{
		"an interface in eth0's way": {"attach.lease:before",
			func(b *attachBed, x *box) { ip(x, "link", "add", "eth0", "type", "bridge") },
			func(b *attachBed, x *box) { ip(x, "link", "del", "eth0") }, wire.Conflict, "eth0"},
		"an interface in eth1's way": {"attach.eth0:after",
			func(b *attachBed, x *box) { ip(x, "link", "add", "eth1", "type", "bridge") },
			func(b *attachBed, x *box) { ip(x, "link", "del", "eth1") }, wire.Conflict, "eth1"},
		"a default route in the way": {"attach.lease:after",
			func(b *attachBed, x *box) {
				ip(x, "link", "add", "other", "type", "bridge")
				ip(x, "link", "set", "other", "up")
				ip(x, "route", "add", "default", "dev", "other")
			},
			func(b *attachBed, x *box) { ip(x, "link", "del", "other") }, "", ""},
		"the end of the container": {"attach.eth0:after",
			func(b *attachBed, x *box) { ip(x, "link", "del", "eth0") },
			func(b *attachBed, x *box) {}, "", ""},
		"the client's end after the lease": {"attach.lease:after",
			func(b *attachBed, x *box) { cancel() }, nil, wire.ShuttingDown, ""},
		"the client's end before the record": {"attach.eth1:after",
			func(b *attachBed, x *box) { cancel() }, nil, wire.ShuttingDown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newAttachBed(t)
			x := newBox(t)
			ctx, cancel = context.WithCancel(context.Background())
			defer cancel()
			failpoint = func(point string) {
				if point == c.at {
					c.harm(b, x)
				}
			}
			defer func() { failpoint = func(string) {} }()
			_, err := b.d.attach(ctx, x.request())
			failpoint = func(string) {}
			if c.code == "" && err == nil {
				b.detach(x)
			} else {
				require.Error(t, err)
				require.Contains(t, err.Error(), c.says)
				if c.code != "" {
					require.Equal(t, c.code, reply(err).Code, "%v", err)
				}
			}
			b.isEmpty()
			if c.after != nil {
				c.after(b, x)
			}
			require.Empty(t, links(t, x.ns))
			b.attach(x)
			b.agree(x)
		})
	}
}

func TestADiskThatFailsLeavesNothing(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	failpoint = func(point string) {
		if point == "attach.record:before" {
			b.d.store.Close()
		}
	}
	_, err := b.call(x.request())
	failpoint = func(string) {}
	require.Error(t, err)
	require.ErrorContains(t, err, "record")
	require.Empty(t, b.cableNames())
	require.Empty(t, b.leased())
	require.Empty(t, links(t, x.ns))
	b.restart()
	b.isEmpty()
}

func TestAJoinWaitsForTheNodesOwnOverlay(t *testing.T) {
	b := newBareAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "web"})
	x := newBox(t)
	got := b.attach(x)
	require.False(t, got.GlobalIP.IsValid())
	require.Equal(t, []string{"eth0"}, links(t, x.ns))

	global := wire.SetupGlobalOverlay{Deployment: "t", InstanceID: "1", ClusterCIDR: "10.200.0.0/16", SliceCIDR: "10.200.1.0/24", WGPort: 51820}
	b.setup(global)
	b.agree(x)
	again := b.attach(x)
	require.True(t, again.GlobalIP.IsValid())
	require.Equal(t, got.IP, again.IP)
	x.pings(t, first(b.d.global.load().Addrs))

	b.setup(wire.TeardownGlobalOverlay{})
	require.Equal(t, []string{"eth0"}, links(t, x.ns))
	b.agree(x)
	b.setup(global)
	b.agree(x)
	x.pings(t, first(b.d.global.load().Addrs))
}

func TestATornDownServiceDetachesItsContainers(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "api"})
	x, y := newBox(t), newBox(t)
	b.attach(x)
	r := y.request()
	r.Service = "api"
	b.setup(r)
	require.NoError(t, b.d.detachAll(context.Background(), "api", "test"))
	b.agree(x)
	require.NoError(t, b.d.detachAll(context.Background(), "", "test"))
	b.isEmpty()
}

func TestContainersWaitForABridgeThatCannotBeMade(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	was := b.attach(x)
	cable := b.cableNames()
	b.stop()
	bridge := "ovl-t-1-web-b"
	for _, do := range [][]string{
		{"link", "delete", bridge},
		{"link", "add", bridge, "type", "bridge"},
		{"link", "set", bridge, "alias", "somebody else's"},
	} {
		out, err := b.host.Command("ip", do...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	b.start()
	require.NotEmpty(t, b.d.degraded()[partService("web")])
	for _, box := range []*box{x, y} {
		_, err := b.call(box.request())
		require.ErrorIs(t, err, wire.NotReady)
	}
	require.Equal(t, cable, b.cableNames(), "what there is of the container stays")
	require.NotContains(t, links(t, y.ns), "eth0")

	out, err := b.host.Command("ip", "link", "delete", bridge).CombinedOutput()
	require.NoError(t, err, "%s", out)
	b.d.mendBridges()
	require.Equal(t, was, b.attach(x))
	b.attach(y)
	b.agree(x, y)
}

func TestWhatIsLeftOfLeavingIsDoneTheNextTime(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	join := x.request()
	join.JoinGlobal = true
	alone := join
	alone.JoinGlobal = false
	b.setup(join)
	joined := len(b.leased())
	for _, point := range []string{"leave.host:before", "leave.release:before"} {
		func() {
			was := failpoint
			defer func() { failpoint = was }()
			failpoint = func(at string) {
				if at == point {
					panic(at)
				}
			}
			b.host.Do(func() {
				defer func() { require.Equal(t, point, recover()) }()
				_, err := b.d.handle(t.Context(), alone)
				t.Errorf("it was done: %v", err)
			})
		}()
		b.setup(alone)
		require.Len(t, b.cableNames(), 1)
		require.NotContains(t, links(t, x.ns), "eth1")
		b.setup(join)
		require.Len(t, b.leased(), joined)
		require.Contains(t, links(t, x.ns), "eth1")
	}
	b.detach(x)
	b.isEmpty()
}

func TestAContainerStaysOnAnOverlayThatCannotBeChanged(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	join := x.request()
	join.JoinGlobal = true
	b.setup(join)
	node := b.d.global.load().Addrs[0].Addr()
	x.pings(t, node)
	var taken net.PacketConn
	b.host.Do(func() {
		var err error
		taken, err = net.ListenPacket("udp4", ":51999")
		require.NoError(t, err)
	})
	defer taken.Close()
	_, err := b.call(wire.SetupGlobalOverlay{Deployment: "t", InstanceID: "1", ClusterCIDR: "10.200.0.0/16,fd00:200::/48", SliceCIDR: "10.200.1.0/24,fd00:200:0:1::/64", WGPort: 51999})
	require.ErrorIs(t, err, wire.Conflict)
	x.pings(t, node)
	b.agree(x)
}
