package overlay_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A names resolves what it was told.
type names struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	asked int
	gate  chan struct{} // not nil: answers wait for it, or for their context
	begun chan struct{} // has room for one: an answer waits
}

func newNames() *names {
	return &names{addrs: make(map[string][]netip.Addr), begun: make(chan struct{}, 1)}
}

func (n *names) set(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[name] = nil
	for _, a := range addrs {
		n.addrs[name] = append(n.addrs[name], netip.MustParseAddr(a))
	}
}

func (n *names) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *names) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	n.asked++
	addrs, gate := n.addrs[host], n.gate
	n.mu.Unlock()
	if network != "ip" {
		return nil, net.UnknownNetworkError(network)
	}
	if gate != nil {
		select {
		case n.begun <- struct{}{}:
		default:
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

func resolver(n *names) func(*overlay.Config) {
	return func(cfg *overlay.Config) { cfg.Resolver = n }
}

func TestANameIsResolvedBeforeThePeerIsSet(t *testing.T) {
	t.Parallel()
	names := newNames()
	names.set("b.example.net", "::ffff:127.0.0.1", "::1")
	a, b := newSide(t, overlay.EngineDefault, 1, resolver(names)), newSide(t, overlay.EngineDefault, 2)
	join(t, b, a)

	p := b.as()
	p.Endpoint = fmt.Sprintf("b.example.net:%d", b.ListenPort())
	require.NoError(t, a.SetPeer(t.Context(), p))
	require.Equal(t, fmt.Sprintf("127.0.0.1:%d", b.ListenPort()), a.peer(t, b.PublicKey()).Addr.String(), "the first address")
	require.Equal(t, p.Endpoint, a.peer(t, b.PublicKey()).Endpoint)
	exchange(t, a, b)
	require.Equal(t, 1, names.count())

	require.NoError(t, a.SetPeer(t.Context(), p))
	require.NoError(t, a.SetPeers(t.Context(), []overlay.Peer{p}))
	require.Equal(t, 1, names.count(), "the same name is not asked for again")

	names.set("b.example.net", "::1")
	require.NoError(t, a.SetEndpoint(t.Context(), b.PublicKey(), p.Endpoint))
	require.Equal(t, fmt.Sprintf("[::1]:%d", b.ListenPort()), a.peer(t, b.PublicKey()).Addr.String(), "except by SetEndpoint")
	exchange(t, a, b)
}

func TestANameThatDoesNotResolveChangesNothing(t *testing.T) {
	t.Parallel()
	names := newNames()
	names.set("good.example.net", "127.0.0.1")
	names.set("useless.example.net", "0.0.0.0", "ff02::1")
	node := newSide(t, overlay.EngineDefault, 1, resolver(names))
	kept := newPeer(t, "10.0.0.0/24")
	kept.Endpoint = "good.example.net:1000"
	require.NoError(t, node.SetPeer(t.Context(), kept))

	for _, name := range []string{"missing.example.net:1", "useless.example.net:1"} {
		check := func(err error, key overlay.PublicKey) {
			t.Helper()
			var configErr *overlay.ConfigError
			require.ErrorAs(t, err, &configErr)
			require.Equal(t, "Endpoint", configErr.Field)
			require.Equal(t, key, configErr.Peer)
			require.Equal(t, name, configErr.Value)
			var dnsErr *net.DNSError
			require.ErrorAs(t, err, &dnsErr)
			require.True(t, dnsErr.IsNotFound)
			require.Len(t, node.Peers(), 1)
			require.Equal(t, "127.0.0.1:1000", node.peer(t, kept.PublicKey).Addr.String())
			require.Equal(t, kept.AllowedIPs, node.peer(t, kept.PublicKey).AllowedIPs)
		}
		p := newPeer(t, "10.0.1.0/24")
		p.Endpoint = name
		check(node.SetPeer(t.Context(), p), p.PublicKey)
		check(node.SetPeers(t.Context(), []overlay.Peer{newPeer(t), p}), p.PublicKey)
		changed := kept
		changed.Endpoint, changed.AllowedIPs = name, nil
		check(node.SetPeer(t.Context(), changed), kept.PublicKey)
		check(node.SetEndpoint(t.Context(), kept.PublicKey, name), kept.PublicKey)
	}
}

func TestManyNamesAreResolvedAtOnce(t *testing.T) {
	t.Parallel()
	names := newNames()
	node := newSide(t, overlay.EngineDefault, 1, resolver(names))
	var peers []overlay.Peer
	for i := range 100 {
		name := fmt.Sprintf("p%d.example.net", i)
		names.set(name, fmt.Sprintf("127.0.1.%d", i))
		p := newPeer(t)
		p.Endpoint = name + ":1000"
		peers = append(peers, p)
	}
	require.NoError(t, node.SetPeers(t.Context(), peers))
	for i, p := range peers {
		require.Equal(t, fmt.Sprintf("127.0.1.%d:1000", i), node.peer(t, p.PublicKey).Addr.String())
	}
	require.Equal(t, 100, names.count())
}

func TestALookupHoldsNothingUp(t *testing.T) {
	t.Parallel()
	names := newNames()
	names.gate = make(chan struct{})
	names.set("slow.example.net", "127.0.0.1")
	node := newSide(t, overlay.EngineDefault, 1, resolver(names))
	slow := newPeer(t, "10.0.0.0/24")
	slow.Endpoint = "slow.example.net:1000"

	result := make(chan error, 1)
	go func() { result <- node.SetPeer(context.Background(), slow) }()
	<-names.begun
	other := newPeer(t, "10.0.1.0/24")
	require.NoError(t, node.SetPeer(t.Context(), other))
	require.Len(t, node.Peers(), 1)
	require.NoError(t, node.RemovePeer(other.PublicKey))
	require.Empty(t, result)

	taker := newPeer(t, "10.0.0.0/8")
	require.NoError(t, node.SetPeer(t.Context(), taker))
	close(names.gate)
	var overlap *overlay.OverlapError
	require.ErrorAs(t, <-result, &overlap, "what happened during the lookup counts")
	require.Len(t, node.Peers(), 1)
}

func TestALookupEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(node *side, cancel context.CancelFunc)
		is   error
	}{
		{"with its context", func(_ *side, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"with the node", func(node *side, _ context.CancelFunc) { node.Close() }, net.ErrClosed},
		{"with the node's device", func(node *side, _ context.CancelFunc) { node.dev.Close() }, net.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			names := newNames()
			names.gate = make(chan struct{})
			node := newSide(t, overlay.EngineDefault, 1, resolver(names))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := newPeer(t)
			p.Endpoint = "slow.example.net:1000"
			result := make(chan error, 1)
			go func() { result <- node.SetPeer(ctx, p) }()
			<-names.begun
			test.end(node, cancel)
			require.ErrorIs(t, <-result, test.is)
			require.Empty(t, node.Peers())
		})
	}
}

