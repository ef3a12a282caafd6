package daemon_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

var (
	seed     = flag.Uint64("seed", 1, "what the order of random operations is drawn from")
	requests = flag.Int("requests", 15, "how many random operations each of 16 clients asks for, twice")
)

// A chaos asks for random operations on a few things, so that they meet.
type chaos struct {
	*rand.Rand
	containers []*container
}

func (r chaos) service() string { return []string{"web", "api", "db"}[r.IntN(3)] }

func (r chaos) mode() wire.Mode {
	return []wire.Mode{wire.ModeAuto, wire.ModeShared, wire.ModeDedicated}[r.IntN(3)]
}

func (r chaos) container() *container { return r.containers[r.IntN(len(r.containers))] }

func (r chaos) handle() wire.Handle {
	if r.IntN(4) == 0 {
		return wire.GuestManaged{ID: fmt.Sprint("vm-", r.IntN(3))}
	}
	return r.container().handle()
}

// peer is one of four, whose networks overlap in part.
func (r chaos) peer() wire.PeerSpec {
	n := r.IntN(4)
	p := wire.PeerSpec{
		PublicKey:  peerKey(n),
		Endpoint:   fmt.Sprintf("192.0.2.%d:51420", 10+r.IntN(4)),
		AllowedIPs: fmt.Sprintf("10.200.%d.0/24,fd00:200:0:%d::/64", 100+n, 100+n),
	}
	if r.IntN(4) == 0 {
		p.AllowedIPs += ",10.200.110.0/24"
	}
	return p
}

// peerKey is a key that nobody has the private half of.
func peerKey(n int) string {
	return strings.Repeat(string(rune('B'+n))+"AAA", 10) + "AAA="
}

func (r chaos) scope() wire.PeerScope {
	if r.IntN(3) == 0 {
		return wire.ServiceScope{Service: r.service()}
	}
	return nil
}

func (r chaos) name() string { return fmt.Sprint("name-", r.IntN(4)) }

// ip is one of the first that containers of "web" get on node 1, or of the node's
// own slice.
func (r chaos) ip() netip.Addr {
	if r.IntN(3) == 0 {
		return netip.AddrFrom4([4]byte{10, 200, 1, byte(r.IntN(4))})
	}
	return netip.AddrFrom4([4]byte{10, 200, 74, byte(18 + r.IntN(4))})
}

// request is a random one. Two of the sixteen or so tear everything down at once,
// so they are rare.
func (r chaos) request() wire.Request {
	switch r.IntN(40) {
	case 0:
		return wire.TeardownGlobalOverlay{}
	case 1, 2, 3:
		return globalOf(1)
	case 4:
		return wire.TeardownServiceOverlay{Service: r.service()}
	case 5, 6, 7, 8:
		return wire.SetupServiceOverlay{Service: r.service(), Mode: r.mode()}
	case 9, 10:
		return wire.AllocateIP{Service: r.service()}
	case 11, 12:
		return wire.ReleaseIP{IP: r.ip()}
	case 13, 14, 15, 16, 17, 18, 19:
		return wire.AttachContainer{Handle: r.handle(), Service: r.service(), JoinGlobal: r.IntN(2) == 0}
	case 20, 21, 22, 23:
		return wire.DetachContainer{Handle: r.handle()}
	case 24, 25:
		return wire.AddPeer{PeerSpec: r.peer(), Scope: r.scope()}
	case 26:
		return wire.RemovePeer{Pubkey: r.peer().PublicKey, Scope: r.scope()}
	case 27:
		return wire.AddAllowedIP{Pubkey: r.peer().PublicKey, CIDR: fmt.Sprintf("10.200.%d.0/24", 110+r.IntN(3)), Scope: r.scope()}
	case 28:
		return wire.RemoveAllowedIP{Pubkey: r.peer().PublicKey, CIDR: fmt.Sprintf("10.200.%d.0/24", 110+r.IntN(3)), Scope: r.scope()}
	case 29:
		return wire.SetPeers{Peers: []wire.PeerSpec{r.peer()}, Scope: r.scope()}
	case 30, 31:
		return wire.RegisterDNS{Name: r.name(), IP: r.ip(), Mode: []wire.DNSMode{"", "add"}[r.IntN(2)]}
	case 32:
		return wire.UnregisterDNS{Name: r.name()}
	case 33, 34:
		return wire.PublishPort{Proto: wire.TCP, HostPort: uint16(8000 + r.IntN(3)), IP: r.ip(), TargetPort: 80}
	case 35:
		return wire.UnpublishPort{Proto: wire.TCP, HostPort: uint16(8000 + r.IntN(3))}
	case 36:
		return wire.StatusRequest{}
	case 37:
		return wire.ListLeases{}
	case 38:
		return wire.NATTick{}
	default:
		return []wire.Request{wire.ListAttachments{}, wire.ListServices{}, wire.ListPeers{}, wire.ListPorts{}, wire.ListDNS{},
			wire.SetLocalNodeID{NodeID: 1}, wire.Resolve{Name: r.name()}, wire.Explain{Src: r.ip(), Dst: r.ip()}}[r.IntN(8)]
	}
}

func TestE2EAnythingAtOnceAndTwiceLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	fresh := h.listing()
	h.start()
	require.Equal(t, fresh, h.listing(), "a daemon that was asked for nothing")
	// What the first of everything makes and keeps, such as the loops of libraries.
	rehearse(t, h)
	idle, kept := h.usage(), h.kept()

	var containers []*container
	for i := range 6 {
		containers = append(containers, newContainer(t, fmt.Sprint("c-", i)))
	}
	storm(t, h, containers, *seed, nil)
	h.verify(containers...)
	tearDown := func() {
		for _, c := range containers {
			h.detach(c)
		}
		clean(t, h)
	}
	tearDown()
	require.Equal(t, fresh, h.listing(), "after everything was torn down")
	requireNoMore(t, h, idle)
	require.Equal(t, kept, h.kept(), "files in the data folder")

	// The same again with a restart in between, which has to know all of it.
	storm(t, h, containers, *seed+1, nil)
	before := h.verify(containers...)
	h.stop()
	h.start()
	h.noting("a restart", func() { require.Equal(t, before.text(), h.verify(containers...).text()) })
	tearDown()
	require.Equal(t, fresh, h.listing(), "after a restart, when everything was torn down")
}

func TestE2EADaemonKilledAmidAnythingConverges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	fresh := h.listing()
	h.start()
	var containers []*container
	for i := range 6 {
		containers = append(containers, newContainer(t, fmt.Sprint("c-", i)))
	}
	for round := range max(2, *rounds/4) {
		s := *seed + uint64(round)
		process := h.process.Process
		last := 10 + int(s*37%400)
		storm(t, h, containers, s, func(answers int) {
			if answers == last {
				process.Kill()
			}
		})
		h.kill()
		h.noting(fmt.Sprintf("round %d, -seed %d", round, s), func() {
			h.start()
			h.verify(containers...)
		})
	}
	for _, c := range containers {
		h.detach(c)
	}
	clean(t, h)
	require.Equal(t, fresh, h.listing())
}

