package hostnet_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
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

func TestALinkWatchMissesNoRemovalWhenMessagesAreLost(t *testing.T) {
	defer hostnet.SetWatchBuffer(8 << 10)()
	h := newHost(t)
	files := openFiles(t)
	const links = 60
	script := func(format string, n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, format+"\n", i)
		}
		return s.String()
	}
	batch := func(script string) {
		cmd := h.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	batch(script("link add early%d group 5 type bridge", links))

	entered, proceed := make(chan struct{}), make(chan struct{})
	w := &linkTale{t, make(chan []hostnet.LinkEvent, 1<<16), map[string]hostnet.Link{}, map[string]bool{}}
	var once sync.Once
	watcher, err := h.WatchLinks(func(e []hostnet.LinkEvent) {
		w.calls <- e
		once.Do(func() {
			close(entered)
			<-proceed
		})
	})
	require.NoError(t, err)
	batch("link set early0 up\n")
	<-entered
	batch(script("link add late%d group 6 type bridge", links))
	batch("link del group 5\n")
	require.NotZero(t, dropped(t, h), "messages were lost")
	close(proceed)
	for i := range links {
		w.awaitGone(fmt.Sprintf("early%d", i))
		w.await(func() bool { return w.links[fmt.Sprintf("late%d", i)].Kind == "bridge" })
	}
	// And it goes on.
	batch("link del group 6\n")
	for i := range links {
		w.awaitGone(fmt.Sprintf("late%d", i))
	}
	watcher.Close()
	requireNoMoreFiles(t, files)
}

// dropped is how many messages the kernel has lost for netlink sockets of a host.
func dropped(t testing.TB, h host) (n int) {
	t.Helper()
	for _, line := range strings.Split(run(t, h.Namespace, "cat", "/proc/net/netlink"), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 8 {
			lost, err := strconv.Atoi(f[8])
			require.NoError(t, err)
			n += lost
		}
	}
	return n
}
