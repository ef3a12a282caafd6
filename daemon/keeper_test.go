package daemon

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// soon waits for what happens by itself.
func soon(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !what(); time.Sleep(2 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "it never happened")
	}
}

func (b *attachBed) count() int { return len(b.d.attachments.records()) }

func TestAContainerThatEndsIsDetached(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	b.attach(x)
	b.attach(y)
	x.end(t)
	soon(t, func() bool { return b.count() == 1 && len(b.leased()) == 4 })
	b.agree(y)
	b.detach(x)
	y.end(t)
	soon(t, func() bool { return len(b.leased()) == 0 })
	soon(t, func() bool {
		b.d.attachments.mu.RLock()
		defer b.d.attachments.mu.RUnlock()
		return len(b.d.attachments.of) == 0
	})
	b.isEmpty()
}

func TestAContainerOutlivesTheProcessItWasAttachedBy(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	second := &box{ns: x.ns, pid: x.run(t)}
	b.attach(x)
	p, err := os.FindProcess(int(x.pid))
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	_, err = p.Wait()
	require.NoError(t, err)

	b.d.lookAt(b.d.attachments.all())
	b.agree(x)
	b.restart()
	b.agree(x)
	b.attach(second)
	b.agree(second)
}

func TestACableThatWasRemovedIsLaidAnew(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	got := b.attach(x)
	whole := func() bool {
		a := b.d.attachments.records()[0]
		_, err0 := b.d.host.LinkByName(a.Link)
		_, err1 := b.d.host.LinkByName(a.GlobalLink)
		return err0 == nil && err1 == nil && len(links(t, x.ns)) == 2
	}
	for _, remove := range []func(){
		func() { require.NoError(t, b.d.unplug(b.d.attachments.records()[0].Link)) },
		func() { require.NoError(t, b.d.unplug(b.d.attachments.records()[0].GlobalLink)) },
		func() { ipJSON(t, x.ns, "link", "del", "eth0") },
	} {
		remove()
		soon(t, whole)
		require.Equal(t, got, b.attach(x))
		x.pings(t, got.Gateway)
		b.agree(x)
	}
}

func TestACableThatWasTakenOffItsBridgeIsPutBack(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	got := b.attach(x)
	a := b.d.attachments.records()[0]
	ipJSON(t, b.host, "link", "set", a.Link, "nomaster")
	bridge := b.d.lookService("web").bridge.Index
	soon(t, func() bool { l, err := b.d.host.LinkByName(a.Link); return err == nil && l.Master == bridge })
	x.pings(t, got.Gateway)
}

// TestWhatWasNoNewsIsFoundByLooking is of events that were lost: nobody watches.
func TestWhatWasNoNewsIsFoundByLooking(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	b.attach(x)
	got := b.attach(y)
	b.d.attachments.mu.Lock()
	known := b.d.attachments.links
	b.d.attachments.links = nil // which is where events are looked up
	b.d.attachments.mu.Unlock()
	x.end(t)
	ipJSON(t, y.ns, "link", "del", "eth0")
	soon(t, func() bool { return len(b.cableNames()) == 1 })
	require.Equal(t, 2, b.count())
	b.d.attachments.mu.Lock()
	b.d.attachments.links = known
	b.d.attachments.mu.Unlock()

	b.d.lookForDamage()
	soon(t, func() bool { return b.count() == 1 && len(b.cableNames()) == 2 })
	require.Equal(t, got, b.attach(y))
	b.agree(y)
}

// TestANamespaceIsNotTakenForAnotherWithItsInode has a container end and another
// one begin before the daemon knows.
func TestANamespaceIsNotTakenForAnotherWithItsInode(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "api"})
	x := newBox(t)
	was := b.attach(x)
	old := b.d.attachments.records()[0]
	at, err := b.d.attachments.claim(context.Background(), containerIn(old)) // nobody sees to its end
	require.NoError(t, err)
	x.end(t)
	soon(t, func() bool { return len(b.cableNames()) == 0 })

	y := newBox(t)
	ns, err := b.d.namespaceOf(y.pid)
	require.NoError(t, err)
	defer ns.Close()
	if ns.ID().Inode != old.Namespace {
		b.d.attachments.yield(at)
		t.Skipf("the kernel gave inode %d to the next namespace, and not %d again", ns.ID().Inode, old.Namespace)
	}
	r := y.request()
	r.Service = "api"
	done := make(chan error, 1)
	go func() {
		_, err := b.d.attach(context.Background(), r)
		done <- err
	}()
	b.d.attachments.yield(at)
	require.NoError(t, <-done, "it is no container of the other service")
	require.NotContains(t, addressesOf(t, y.ns), was.IP.String())
	b.agree(y)
}

// TestConnectionsLiveOnWhileTheDaemonRestarts has two containers talk all the while.
func TestConnectionsLiveOnWhileTheDaemonRestarts(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	b.attach(x)
	to := b.attach(y)
	var l net.Listener
	var err error
	y.ns.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(to.IP, 0).String()) })
	require.NoError(t, err)
	defer l.Close()
	var c net.Conn
	x.ns.Do(func() { c, err = net.Dial("tcp", l.Addr().String()) })
	require.NoError(t, err)
	defer c.Close()
	s, err := l.Accept()
	require.NoError(t, err)
	defer s.Close()
	say := func(word string) {
		require.NoError(t, s.SetDeadline(time.Now().Add(30*time.Second)))
		_, err := c.Write([]byte(word))
		require.NoError(t, err)
		got := make([]byte, len(word))
		_, err = s.Read(got)
		require.NoError(t, err)
		require.Equal(t, word, string(got))
	}
	say("before")
	before := ipJSON(t, x.ns, "link", "show")
	b.stop()
	say("while")
	b.start()
	say("after")
	require.Equal(t, before, ipJSON(t, x.ns, "link", "show"))
	b.agree(x, y)
}

