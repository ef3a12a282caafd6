package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A phoneBook is a resolver that knows what the test says, and asks nobody.
type phoneBook struct {
	mu    sync.Mutex
	known map[string]string // an address, "" for one that is waited for until ctx ends
	asked int
}

func (b *phoneBook) set(name, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[name] = addr
}

func (b *phoneBook) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	b.mu.Lock()
	addr, ok := b.known[host]
	b.asked++
	b.mu.Unlock()
	if ok && addr == "" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr(addr)}, nil
}

// newRootlessNode starts a whole daemon that is rootless, with the node's overlay,
// and its resolver.
func newRootlessNode(t testing.TB) (*Daemon, *phoneBook) {
	t.Helper()
	d, err := New(Config{DataDir: t.TempDir(), Endpoint: t.TempDir() + "/s", Mode: ModeRootless, Logger: newParts(t).log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	book := &phoneBook{known: make(map[string]string)}
	d.resolver.system = book
	socket, err := net.ListenPacket("udp", ":0") // a port that is free, and most likely is so in a moment
	require.NoError(t, err)
	port := socket.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	require.NoError(t, socket.Close())
	_, err = d.handle(context.Background(), wire.SetupGlobalOverlay{ClusterCIDR: "10.200.0.0/16", SliceCIDR: "10.200.1.0/24", WGPort: port, NATEnabled: true})
	require.NoError(t, err)
	return d, book
}

// at is where the first peer of the node is now.
func at(d *Daemon) netip.AddrPort { return d.global.load().device.node().Peers()[0].Addr }

func TestATickFindsAPeerThatHasMoved(t *testing.T) {
	d, book := newRootlessNode(t)
	there, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	book.set("peer.test", "127.0.0.77")
	_, err = d.handle(context.Background(), wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: there.Public().String(), Endpoint: "peer.test:51820", AllowedIPs: "10.200.2.0/24"}})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.77:51820", at(d).String())
	var w ward
	d.lookAtPeers(&w, time.Now())
	require.Zero(t, d.status().NAT.LastTick)

	book.set("peer.test", "127.0.0.78")
	d.resolver.mu.Lock()
	clear(d.resolver.known) // what is known is so for a moment
	d.resolver.mu.Unlock()
	_, err = d.handle(context.Background(), wire.NATTick{})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.78:51820", at(d).String())
	nat := d.status().NAT
	require.True(t, nat.Enabled)
	require.InDelta(t, time.Now().Unix(), nat.LastTick, 60)
	d.lookAtPeers(&w, time.Now())
	require.NotZero(t, d.meter.counts()["nat_endpoint_changed"].Load())
	require.Empty(t, d.degraded())
}

func TestATickIsBoundedAndHoldsNobodyUp(t *testing.T) {
	d, book := newRootlessNode(t)
	for i := range 40 {
		name := fmt.Sprintf("p%d.test", i)
		book.set(name, "127.0.0.77")
		_, err := d.handle(context.Background(), wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: overlay.PublicKey{byte(i + 1)}.String(), Endpoint: name + ":51820", AllowedIPs: fmt.Sprintf("10.200.2.%d/32", i)}})
		require.NoError(t, err)
	}
	for i := range 40 {
		book.set(fmt.Sprintf("p%d.test", i), "") // from now on nobody answers
	}
	d.resolver.mu.Lock()
	clear(d.resolver.known)
	d.resolver.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ticked := make(chan error, 2)
	for range 2 { // of which one waits for the other
		go func() { ticked <- d.natTick(late{ctx}) }()
	}
	require.Eventually(t, func() bool {
		book.mu.Lock()
		defer book.mu.Unlock()
		return book.asked >= 40+lookups
	}, 30*time.Second, time.Millisecond)
	// Meanwhile peers come and go, and status answers.
	_, err := d.handle(context.Background(), wire.RemovePeer{Pubkey: overlay.PublicKey{1}.String()})
	require.NoError(t, err)
	require.EqualValues(t, 39, d.status().PeerCount)
	require.Empty(t, ticked)
	cancel()
	var errs int
	for range 2 {
		if err := <-ticked; err != nil {
			require.ErrorContains(t, err, "waited for the round under way")
			errs++
		}
	}
	require.LessOrEqual(t, errs, 1)
	require.Contains(t, d.degraded()[partEndpoints], "endpoints of 40 peers that do not answer were not found again")
	for i := range 40 {
		book.set(fmt.Sprintf("p%d.test", i), "127.0.0.79")
	}
	require.NoError(t, d.natTick(context.Background()))
	require.Empty(t, d.degraded())

	// That a client is gone says nothing of its peers.
	for i := range 40 {
		book.set(fmt.Sprintf("p%d.test", i), "")
	}
	d.resolver.mu.Lock()
	clear(d.resolver.known)
	d.resolver.mu.Unlock()
	require.NoError(t, d.natTick(ctx))
	require.Empty(t, d.degraded())
}

// A late context's time is up when it is canceled, and so is that of its children,
// which it keeps from finding the one it is made of.
type late struct{ context.Context }

func (late) Value(any) any { return nil }

func (c late) Err() error {
	if c.Context.Err() == nil {
		return nil
	}
	return context.DeadlineExceeded
}

func TestPeersThatAnswerAreLeftAlone(t *testing.T) {
	a, b := newRootless(t), newRootless(t)
	a.resolver, b.resolver = newResolver(), newResolver()
	makePeers(t, a, b)
	_, err := a.ping(context.Background(), wire.Ping{IP: netip.MustParseAddr("10.200.0.2")})
	require.NoError(t, err)
	var w ward
	a.lookAtPeers(&w, time.Now())
	require.EqualValues(t, 1, a.meter.counts()["peer_health_changed"].Load())
	v := a.global.load().device
	p := v.node().Peers()[0]
	require.True(t, a.healthy("", p.PublicKey, p.LastHandshake))
	v.set[p.PublicKey] = overlay.Peer{PublicKey: p.PublicKey, Endpoint: "peer.test:51820"}
	require.Empty(t, v.unanswering())
	a.monitor.sick.Store(&map[peerID]bool{{"", p.PublicKey}: true})
	require.Len(t, v.unanswering(), 1)
	v.set[p.PublicKey] = overlay.Peer{PublicKey: p.PublicKey, Endpoint: "192.0.2.1:51820"}
	require.Empty(t, v.unanswering(), "an address is what it is")
}

func TestALookupKeepsNobodyFromTheOverlay(t *testing.T) {
	d, book := newRootlessNode(t)
	book.set("slow.test", "")
	slow := wire.PeerSpec{PublicKey: aKey, Endpoint: "slow.test:51820", AllowedIPs: "10.200.2.0/24"}
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error, 2)
	for _, r := range []wire.Request{wire.AddPeer{PeerSpec: slow}, wire.SetPeers{Peers: []wire.PeerSpec{slow}}} {
		go func() {
			_, err := d.handle(ctx, r)
			waiting <- err
		}()
	}
	require.Eventually(t, func() bool {
		book.mu.Lock()
		defer book.mu.Unlock()
		return book.asked == 2
	}, 30*time.Second, time.Millisecond)
	_, err := d.handle(context.Background(), wire.TeardownGlobalOverlay{})
	require.NoError(t, err)
	require.Empty(t, waiting, "names are still being looked up")
	cancel()
	for range cap(waiting) {
		require.Error(t, <-waiting)
	}
}
