package testnet_test

import (
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// newNode makes a node with a stack at 10.0.0.n, which the test closes.
func newNode(t *testing.T, n byte) (*overlay.Node, *netstack.Stack) {
	t.Helper()
	s, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24)}})
	require.NoError(t, err)
	key, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	node, err := overlay.New(overlay.Config{PrivateKey: key, Device: s.Device(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	return node, s
}

func TestNodesTalkThroughABadRelay(t *testing.T) {
	t.Parallel()
	nearNode, near := newNode(t, 1)
	farNode, far := newNode(t, 2)
	bad := testnet.Link{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Duplicate: 0.01, Reorder: 0.01}
	r, err := testnet.OpenRelay(
		netip.AddrPortFrom(loopback4, nearNode.ListenPort()), netip.AddrPortFrom(loopback4, farNode.ListenPort()), bad, bad)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })

	for _, of := range []struct {
		node, peer *overlay.Node
		at         netip.AddrPort
		n          byte
	}{{nearNode, farNode, r.A(), 2}, {farNode, nearNode, r.B(), 1}} {
		require.NoError(t, of.node.SetPeer(t.Context(), overlay.Peer{
			PublicKey:  of.peer.PublicKey(),
			Endpoint:   of.at.String(),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, of.n}), 32)},
		}))
	}
	upload(t, near, far, 1<<20)
	ab, ba := r.Stats()
	require.NotZero(t, ab.Lost)
	require.NotZero(t, ab.Packets)
	require.NotZero(t, ba.Packets)
	require.Equal(t, r.A(), nearNode.Peers()[0].Addr)
	require.Equal(t, r.B(), farNode.Peers()[0].Addr)
}
