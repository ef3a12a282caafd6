package overlay_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func newPeer(t testing.TB, allowed ...string) overlay.Peer {
	return overlay.Peer{PublicKey: newKey(t).Public(), AllowedIPs: prefixes(allowed...)}
}

func TestOverlapsBetweenPeers(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	for _, test := range []struct {
		name         string
		first        []string
		second       []string
		prefix, owns string // of the error; empty: allowed
	}{
		{"the same prefix is refused", []string{"10.0.0.0/24"}, []string{"10.0.0.0/24"}, "10.0.0.0/24", "10.0.0.0/24"},
		{"the same prefix with other host bits is refused", []string{"10.0.0.1/24"}, []string{"10.0.0.2/24"}, "10.0.0.0/24", "10.0.0.0/24"},
		{"a prefix inside another's is refused", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.1.0.0/16", "10.0.0.0/8"},
		{"an address inside another's prefix is refused", []string{"10.0.0.0/8"}, []string{"10.1.2.3/32"}, "10.1.2.3/32", "10.0.0.0/8"},
		{"a prefix around another's is refused", []string{"10.1.2.3/32"}, []string{"10.0.0.0/8"}, "10.0.0.0/8", "10.1.2.3/32"},
		{"one overlap among many is refused", []string{"10.0.0.0/24", "10.0.1.0/24"}, []string{"192.168.0.0/16", "10.0.1.128/25", "172.16.0.0/12"}, "10.0.1.128/25", "10.0.1.0/24"},
		{"IPv6 prefixes are held to the same", []string{"fd00::/48"}, []string{"fd00::1:0/112"}, "fd00::1:0/112", "fd00::/48"},
		{"an IPv4-mapped prefix is the IPv4 one", []string{"10.0.0.0/8"}, []string{"::ffff:10.0.0.0/104"}, "10.0.0.0/8", "10.0.0.0/8"},
		{"two default routes are refused", []string{"0.0.0.0/0"}, []string{"0.0.0.0/0"}, "0.0.0.0/0", "0.0.0.0/0"},
		{"two IPv6 default routes are refused", []string{"::/0"}, []string{"fd00::/8", "::/0"}, "::/0", "::/0"},
		{"neighbours are allowed", []string{"10.0.0.0/24"}, []string{"10.0.1.0/24"}, "", ""},
		{"more specific prefixes beside a default route are allowed", []string{"0.0.0.0/0", "::/0"}, []string{"10.0.0.0/8", "fd00::/8"}, "", ""},
		{"a default route beside more specific prefixes is allowed", []string{"10.0.0.0/8", "fd00::/8"}, []string{"0.0.0.0/0", "::/0"}, "", ""},
		{"default routes of the two families are allowed", []string{"0.0.0.0/0"}, []string{"::/0"}, "", ""},
		{"half of all addresses is no default route", []string{"0.0.0.0/1"}, []string{"10.0.0.0/8"}, "10.0.0.0/8", "0.0.0.0/1"},
		{"no addresses at all are allowed", []string{"10.0.0.0/8"}, nil, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, second := newPeer(t, test.first...), newPeer(t, test.second...)
			check := func(err error) {
				t.Helper()
				if test.prefix == "" {
					require.NoError(t, err)
					return
				}
				var overlap *overlay.OverlapError
				require.ErrorAs(t, err, &overlap)
				require.Equal(t, overlay.OverlapError{
					Peer: second.PublicKey, Prefix: netip.MustParsePrefix(test.prefix),
					Owner: first.PublicKey, Owned: netip.MustParsePrefix(test.owns),
				}, *overlap)
				require.ErrorContains(t, err, second.PublicKey.String())
				require.ErrorContains(t, err, first.PublicKey.String())
			}
			want := 2
			if test.prefix != "" {
				want = 1
			}

			require.NoError(t, node.SetPeers(t.Context(), nil))
			require.NoError(t, node.SetPeer(t.Context(), first))
			check(node.SetPeer(t.Context(), second))
			require.Len(t, node.Peers(), want, "by SetPeer")

			require.NoError(t, node.SetPeers(t.Context(), nil))
			check(node.SetPeers(t.Context(), []overlay.Peer{first, second}))
			if test.prefix != "" {
				require.Empty(t, node.Peers(), "by SetPeers")
			}

			bare := second
			bare.AllowedIPs = nil
			require.NoError(t, node.SetPeers(t.Context(), []overlay.Peer{first, bare}))
			var errs []error
			for _, p := range second.AllowedIPs {
				errs = append(errs, node.Allow(second.PublicKey, p))
			}
			check(errors.Join(errs...))
		})
	}
}