// kept are the names of the files in the data folder.
func (h *host) kept() []string {
	h.t.Helper()
	files, err := os.ReadDir(h.order.DataDir)
	require.NoError(h.t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// storm is 16 clients that ask for random operations at once, each twice, until
// they are through or the daemon is gone. No failure may be the daemon's own. after,
// which may be nil, is called after each answer with how many there were.
func storm(t *testing.T, h *host, containers []*container, seed uint64, after func(answers int)) {
	t.Helper()
	var clients sync.WaitGroup
	var mu sync.Mutex
	var stuck sync.Once
	total, answers := 0, make(map[string]int)
	longest := make(map[string]time.Duration)
	all := make([]*client.Client, 16)
	for n := range all {
		var err error
		all[n], err = client.Dial(h.ctx, client.Config{Endpoint: h.order.Endpoint, Attempts: -1})
		require.NoError(t, err)
		defer all[n].Close()
	}
	for n, c := range all {
		clients.Go(func() {
			r := chaos{rand.New(rand.NewPCG(seed, uint64(n))), containers}
			var req wire.Request
			for i := range 2 * *requests {
				if i%2 == 0 {
					req = r.request()
				}
				ctx, cancel := context.WithTimeout(h.ctx, 2*time.Minute)
				begin := time.Now()
				_, err := c.Call(ctx, req)
				cancel()
				took := time.Since(begin)
				if errors.Is(err, client.ErrLost) || errors.Is(err, client.ErrUnreachable) {
					return
				}
				if errors.Is(err, context.DeadlineExceeded) {
					stuck.Do(func() { t.Logf("%+v takes too long; the daemon's goroutines:\n%s", req, h.tell("goroutines")) })
				}
				mu.Lock()
				longest[req.Op()] = max(longest[req.Op()], took)
				if answers[req.Op()]++; err != nil {
					answers[req.Op()+": "+codeOf(err)]++
				}
				if total++; after != nil {
					after(total)
				}
				mu.Unlock()
				if err != nil && !refused(err) {
					t.Errorf("%+v: %v", req, err)
				}
			}
		})
	}
	clients.Wait()
	t.Logf("with -seed %d: %v", seed, answers)
	t.Logf("the longest it took: %v", longest)
}

func codeOf(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return err.Error()
}

// refused reports whether an error is the daemon's considered no.
func refused(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Message != "" && !slices.Contains([]wire.Code{"", wire.Internal, wire.Timeout, wire.UnknownOp}, e.Code)
}

// rehearse does one of each and takes it down again.
func rehearse(t *testing.T, h *host) {
	t.Helper()
	c := newContainer(t, "rehearsal")
	defer c.die()
	h.setupGlobal(1)
	h.setupService("web", "shared")
	h.setupService("db", "dedicated")
	h.attach(c, "web", true)
	require.NoError(t, attachGuest(h, c))
	require.NoError(t, addPeer(h, c))
	require.NoError(t, register(h, c))
	h.verify(c)
	h.detach(c)
	clean(t, h)
}

// clean takes everything down that the daemon lists, with containers already gone.
func clean(t *testing.T, h *host) {
	t.Helper()
	f := h.facts()
	for _, a := range f.Attachments {
		require.NoError(t, h.DetachContainer(h.ctx, a.Handle))
	}
	for _, p := range f.Ports {
		require.NoError(t, h.UnpublishPort(h.ctx, wire.UnpublishPort{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort}))
	}
	for _, r := range f.Records {
		require.NoError(t, h.UnregisterDNS(h.ctx, r.Name))
	}
	for _, l := range f.Leases {
		if l.Kind == "reserved" {
			require.NoError(t, h.ReleaseIP(h.ctx, l.IP))
		}
	}
	for _, s := range f.Services {
		require.NoError(t, h.TeardownServiceOverlay(h.ctx, s.Service))
	}
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	f = h.facts()
	require.Empty(t, f.Leases)
	require.Empty(t, f.Services)
	require.Empty(t, f.Attachments)
	require.Empty(t, f.Ports)
	require.Empty(t, f.Records)
}

var created = regexp.MustCompile(`(?m)^created by (\S+)`)

// requireNoMore wants the daemon's process to use no more than before, once what is
// about to end has ended.
func requireNoMore(t *testing.T, h *host, before usage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, 30*time.Second)
	defer cancel()
	for {
		now := h.usage()
		if len(now.goroutines) <= len(before.goroutines) && now.files <= before.files {
			return
		}
		select {
		case <-ctx.Done():
			require.Fail(t, "the daemon's process uses more than before", "%d files instead of %d, %d goroutines instead of %d, by what made them:\n%v\ninstead of\n%v",
				now.files, before.files, len(now.goroutines), len(before.goroutines), origins(now), origins(before))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func origins(u usage) map[string]int {
	n := make(map[string]int)
	for _, g := range u.goroutines {
		if m := created.FindStringSubmatch(g); m != nil {
			n[m[1]]++
		}
	}
	return n
}