func TestARestartMendsAndCleans(t *testing.T) {
	b := newAttachBed(t)
	whole, broken, dead, rebooted := newBox(t), newBox(t), newBox(t), newBox(t)
	var want wire.Attached
	for _, x := range []*box{whole, broken, dead, rebooted} {
		got := b.attach(x)
		if x == broken {
			want = got
		}
	}
	guest := b.setup(wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"})
	untouched := ipJSON(t, whole.ns, "link", "show")
	for _, a := range b.d.attachments.records() {
		if a.PID == rebooted.pid {
			former := *a
			former.Boot = "another"
			require.NoError(t, b.d.store.Update(func(tx *state.Tx) error { tx.PutAttachment(former); return nil }))
		}
	}
	b.stop()
	dead.end(t)
	ipJSON(t, broken.ns, "link", "del", "eth0")
	ipJSON(t, broken.ns, "link", "del", "eth1")
	b.start()

	require.Equal(t, untouched, ipJSON(t, whole.ns, "link", "show"), "what is whole is left alone")
	require.Equal(t, want, b.attach(broken), "with the same addresses")
	require.Empty(t, links(t, rebooted.ns))
	require.Equal(t, guest, b.setup(wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"}))
	b.detachGuest("vm")
	b.agree(whole, broken)
	whole.pings(t, want.IP)
}

func (b *attachBed) detachGuest(id string) {
	b.t.Helper()
	b.setup(wire.DetachContainer{Handle: wire.GuestManaged{ID: id}})
}

// TestLostLeasesAreTakenAgain is of a lease file that was damaged, and put aside.
func TestLostLeasesAreTakenAgain(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	want := b.attach(x)
	for l := range b.d.leases.Leases(netip.Prefix{}) {
		if l.Owner.Kind == kindContainer {
			require.NoError(t, b.d.leases.Release(l))
		}
	}
	b.restart()
	b.agree(x)
	require.Equal(t, want, b.attach(x))
}

// TestContainersSurviveTheLossOfTheKey is of a folder whose node.key was deleted: the
// node is another to its peers, but what it has on this host is its own as before.
func TestContainersSurviveTheLossOfTheKey(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	want, before, cables := b.attach(x), b.d.public, b.cableNames()
	b.stop()
	require.NoError(t, os.Remove(filepath.Join(b.dir, "node.key")))
	b.start()
	require.NotEqual(t, before, b.d.public)
	require.Equal(t, cables, b.cableNames())
	b.agree(x)
	require.Equal(t, want, b.attach(x))
	require.Contains(t, b.logged.String(), "the node's key is lost")
}

func TestALinkThatIsNotOursIsLeftAlone(t *testing.T) {
	b := newAttachBed(t)
	other := testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(testnet.Port{Namespace: b.host, Name: "ovl-abcdefghi-s"}, testnet.Port{Namespace: other, Name: "eth0"}))
	b.restart()
	require.Equal(t, []string{"ovl-abcdefghi-s"}, b.cableNames())
}

// TestFiftyContainersComeAndGo has them do so at once, and expects nothing to be
// left of them: no goroutine and no descriptor either.
func TestFiftyContainersComeAndGo(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "large", Subnet: "10.200.64.0/24"})
	boxes := make([]*box, 50)
	for i := range boxes {
		boxes[i] = newBox(t)
	}
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(list)
	}
	b.attach(boxes[0])
	b.detach(boxes[0])
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for range 2 {
		var wg sync.WaitGroup
		for _, x := range boxes {
			wg.Go(func() {
				r := x.request()
				r.Service = "large"
				if _, err := b.d.attach(context.Background(), r); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b.agree(boxes...)
		for _, x := range boxes {
			wg.Go(func() {
				if err := b.d.detach(context.Background(), wire.DetachContainer{Handle: wire.LinuxPID{PID: x.pid}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	soon(t, func() bool { return len(b.d.attachments.all()) == 0 })
	b.isEmpty()
	soon(t, func() bool { return runtime.NumGoroutine() <= goroutines })
	soon(t, func() bool { return descriptors() <= fds })
}

// TestNeighboursKnowWhoHasAnAddressNow gives the address of a container to another.
func TestNeighboursKnowWhoHasAnAddressNow(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "small", Subnet: "10.200.40.0/29"})
	attach := func(x *box) wire.Attached {
		r := x.request()
		r.Service = "small"
		return b.setup(r).(wire.Attached)
	}
	asks := newBox(t)
	attach(asks)
	known := make(map[netip.Addr]bool)
	for range 6 { // one more than there are addresses left
		x := newBox(t)
		got := attach(x)
		asks.pings(t, got.IP)
		known[got.IP] = true
		b.detach(x)
	}
	require.Len(t, known, 4)
}

// TestManyEndAtOnce has more containers end at once than are looked at at once.
func TestManyEndAtOnce(t *testing.T) {
	b := newAttachBed(t)
	b.setup(wire.SetupServiceOverlay{Service: "large", Subnet: "10.200.64.0/24"})
	boxes := make([]*box, 3*atOnce)
	for i := range boxes {
		boxes[i] = newBox(t)
		r := boxes[i].request()
		r.Service = "large"
		b.setup(r)
	}
	for _, x := range boxes {
		x.end(t)
	}
	soon(t, func() bool { return len(b.leased()) == 0 && len(b.d.attachments.all()) == 0 })
	b.isEmpty()
}
