package daemon_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// A deed is an operation with what goes before it. Both may be done again.
type deed struct {
	name    string
	prepare func(h *host, c *container) error
	do      func(h *host, c *container) error
}

var (
	attachWeb = func(h *host, c *container) error {
		_, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web"})
		return err
	}
	attachBoth = func(h *host, c *container) error {
		_, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web", JoinGlobal: true})
		return err
	}
	detach      = func(h *host, c *container) error { return h.DetachContainer(h.ctx, c.handle()) }
	attachGuest = func(h *host, c *container) error {
		_, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"})
		return err
	}
	detachGuest = func(h *host, c *container) error {
		return h.DetachContainer(h.ctx, wire.GuestManaged{ID: "vm"})
	}
	setupService = func(name string, mode wire.Mode) func(h *host, c *container) error {
		return func(h *host, c *container) error {
			_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: name, Mode: mode})
			return err
		}
	}
	teardownService = func(name string) func(h *host, c *container) error {
		return func(h *host, c *container) error { return h.TeardownServiceOverlay(h.ctx, name) }
	}
	setupGlobal = func(h *host, c *container) error {
		_, err := h.SetupGlobalOverlay(h.ctx, globalOf(1))
		return err
	}
	teardownGlobal = func(h *host, c *container) error { return h.TeardownGlobalOverlay(h.ctx) }

	aPeer = wire.PeerSpec{PublicKey: "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", Endpoint: "192.0.2.9:51420", AllowedIPs: "10.200.9.0/24,fd00:200:0:9::/64"}

	addPeer    = func(h *host, c *container) error { return h.AddPeer(h.ctx, aPeer, nil) }
	removePeer = func(h *host, c *container) error { return h.RemovePeer(h.ctx, aPeer.PublicKey, nil) }
	aPort      = func(h *host) wire.PublishPort {
		return wire.PublishPort{Proto: wire.TCP, HostPort: 8080, IP: family(h.standing[0].at, false), TargetPort: echoPort}
	}
	publish = func(h *host, c *container) error {
		_, err := h.PublishPort(h.ctx, aPort(h))
		return err
	}
	unpublish = func(h *host, c *container) error {
		return h.UnpublishPort(h.ctx, wire.UnpublishPort{Proto: wire.TCP, HostPort: 8080})
	}
	register = func(h *host, c *container) error {
		return h.RegisterDNS(h.ctx, wire.RegisterDNS{Name: "x", IP: netip.MustParseAddr("10.200.9.9")})
	}
	unregister = func(h *host, c *container) error { return h.UnregisterDNS(h.ctx, "x") }
)

func all(deeds ...func(h *host, c *container) error) func(h *host, c *container) error {
	return func(h *host, c *container) error {
		for _, do := range deeds {
			if err := do(h, c); err != nil {
				return err
			}
		}
		return nil
	}
}

var deeds = []deed{
	{"attach", detach, attachWeb},
	{"attach with the node's network", detach, attachBoth},
	{"detach", attachBoth, detach},
	{"attach a guest", detachGuest, attachGuest},
	{"detach a guest", attachGuest, detachGuest},
	{"set up a shared service", teardownService("new"), setupService("new", "shared")},
	{"tear down a shared service", setupService("new", "shared"), teardownService("new")},
	{"set up a dedicated service", teardownService("own"), setupService("own", "dedicated")},
	{"tear down a dedicated service", setupService("own", "dedicated"), teardownService("own")},
	{"tear down a service with a container", all(detach, setupService("new", "shared"), func(h *host, c *container) error {
		_, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "new"})
		return err
	}), teardownService("new")},
	{"add a peer", removePeer, addPeer},
	{"remove a peer", addPeer, removePeer},
	{"publish a port", unpublish, publish},
	{"unpublish a port", publish, unpublish},
	{"register a name", unregister, register},
	{"unregister a name", register, unregister},
	{"tear down the node's network", all(detach, detachGuest, setupGlobal, attachBoth, attachGuest, addPeer), teardownGlobal},
	{"set up the node's network", all(detach, detachGuest, teardownGlobal), setupGlobal},
}

func TestE2EADaemonKilledAtAnyPointConverges(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fresh := h.listing()
	h.setupGlobal(1)
	h.setupService("web", "shared")
	h.setupService("still", "shared")
	a, b := newContainer(t, "a"), newContainer(t, "b")
	h.attach(a, "still", false)
	h.attach(b, "still", false)
	a.echo()
	c := newContainer(t, "c")
	h.standing = []*container{a, b}
	talk := b.stream(netip.AddrPortFrom(family(a.at, false), echoPort))

	kills := 0
	seen := make(map[string]bool)
	for _, deed := range deeds {
		require.NoError(t, deed.prepare(h, c), "prepare to %s", deed.name)
		h.tell("forget")
		require.NoError(t, deed.do(h, c), "%s", deed.name)
		points := h.points()
		done := census(h.verify(a, b, c))
		for _, point := range points {
			// Before a step is much the same as after the one before it.
			if !*every && (seen[point] || strings.HasSuffix(point, ":before")) {
				continue
			}
			seen[point] = true
			what := fmt.Sprintf("%s, killed at %s", deed.name, point)
			require.NoError(t, deed.prepare(h, c), "%s: prepare", what)
			h.tell("arm " + point)
			err := deed.do(h, c)
			require.ErrorIs(t, err, client.ErrLost, what)
			require.True(t, h.killed(), what)
			kills++
			require.NoError(t, h.tryStart(), what)

			h.noting(what, func() { h.verify(a, b, c) })
			require.NoError(t, deed.do(h, c), "%s: once more", what)
			h.noting(what, func() {
				require.Equal(t, done, census(h.verify(a, b, c)), "afterwards there is not the same as if it had not been killed")
			})
		}
	}
	t.Logf("killed %d times", kills)

	_, err := talk.end()
	require.NoError(t, err, "a connection between two containers that nothing was done to")
	require.NoError(t, all(detach, detachGuest, removePeer, unpublish, unregister,
		teardownService("new"), teardownService("own"), teardownService("web"), teardownService("still"), teardownGlobal)(h, c))
	require.Equal(t, fresh, h.listing())
}

