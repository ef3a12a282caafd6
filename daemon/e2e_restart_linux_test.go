package daemon_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestE2EConnectionsAcrossHostsSurviveARestart(t *testing.T) {
	p := joinHosts(t, false, 1, "web", "db")
	h := p.hosts[0]
	key := h.facts().Status.PublicKey
	for _, end := range []struct {
		how string
		do  func()
	}{{"SIGTERM", h.stop}, {"kill -9", h.kill}} {
		t.Run(end.how, func(t *testing.T) {
			begin := time.Now()
			var streams []*stream
			for _, service := range []string{"web", "db"} {
				here, there := p.containers[0][service][0], p.containers[1][service][0]
				for _, six := range []bool{false, true} {
					streams = append(streams,
						here.stream(netip.AddrPortFrom(family(there.at, six), echoPort)),
						there.stream(netip.AddrPortFrom(family(here.at, six), echoPort)))
				}
			}
			before := h.facts()
			down := time.Now()
			end.do()
			h.start()
			away := time.Since(down)
			require.Equal(t, before.text(), h.verify(p.containers[0]["web"][0], p.containers[0]["db"][0]).text())
			require.Equal(t, key, h.facts().Status.PublicKey)
			// Every stream says something more after the restart.
			for _, s := range streams {
				s.await(t, s.count()+3)
			}
			var gap time.Duration
			for _, s := range streams {
				longest, err := s.end()
				require.NoError(t, err)
				gap = max(gap, longest)
			}
			t.Logf("%s: back in %v; the longest gap in %d streams was %v, in %v", end.how, away, len(streams), gap, time.Since(begin))
			require.Less(t, gap, 2*away+10*time.Second, "TCP waits twice as long from try to try")
		})
	}
}

// everything is a host with one of each, and a container for each attachment.
func everything(t *testing.T, h *host) (web, db *container) {
	t.Helper()
	h.setupGlobal(1)
	h.setupService("web", "shared")
	h.setupService("db", "dedicated")
	web, db = newContainer(t, "web-0"), newContainer(t, "db-0")
	h.attach(web, "web", true)
	h.attach(db, "db", false)
	h.standing = []*container{web, db}
	require.NoError(t, all(attachGuest, addPeer, register, publish)(h, web))
	spec := aPeer
	spec.AllowedIPs = "10.200.10.0/24"
	require.NoError(t, h.AddPeer(h.ctx, spec, wire.ServiceScope{Service: "db"}))
	_, err := h.AllocateIP(h.ctx, "web", false)
	require.NoError(t, err)
	return web, db
}

func TestE2EAllIsThereAgainAfterARestart(t *testing.T) {
	h := startHost(t)
	web, db := everything(t, h)
	before, listing := h.verify(web, db), h.listing()
	for name, end := range map[string]func(){
		"SIGTERM":  h.stop,
		"kill -9":  h.kill,
		"shutdown": func() { require.NoError(t, h.Shutdown(h.ctx)); h.awaitEnd() },
	} {
		end()
		h.start()
		h.noting(name, func() {
			require.Equal(t, before.text(), h.verify(web, db).text())
			require.Equal(t, stable(listing), stable(h.listing()))
		})
	}
}

// After a reboot nothing on the host is as it was, and no container runs any more.
func TestE2EAfterARebootAllButTheContainersIsThereAgain(t *testing.T) {
	h := startHost(t)
	web, db := everything(t, h)
	// The port of a container goes with it, as its address will be another's; a guest
	// is not of this host, and stays.
	vm, err := h.AttachGuest(h.ctx, wire.AttachContainer{Handle: wire.GuestManaged{ID: "vm"}, Service: "web"})
	require.NoError(t, err)
	kept, err := h.PublishPort(h.ctx, wire.PublishPort{Proto: wire.UDP, HostPort: 5353, IP: vm.OverlayIP, TargetPort: 53})
	require.NoError(t, err)
	before := h.verify(web, db)
	h.kill()
	web.die()
	db.die()

	require.NoError(t, h.ns.Close())
	h.ns = testnet.NewNamespace(t)
	h.order.Boot = filepath.Join(h.dir, "boot")
	require.NoError(t, os.WriteFile(h.order.Boot, []byte("11111111-2222-4333-8444-555555555555\n"), 0o644))
	h.start()

	after := h.verify()
	require.Equal(t, before.Services, withAttachments(after.Services, before.Services))
	require.Equal(t, before.Peers, after.Peers)
	require.Equal(t, before.Records, after.Records)
	require.Equal(t, []wire.PublishedPort{kept}, after.Ports)
	require.Equal(t, before.Status.PublicKey, after.Status.PublicKey)
	require.Equal(t, before.Status.Addresses, after.Status.Addresses)
	require.Equal(t, before.Status.Interface, after.Status.Interface)
	require.Equal(t, []wire.Handle{wire.GuestManaged{ID: "vm"}}, handles(after), "who is attached")
	for _, l := range after.Leases {
		require.NotEqual(t, "container", l.Kind)
	}

	again := newContainer(t, "web-1")
	h.attach(again, "web", true)
	h.verify(again)
}

// withAttachments gives services the number of attachments that others have.
func withAttachments(all, others []wire.Service) []wire.Service {
	for i := range all {
		if i < len(others) {
			all[i].AttachmentCount = others[i].AttachmentCount
		}
	}
	return all
}

func handles(f facts) []wire.Handle {
	var all []wire.Handle
	for _, a := range f.Attachments {
		all = append(all, a.Handle)
	}
	return all
}
