package hostnet_test

import (
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/stretchr/testify/require"
)

// A linkTale is what a WatchLinks tells.
type linkTale struct {
	t     testing.TB
	calls chan []hostnet.LinkEvent
	links map[string]hostnet.Link // by name, as told
	gone  map[string]bool
}

func watchLinks(t testing.TB, h host) *linkTale {
	t.Helper()
	w := &linkTale{t, make(chan []hostnet.LinkEvent, 1<<16), map[string]hostnet.Link{}, map[string]bool{}}
	watcher, err := h.WatchLinks(func(e []hostnet.LinkEvent) { w.calls <- e })
	require.NoError(t, err)
	t.Cleanup(watcher.Close)
	return w
}

// await hears until it is true.
func (w *linkTale) await(is func() bool) {
	w.t.Helper()
	late := time.After(20 * time.Second)
	for !is() {
		select {
		case events := <-w.calls:
			for _, e := range events {
				w.gone[e.Link.Name] = e.Gone
				w.links[e.Link.Name] = e.Link
			}
		case <-late:
			require.Fail(w.t, "not told")
		}
	}
}

func (w *linkTale) awaitGone(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.await(func() bool { return w.gone[name] })
	}
}

func TestALinkWatchTellsOfEveryLink(t *testing.T) {
	h := newHost(t)
	run(t, h.Namespace, "sh", "-ec", "ip link add before type bridge; ip link set before up")
	w := watchLinks(t, h)
	run(t, h.Namespace, "ip", "link", "add", "after", "type", "bridge")
	w.await(func() bool { return w.links["after"].Kind == "bridge" })
	run(t, h.Namespace, "ip", "link", "set", "before", "alias", "something")
	w.await(func() bool { return w.links["before"].Alias == "something" })
	run(t, h.Namespace, "ip", "link", "del", "before")
	w.awaitGone("before")
	require.Equal(t, "something", w.links["before"].Alias)
	run(t, h.Namespace, "sh", "-ec", "ip link add fleeting type bridge; ip link del fleeting")
	w.awaitGone("fleeting")
}

func TestAPortThatLeavesItsBridgeIsNotGone(t *testing.T) {
	h := newHost(t)
	run(t, h.Namespace, "sh", "-ec", "ip link add bridge0 type bridge; ip link add port0 type veth; ip link set port0 master bridge0")
	w := watchLinks(t, h)
	run(t, h.Namespace, "ip", "link", "set", "port0", "nomaster")
	run(t, h.Namespace, "ip", "link", "add", "marker", "type", "bridge")
	w.await(func() bool { return w.links["marker"].Index != 0 })
	require.False(t, w.gone["port0"])
	require.Equal(t, "veth", w.links["port0"].Kind)
	require.Zero(t, w.links["port0"].Master)
}