// A daemon that is killed while it repairs what an earlier one left repairs that
// too, the next time.
func TestE2EADaemonKilledWhileItRepairsConverges(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	h.setupService("own", "dedicated")
	a, c := newContainer(t, "a"), newContainer(t, "c")
	h.attach(a, "web", true)
	h.attach(c, "own", false)
	require.NoError(t, attachGuest(h, nil))
	require.NoError(t, addPeer(h, nil))
	want := census(h.verify(a, c))

	// Everything the daemon made is gone, but for what is recorded.
	wreck := func() {
		h.kill()
		for name := range h.ours() {
			h.ns.Command("ip", "link", "delete", name).Run() // a device is gone with the daemon
		}
		h.run("nft", "flush", "ruleset")
	}
	wreck()
	h.start()
	points := h.points()
	h.noting("repair", func() { require.Equal(t, want, census(h.verify(a, c))) })
	kills := 0
	for _, point := range points {
		if !*every && strings.HasSuffix(point, ":before") {
			continue
		}
		kills++
		what := "repair, killed at " + point
		wreck()
		h.order.Arm = point
		require.Error(t, h.tryStart(), what)
		require.True(t, h.killed(), what)
		h.order.Arm = ""
		require.NoError(t, h.tryStart(), what)
		h.noting(what, func() { require.Equal(t, want, census(h.verify(a, c))) })
	}
	t.Logf("killed %d times", kills)
}

// census counts what there is. Which address a container has may change.
func census(f facts) map[string]int {
	n := map[string]int{
		"services":    len(f.Services),
		"attachments": len(f.Attachments),
		"peers":       len(f.Peers),
		"records":     len(f.Records),
		"ports":       len(f.Ports),
	}
	for _, l := range f.Leases {
		n["leases of kind "+l.Kind]++
	}
	if f.Status.Interface != "" {
		n["global"] = 1
	}
	return n
}

func TestE2EADaemonKilledAmidFiftyAttachesConverges(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	h.setupGlobal(1)
	_, err := h.SetupServiceOverlay(h.ctx, wire.SetupServiceOverlay{Service: "web", Mode: "shared", Subnet: "10.200.128.0/22,fd00:200:0:8000::/64"})
	require.NoError(t, err)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	h.attach(a, "web", false)
	h.attach(b, "web", false)
	a.echo()
	talk := b.stream(netip.AddrPortFrom(family(a.at, false), echoPort))
	containers := make([]*container, 50)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprint("c-", i))
	}
	everyone := append([]*container{a, b}, containers...)

	for round := range *rounds {
		answered := make([]bool, len(containers))
		var wait sync.WaitGroup
		// The kill comes when so many have been answered, which is another number each
		// time.
		var mu sync.Mutex
		after := 1 + round*7%len(containers)
		for i, c := range containers {
			wait.Go(func() {
				_, err := h.AttachContainer(h.ctx, wire.AttachContainer{Handle: c.handle(), Service: "web"})
				mu.Lock()
				defer mu.Unlock()
				if answered[i] = err == nil; answered[i] {
					if after--; after == 0 {
						h.process.Process.Kill()
					}
				}
			})
			if round%7 == 6 && i == len(containers)/2 {
				h.process.Process.Kill() // before many were answered
			}
		}
		wait.Wait()
		h.kill()
		h.start()
		f := h.verify(everyone...)
		attached := make(map[wire.Handle]bool)
		for _, at := range f.Attachments {
			require.False(t, attached[at.Handle], "round %d: %v is attached twice", round, at.Handle)
			attached[at.Handle] = true
		}
		require.True(t, attached[a.handle()] && attached[b.handle()], "round %d: who was attached before", round)
		for i, c := range containers {
			if answered[i] {
				require.True(t, attached[c.handle()], "round %d: %s was attached, and is no longer", round, c.name)
			}
		}
		for _, c := range containers {
			h.attach(c, "web", false)
		}
		f = h.verify(everyone...)
		require.Len(t, f.Attachments, len(everyone), "round %d", round)
		require.NoError(t, containers[round%len(containers)].say("tcp", netip.AddrPortFrom(family(a.at, false), echoPort)))
		for _, c := range containers {
			h.detach(c)
		}
		h.verify(everyone...)
	}
	_, err = talk.end()
	require.NoError(t, err, "the connection between the containers attached before")
}
