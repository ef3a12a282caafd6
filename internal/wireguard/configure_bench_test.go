package wireguard

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyPeers are peers with a prefix and an endpoint each.
func manyPeers(count int) []Peer {
	all := make([]Peer, count)
	for i := range all {
		p := &all[i]
		for at := 0; at < len(p.PublicKey); at += 8 {
			binary.LittleEndian.PutUint64(p.PublicKey[at:], rand.Uint64())
		}
		p.AllowedIPs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)}
		p.Endpoint = netip.MustParseAddrPort("192.0.2.9:9")
	}
	return all
}

// BenchmarkConfigure is what it takes to configure ten thousand peers, and to
// change one of them.
func BenchmarkConfigure(b *testing.B) {
	all := manyPeers(10000)
	stop := func(e *Engine) {
		for _, p := range e.peers {
			p.end()
		}
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			e, _, _ := handEngine(b, nil)
			require.NoError(b, e.SetPeers(all))
			b.StopTimer()
			stop(e)
			b.StartTimer()
		}
	})
	e, _, _ := handEngine(b, nil)
	defer stop(e)
	require.NoError(b, e.SetPeers(all))
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, e.SetPeers(all))
		}
	})
	b.Run("one", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			p := all[i%len(all)]
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 32))
			require.NoError(b, e.SetPeer(p))
		}
	})
	b.Run("gone and back", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			p := all[i%len(all)]
			require.True(b, e.RemovePeer(p.PublicKey))
			require.NoError(b, e.SetPeer(p))
		}
	})
}