func TestPrefixesOfOnePeerMayNest(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	p := newPeer(t, "10.1.0.7/16", "10.0.0.0/8", "fd00::1/64", "::ffff:192.0.2.0/120", "10.0.0.0/8", "10.255.255.255/8")
	require.NoError(t, node.SetPeer(t.Context(), p))
	require.Equal(t, prefixes("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "fd00::/64"), node.peer(t, p.PublicKey).AllowedIPs,
		"masked, unmapped, sorted, each once")
	require.Equal(t, netip.MustParsePrefix("10.1.0.7/16"), p.AllowedIPs[0], "the caller's slice is left alone")
}

func TestAllowAndDisallow(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	a, b := newPeer(t, "10.0.0.0/24"), newPeer(t)
	require.NoError(t, node.SetPeers(t.Context(), []overlay.Peer{a, b}))

	p := netip.MustParsePrefix("10.0.1.5/24")
	require.NoError(t, node.Allow(a.PublicKey, p))
	require.NoError(t, node.Allow(a.PublicKey, p), "again")
	require.Equal(t, prefixes("10.0.0.0/24", "10.0.1.0/24"), node.peer(t, a.PublicKey).AllowedIPs)
	require.Error(t, node.Allow(b.PublicKey, p), "a has it")
	require.Empty(t, node.peer(t, b.PublicKey).AllowedIPs)

	require.NoError(t, node.Disallow(a.PublicKey, netip.MustParsePrefix("10.0.1.128/25")), "not what a has")
	require.Error(t, node.Allow(b.PublicKey, p), "a still has it")
	require.NoError(t, node.Disallow(a.PublicKey, p))
	require.Equal(t, prefixes("10.0.0.0/24"), node.peer(t, a.PublicKey).AllowedIPs)
	require.NoError(t, node.Allow(b.PublicKey, p), "it is free now")
	require.Equal(t, prefixes("10.0.1.0/24"), node.peer(t, b.PublicKey).AllowedIPs)

	require.NoError(t, node.RemovePeer(b.PublicKey))
	require.NoError(t, node.Allow(a.PublicKey, p), "what a removed peer had is free")

	stranger := newPeer(t).PublicKey
	require.ErrorIs(t, node.Allow(stranger, p), overlay.ErrUnknownPeer)
	require.ErrorIs(t, node.Disallow(stranger, p), overlay.ErrUnknownPeer)
	require.ErrorIs(t, node.RemovePeer(b.PublicKey), overlay.ErrUnknownPeer)
	require.ErrorContains(t, node.RemovePeer(b.PublicKey), b.PublicKey.String())
}

func TestAPrefixMovesBetweenPeersInOneChange(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		a, b, c := newSide(t, engine, 1), newSide(t, engine, 2), newSide(t, engine, 3)
		join(t, a, b)
		pb, pc := b.as(), c.as()
		pc.AllowedIPs = nil
		require.NoError(t, a.SetPeers(t.Context(), []overlay.Peer{pb, pc}))
		join(t, c, a)
		exchange(t, a, b)

		pc.AllowedIPs = pb.AllowedIPs
		pb.AllowedIPs = prefixes("10.77.0.0/16")
		require.NoError(t, a.SetPeers(t.Context(), []overlay.Peer{pb, pc}))
		require.Equal(t, pc.AllowedIPs, a.peer(t, c.PublicKey()).AllowedIPs)
		want := a.send(t, b, false, "moved")
		require.Equal(t, want, c.take(t), "what was b's is c's")

		pb.AllowedIPs, pc.AllowedIPs = pc.AllowedIPs, nil
		require.NoError(t, a.SetPeers(t.Context(), []overlay.Peer{pb}))
		exchange(t, a, b)
	})
}