func TestTheNextAddressIsTriedWhenHandshakesFail(t *testing.T) {
	t.Parallel()
	var waits []func() // at once, since each waits for two handshakes to fail
	for _, engine := range engines {
		names := newNames()
		names.set("b.example.net", "127.0.0.1", "::1")
		a, b := newSide(t, engine, 1, resolver(names)), newSide(t, engine, 2)
		join(t, b, a)
		dead, front := listenBoth(t)
		r := newRelay(t, front, netip.AddrPortFrom(netip.IPv6Loopback(), b.ListenPort()))
		p := b.as()
		p.Endpoint = fmt.Sprintf("b.example.net:%d", r.addr().Port())
		require.NoError(t, a.SetPeer(t.Context(), p))
		require.Equal(t, dead.LocalAddr().String(), a.peer(t, b.PublicKey()).Addr.String())
		want := a.send(t, b, false, "at last")
		waits = append(waits, func() {
			require.Equal(t, want, b.take(t), engine.String())
			require.Equal(t, r.addr(), a.peer(t, b.PublicKey()).Addr, engine.String())
			require.Equal(t, 2, names.count(), engine.String())
		})
	}
	for _, wait := range waits {
		wait()
	}
}

// always knows every name.
type always struct{}

func (always) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return []netip.Addr{netip.IPv6Loopback()}, nil
}
