package daemon_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
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

// next waits for an event about a container, for less than the half a minute after
// which a daemon looks without any news.
func next(t *testing.T, events <-chan wire.AttachmentChanged, c *container) wire.AttachmentChanged {
	t.Helper()
	limit := time.After(20 * time.Second)
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
	t.Logf("noticed in %v: %s", time.Since(begin), e.Reason)
	require.False(t, e.Attached)
	require.NotEmpty(t, e.Reason)
	require.Equal(t, []wire.Handle{b.handle()}, handles(h.verify(b)))

	// While no daemon runs nobody notices; the next one does.
	h.kill()
	b.die()
	h.start()
	require.Eventually(t, func() bool { return len(h.facts().Attachments) == 0 }, 20*time.Second, 20*time.Millisecond)
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
	ctx, cancel := context.WithTimeout(h.ctx, 20*time.Second)
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

// Whatever somebody else broke while no daemon ran, or a daemon that was killed in
// the middle of a step left half made, the next start makes whole.
func TestE2EAStartMakesWholeWhatIsBroken(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	web, db := everything(t, h)
	web.echo()
	before, listing := h.verify(web, db), stable(h.listing())
	look := func(c *container) string {
		var all string
		for _, args := range [][]string{{"-br", "addr"}, {"route"}, {"-6", "route"}} {
			out, err := c.run("ip", args...)
			require.NoError(t, err)
			all += stable(out)
		}
		return all
	}
	inside := [2]string{look(web), look(db)}
	service := h.service("web")
	var eth0, eth1 string
	for _, a := range before.Attachments {
		if a.Handle == web.handle() {
			eth0 = a.HostInterface
		}
	}
	for name, l := range h.ours() {
		if strings.Contains(l.Alias, ":eth1:") {
			eth1 = name
		}
	}
	require.NotEmpty(t, eth1)
	for _, damage := range []struct {
		in *container // nil: on the host
		do string
	}{
		{nil, "ip link set " + eth0 + " down"},
		{nil, "ip link set " + eth1 + " down"},
		{nil, "ip link set " + eth0 + " nomaster"},
		{nil, "ip link set " + eth0 + " mtu 1300"},
		{nil, "ip link delete " + eth0},
		{nil, "ip link delete " + eth1},
		{nil, "ip link set " + service.Name + " down"},
		{nil, "ip link set " + service.Name + " mtu 1300"},
		{nil, "ip link delete " + service.Name},
		{nil, "ip addr flush dev " + service.Name},
		{nil, "ip addr add 10.99.99.1/24 dev " + service.Name},
		{nil, "ip route flush dev " + eth1},
		{nil, "ip neigh flush proxy"},
		{nil, "nft flush ruleset"},
		{nil, "nft flush table inet overlayd"},
		{nil, "sysctl -qw net.ipv4.ip_forward=0"},
		{nil, "sysctl -qw net.ipv6.conf.all.forwarding=0"},
		{web, "ip link set eth0 down"},
		{web, "ip addr flush dev eth0 scope global"},
		{web, "ip route delete default"},
		{web, "ip -6 route delete default"},
		{web, "ip link set eth0 mtu 1280"},
		{web, "ip link delete eth0"},
		{web, "ip addr flush dev eth1 scope global"},
		{web, "ip route flush dev eth1"},
		{nil, "ip link add ovl-left type bridge && ip link set ovl-left alias " + h.ours()[eth0].Alias + "left"},
	} {
		h.kill()
		if damage.in == nil {
			h.run("sh", "-c", damage.do)
		} else {
			_, err := damage.in.run("sh", "-c", damage.do)
			require.NoError(t, err)
		}
		h.noting(damage.do, func() {
			h.start()
			require.Equal(t, before.text(), h.verify(web, db).text())
			if now := stable(h.listing()); now != listing {
				t.Errorf("%s: the host is not what it was: %s", damage.do, differing(listing, now))
			}
			for i, c := range []*container{web, db} {
				if now := look(c); now != inside[i] {
					t.Errorf("%s: the container is not what it was: %s", damage.do, differing(inside[i], now))
				}
			}
			for _, six := range []bool{false, true} {
				require.NoError(t, db.ping(family(web.at, six)))
			}
		})
	}
}

// differing are the lines that only one of two texts has.
func differing(was, is string) string {
	count := make(map[string]int)
	for line := range strings.Lines(was) {
		count[line]++
	}
	for line := range strings.Lines(is) {
		count[line]--
	}
	var b strings.Builder
	for line, n := range count {
		if n != 0 {
			fmt.Fprintf(&b, "\n%+d %s", -n, strings.TrimSpace(line))
		}
	}
	return b.String()
}
