package daemon_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// watch collects what happens to attachments.
func (h *host) watch(t *testing.T) <-chan wire.AttachmentChanged {
	t.Helper()
	events, err := h.Events(h.ctx, "attachment_changed")
	require.NoError(t, err)
	all := make(chan wire.AttachmentChanged, 1024)
	go func() {
		for e, err := range events {
			if err != nil {
				return
			}
			all <- e.(wire.AttachmentChanged)
		}
	}()
	return all
}

// next waits for an event about a container.
func next(t *testing.T, events <-chan wire.AttachmentChanged, c *container) wire.AttachmentChanged {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Handle == c.handle() {
				return e
			}
		case <-limit:
			require.Fail(t, "no event", "about %s", c.name)
		}
	}
}

func TestE2EAContainerThatDiesGivesItsAddressesBack(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	a, b := newContainer(t, "a"), newContainer(t, "b")
	events := h.watch(t)
	h.attach(a, "web", true)
	require.True(t, next(t, events, a).Attached)
	h.attach(b, "web", false)
	require.True(t, next(t, events, b).Attached)
	h.verify(a, b)

	begin := time.Now()
	a.die()
	e := next(t, events, a)
	took := time.Since(begin)
	t.Logf("noticed in %v: %s", took, e.Reason)
	require.False(t, e.Attached)
	require.NotEmpty(t, e.Reason)
	require.Less(t, took, 2*time.Second)
	require.Equal(t, []wire.Handle{b.handle()}, handles(h.verify(b)))

	// While no daemon runs nobody notices; the next one does.
	h.kill()
	b.die()
	h.start()
	require.Eventually(t, func() bool { return len(h.facts().Attachments) == 0 }, 3*time.Second, 20*time.Millisecond)
	h.verify()
}

func TestE2EAContainerWhoseLinkIsDeletedGetsItAgain(t *testing.T) {
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	a, b := newContainer(t, "a"), newContainer(t, "b")
	h.attach(a, "web", true)
	h.attach(b, "web", false)
	a.echo()
	before := h.verify(a, b)

	for name, l := range h.ours() {
		if l.Info.Kind == "veth" {
			h.run("ip", "link", "delete", name)
		}
	}
	awaitVerify(t, h, before, a, b)
	for _, six := range []bool{false, true} {
		require.NoError(t, b.say("tcp", netip.AddrPortFrom(family(a.at, six), echoPort)))
	}

	// From inside, too.
	_, err := a.run("ip", "link", "delete", "eth0")
	require.NoError(t, err)
	awaitVerify(t, h, before, a, b)
	require.NoError(t, b.say("tcp", netip.AddrPortFrom(family(a.at, false), echoPort)))
}

// awaitVerify waits until both ends of all links are back.
func awaitVerify(t *testing.T, h *host, before facts, containers ...*container) {
	t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
	defer cancel()
	for whole := false; !whole; {
		require.NoError(t, ctx.Err(), "the links are not back")
		whole = true
		ours := h.ours()
		for _, a := range h.facts().Attachments {
			l, ok := ours[a.HostInterface]
			whole = whole && ok && l.Master != ""
		}
		veths := 0
		for _, l := range ours {
			if l.Info.Kind == "veth" {
				veths++
			}
		}
		for _, c := range containers {
			in := c.links()
			_, eth0 := in["eth0"]
			_, eth1 := in["eth1"]
			whole = whole && eth0 && eth1 == c.at.GlobalIP.IsValid()
			veths--
			if c.at.GlobalIP.IsValid() {
				veths--
			}
		}
		whole = whole && veths == 0
	}
	require.Equal(t, before.text(), h.verify(containers...).text())
}
