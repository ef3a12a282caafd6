package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/ipam"
	"github.com/stretchr/testify/require"
)

// attachVictim in the environment makes the test binary a daemon that does what a
// client asks for and is killed at a failpoint: "folder point op argument…".
const attachVictim = "OVERLAYD_ATTACH_VICTIM"

// TestAttachVictim is the daemon that attachBed.kill starts; as a test it is none.
func TestAttachVictim(t *testing.T) {
	words := strings.Fields(os.Getenv(attachVictim))
	if len(words) == 0 {
		t.Skip("it is run by other tests")
	}
	failpoint = func(point string) {
		if point == words[1] {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				panic(err)
			}
			select {} // until it takes effect
		}
	}
	d, err := New(Config{DataDir: words[0], Mode: ModeTUN, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = d.handle(context.Background(), victimRequest(words[2], words[3:]))
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

// victimRequest is what the words of attachVictim ask for.
func victimRequest(op string, args []string) wire.Request {
	pid := func() wire.LinuxPID {
		n, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			panic(err)
		}
		return wire.LinuxPID{PID: uint32(n)}
	}
	switch op {
	case "attach":
		return wire.AttachContainer{Handle: pid(), Service: "web", JoinGlobal: true}
	case "leave":
		return wire.AttachContainer{Handle: pid(), Service: "web"}
	case "detach":
		return wire.DetachContainer{Handle: pid()}
	case "guest":
		return wire.AttachContainer{Handle: wire.GuestManaged{ID: args[0]}, Service: "web"}
	case "detach-guest":
		return wire.DetachContainer{Handle: wire.GuestManaged{ID: args[0]}}
	}
	return wire.StatusRequest{}
}

// kill has a daemon of its own do a request and be killed at a failpoint. The bed's
// is not to run meanwhile.
func (b *attachBed) kill(point, op string, args ...any) {
	b.t.Helper()
	b.stop()
	self, err := os.Executable()
	require.NoError(b.t, err)
	cmd := b.host.Command(self, "-test.run=^TestAttachVictim$")
	cmd.Env = append(os.Environ(), attachVictim+"="+strings.TrimSpace(fmt.Sprintln(append([]any{b.dir, point, op}, args...)...)))
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	var exit *exec.ExitError
	require.ErrorAs(b.t, cmd.Run(), &exit, "%s was not come by: %s", point, out)
	require.Equal(b.t, -1, exit.ExitCode(), "%s", out)
}

// points are both failpoints of each step.
func points(steps ...string) (all []string) {
	for _, s := range steps {
		all = append(all, s+":before", s+":after")
	}
	return all
}

// TestKilledAttachingItIsAttachedOrNot kills the daemon at every step, and expects
// the next one to find all or nothing, and a container that was attached before
// untouched.
func TestKilledAttachingItIsAttachedOrNot(t *testing.T) {
	b := newAttachBed(t)
	old := newBox(t)
	had := b.attach(old)
	untouched := ipJSON(t, old.ns, "link", "show")
	for _, point := range points("attach.lease", "attach.eth0", "attach.eth1", "attach.record") {
		x := newBox(t)
		b.kill(point, "attach", x.pid)
		b.start()
		if point == "attach.record:after" {
			b.agree(old, x)
		} else {
			b.agree(old)
			require.Empty(t, links(t, x.ns), point)
		}
		require.Equal(t, untouched, ipJSON(t, old.ns, "link", "show"), point)
		got := b.attach(x)
		old.pings(t, got.IP)
		b.detach(x)
		b.agree(old)
	}
	require.Equal(t, had, b.attach(old))
}

func TestKilledDetachingItIsDetachedOrNot(t *testing.T) {
	b := newAttachBed(t)
	old, x := newBox(t), newBox(t)
	b.attach(old)
	untouched := ipJSON(t, old.ns, "link", "show")
	for _, point := range points("detach.strike", "detach.host", "detach.release") {
		b.attach(x)
		b.kill(point, "detach", x.pid)
		b.start()
		if point == "detach.strike:before" {
			b.agree(old, x)
		} else {
			b.agree(old)
			require.Empty(t, links(t, x.ns), point)
		}
		require.Equal(t, untouched, ipJSON(t, old.ns, "link", "show"), point)
		b.detach(x)
		b.agree(old)
	}
}

func TestKilledJoiningAndLeavingItHasJoinedOrNot(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	apart := x.request()
	apart.JoinGlobal = false
	b.setup(apart)
	for _, point := range points("join.lease", "join.eth1", "join.record") {
		b.kill(point, "attach", x.pid)
		b.start()
		b.agree(x)
		require.Equal(t, []string{"eth0", "eth1"}, links(t, x.ns), "that it is to join is on record")
		b.setup(apart)
		b.agree(x)
		require.Equal(t, []string{"eth0"}, links(t, x.ns))
	}
	for _, point := range points("leave.strike", "leave.host", "leave.release") {
		b.attach(x)
		b.kill(point, "leave", x.pid)
		b.start()
		b.agree(x)
		b.setup(apart)
		b.agree(x)
		require.Equal(t, []string{"eth0"}, links(t, x.ns))
	}
}

func TestKilledWithAGuestItIsAttachedOrNot(t *testing.T) {
	b := newAttachBed(t)
	id := wire.GuestManaged{ID: "vm"}
	guest := wire.AttachContainer{Handle: id, Service: "web"}
	for _, point := range points("guest.lease", "guest.peer", "guest.record") {
		b.kill(point, "guest", "vm")
		b.start()
		if point != "guest.record:after" {
			b.isEmpty()
			require.Empty(t, b.d.global.load().device.peers())
		}
		c := b.setup(guest).(wire.GuestConfig)
		require.Equal(t, c.PublicKey, b.d.global.load().device.peers()[0].PublicKey)
		b.setup(wire.DetachContainer{Handle: id})
		b.isEmpty()
	}
	for _, point := range points("detach.strike", "detach.host", "detach.release") {
		want := b.setup(guest)
		b.kill(point, "detach-guest", "vm")
		b.start()
		if point == "detach.strike:before" {
			require.Equal(t, want, b.setup(guest))
		} else {
			require.Empty(t, b.d.global.load().device.peers())
			b.isEmpty()
		}
		b.setup(wire.DetachContainer{Handle: id})
		b.isEmpty()
		require.Empty(t, b.d.global.load().device.peers())
	}
}

// TestKilledWhileRepairingItIsRepaired leaves behind everything there is to repair,
// and kills the repair at every step, each time beginning with what the last one
// left.
func TestKilledWhileRepairingItIsRepaired(t *testing.T) {
	b := newAttachBed(t)
	whole, broken, dead, half := newBox(t), newBox(t), newBox(t), newBox(t)
	for _, x := range []*box{whole, broken, dead} {
		b.attach(x)
	}
	untouched := ipJSON(t, whole.ns, "link", "show")
	b.kill("attach.eth1:after", "attach", half.pid)
	dead.end(t)
	out, err := broken.ns.Command("ip", "link", "del", "eth0").CombinedOutput()
	require.NoError(t, err, "%s", out)
	// The kernel takes its time to remove what a namespace had.
	require.Eventually(t, func() bool { return len(b.cableNames()) == 5 }, 30*time.Second, 10*time.Millisecond)

	for _, point := range []string{"repair.strike:before", "repair.strike:after"} {
		b.kill(point, "status")
	}
	for _, point := range slices.Concat(points("repair.host", "repair.leases"), points("mend.eth0")[:1]) {
		b.kill(point, "status")
	}
	b.start()
	b.agree(whole, broken)
	require.Equal(t, untouched, ipJSON(t, whole.ns, "link", "show"))
	require.Empty(t, links(t, half.ns))
	whole.pings(t, b.attach(broken).IP)
}

// TestALinkThatHadNoAliasYetIsRemoved is of a daemon killed between the making of a
// link and its alias.
func TestALinkThatHadNoAliasYetIsRemoved(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	b.kill("attach.eth0:before", "attach", x.pid)
	name := b.leaseLabel(labelEth0)
	require.NoError(t, testnet.Veth(testnet.Port{Namespace: b.host, Name: name}, testnet.Port{Namespace: x.ns, Name: "eth0"}))
	require.NoError(t, testnet.Veth(testnet.Port{Namespace: b.host, Name: "ovl-foreign00-s"}, testnet.Port{Namespace: x.ns, Name: "other"}))
	b.start()
	require.Equal(t, []string{"ovl-foreign00-s"}, b.cableNames(), "what is not ours stays")
	require.Equal(t, []string{"other"}, links(t, x.ns))
	b.attach(x)
}

// leaseLabel is a label of a container's lease. The daemon does not run.
func (b *attachBed) leaseLabel(label string) (value string) {
	b.t.Helper()
	leases, err := ipam.Open(filepath.Join(b.dir, "leases.db"), ipam.Config{})
	require.NoError(b.t, err)
	for l := range leases.Leases(netip.Prefix{}) {
		if l.Owner.Kind == kindContainer {
			value = l.Owner.Labels[label]
		}
	}
	require.NoError(b.t, leases.Close())
	require.NotEmpty(b.t, value)
	return value
}
