package overlay_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// secret makes a preshared key.
func secret(t testing.TB) overlay.PresharedKey {
	psk, err := overlay.GeneratePresharedKey()
	require.NoError(t, err)
	return psk
}

func TestAnUpdateKeepsTheSession(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)
		before := a.peer(t, b.PublicKey())
		peer := b.as()
		other := newPeer(t, "10.50.0.0/16")

		for _, step := range []struct {
			name   string
			change func() error
		}{
			{"the same peer again", func() error { return a.SetPeer(t.Context(), peer) }},
			{"a prefix more", func() error {
				peer.AllowedIPs = append(peer.AllowedIPs, prefixes("10.60.0.0/16")...)
				return a.SetPeer(t.Context(), peer)
			}},
			{"a prefix less", func() error {
				peer.AllowedIPs = peer.AllowedIPs[:2]
				return a.SetPeer(t.Context(), peer)
			}},
			{"a keepalive", func() error {
				peer.Keepalive = 25 * time.Second
				return a.SetPeer(t.Context(), peer)
			}},
			{"a preshared key", func() error {
				peer.PresharedKey = secret(t)
				return a.SetPeer(t.Context(), peer)
			}},
			{"another address", func() error {
				peer.Endpoint = fmt.Sprintf("[::1]:%d", b.ListenPort())
				return a.SetPeer(t.Context(), peer)
			}},
			{"another address by SetEndpoint", func() error {
				return a.SetEndpoint(t.Context(), b.PublicKey(), fmt.Sprintf("127.0.0.1:%d", b.ListenPort()))
			}},
			{"Allow", func() error { return a.Allow(b.PublicKey(), netip.MustParsePrefix("10.61.0.0/16")) }},
			{"Disallow", func() error { return a.Disallow(b.PublicKey(), netip.MustParsePrefix("10.61.0.0/16")) }},
			{"another peer", func() error { return a.SetPeer(t.Context(), other) }},
			{"the whole set", func() error { return a.SetPeers(t.Context(), []overlay.Peer{other, peer}) }},
			{"the whole set without the other", func() error { return a.SetPeers(t.Context(), []overlay.Peer{peer}) }},
		} {
			require.NoError(t, step.change(), step.name)
			exchange(t, a, b)
			now := a.peer(t, b.PublicKey())
			require.Equal(t, before.LastHandshake, now.LastHandshake, step.name)
			require.Greater(t, now.TxBytes, before.TxBytes, step.name)
			require.Greater(t, now.RxPackets, before.RxPackets, step.name)
			before.TxBytes, before.RxPackets = now.TxBytes, now.RxPackets
		}

		now := a.peer(t, b.PublicKey())
		require.Equal(t, 25*time.Second, now.Keepalive)
		require.True(t, now.Preshared)
		require.Equal(t, prefixes("10.9.0.2/32", "fd09::2/128"), now.AllowedIPs)
		require.Len(t, a.Peers(), 1)
	})
}

func TestARemovedPeerIsGone(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)
		require.NoError(t, a.RemovePeer(b.PublicKey()))
		require.Empty(t, a.Peers())
		a.send(t, b, false, "to nobody")
		settles(t, 1, drops(a, packet.NoPeer))

		require.NoError(t, a.SetPeer(t.Context(), b.as()))
		p := a.peer(t, b.PublicKey())
		require.Zero(t, p.LastHandshake, "a peer that comes again is a new one")
		require.Zero(t, p.TxBytes)
	})
}

func TestAnEndpointThatRoamedStays(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)
		roamed := fmt.Sprintf("[::1]:%d", a.ListenPort())
		p := a.as()
		p.Endpoint = fmt.Sprintf("127.0.0.1:%d", a.ListenPort())
		require.NoError(t, b.SetPeer(t.Context(), p))

		// a calls from its other address.
		require.NoError(t, a.SetEndpoint(t.Context(), b.PublicKey(), fmt.Sprintf("[::1]:%d", b.ListenPort())))
		want := a.send(t, b, false, "from elsewhere")
		require.Equal(t, want, b.take(t))
		settles(t, roamed, func() string { return b.peer(t, a.PublicKey()).Addr.String() })

		p.Keepalive = time.Minute
		require.NoError(t, b.SetPeer(t.Context(), p))
		require.NoError(t, b.SetPeers(t.Context(), []overlay.Peer{p}))
		require.Equal(t, roamed, b.peer(t, a.PublicKey()).Addr.String(), "the same endpoint given again")
		require.Equal(t, p.Endpoint, b.peer(t, a.PublicKey()).Endpoint)
		p.Endpoint = ""
		require.NoError(t, b.SetPeer(t.Context(), p))
		require.Equal(t, roamed, b.peer(t, a.PublicKey()).Addr.String(), "no endpoint given")
		require.NoError(t, b.SetEndpoint(t.Context(), a.PublicKey(), fmt.Sprintf("127.0.0.1:%d", a.ListenPort())))
		require.Equal(t, fmt.Sprintf("127.0.0.1:%d", a.ListenPort()), b.peer(t, a.PublicKey()).Addr.String(), "set")
		exchange(t, a, b)
	})
}

func TestPresharedKeysMustMatch(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b, c := newSide(t, engine, 1), newSide(t, engine, 2), newSide(t, engine, 3)
		psk := secret(t)
		set := func(at, peer *side, psk overlay.PresharedKey) {
			p := peer.as()
			p.PresharedKey = psk
			require.NoError(t, at.SetPeer(t.Context(), p))
		}
		set(a, b, psk)
		set(b, a, psk)
		exchange(t, a, b)

		set(a, c, psk)
		set(c, a, secret(t))
		a.send(t, c, false, "unheard")
		require.Eventually(t, func() bool { return c.peer(t, a.PublicKey()).RxBytes > 0 }, 30*time.Second, time.Millisecond)
		exchange(t, a, b) // time enough for c's answer
		require.Zero(t, a.peer(t, c.PublicKey()).LastHandshake)
		require.Zero(t, c.dev.Taken())
	})
}

func TestPeersAreInOrder(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	var peers []overlay.Peer
	for range 20 {
		peers = append(peers, newPeer(t))
	}
	require.NoError(t, node.SetPeers(t.Context(), peers))
	status := node.Peers()
	require.Len(t, status, 20)
	for i := range status[1:] {
		require.Negative(t, bytes.Compare(status[i].PublicKey[:], status[i+1].PublicKey[:]))
	}
}

func TestAfterClose(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)
		before := a.Stats()
		require.NoError(t, a.Close())
		require.NoError(t, a.Close(), "again")
		require.True(t, a.dev.Closed())
		<-a.Done()
		require.NoError(t, a.Err(), "it was asked to")

		p, prefix := b.as(), netip.MustParsePrefix("10.0.0.0/8")
		require.ErrorIs(t, a.SetPeer(t.Context(), p), net.ErrClosed)
		require.ErrorIs(t, a.SetPeers(t.Context(), []overlay.Peer{p}), net.ErrClosed)
		require.ErrorIs(t, a.RemovePeer(p.PublicKey), net.ErrClosed)
		require.ErrorIs(t, a.SetEndpoint(t.Context(), p.PublicKey, p.Endpoint), net.ErrClosed)
		require.ErrorIs(t, a.Allow(p.PublicKey, prefix), net.ErrClosed)
		require.ErrorIs(t, a.Disallow(p.PublicKey, prefix), net.ErrClosed)
		require.Empty(t, a.Peers())
		require.GreaterOrEqual(t, a.Stats().TxBytes, before.TxBytes)
		require.NotZero(t, a.ListenPort())
	})
}

func TestANodeEndsWithItsDevice(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b := newPair(t, engine)
		exchange(t, a, b)
		require.NoError(t, a.Err())
		require.NoError(t, a.dev.Close())
		<-a.Done()
		require.ErrorIs(t, a.Err(), net.ErrClosed)
		require.ErrorContains(t, a.Err(), "device")
		require.ErrorIs(t, a.SetPeer(t.Context(), b.as()), net.ErrClosed)
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Err(), net.ErrClosed, "still why")
	})
}
