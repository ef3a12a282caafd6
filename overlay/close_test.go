package overlay_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func TestNodesOpenAndClose(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		peer := newPeer(t, "10.9.0.2/32")
		peer.Endpoint = "127.0.0.1:9"
		cycles := 1000
		if engine == overlay.EngineWireGuardGo {
			cycles = 100 // each takes 24 MB of buffers
		}
		for i := range cycles {
			s := newSide(t, engine, 1)
			if i%2 == 0 {
				require.NoError(t, s.SetPeer(t.Context(), peer))
			}
			require.NoError(t, s.Close())
		}
	})
}

func TestCloseDuringTraffic(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		for round := range 4 {
			a, b := newPair(t, engine)
			exchange(t, a, b)
			var traffic sync.WaitGroup
			for _, way := range [][2]*side{{a, b}, {b, a}} {
				traffic.Go(func() {
					from, to := way[0], way[1]
					for !from.dev.Closed() {
						for range 100 {
							from.dev.Put(0, from.udp(to), 0)
						}
						to.drain()
						runtime.Gosched()
					}
				})
			}
			require.Eventually(t, func() bool {
				return a.Stats().RxPackets > 1000 && b.Stats().RxPackets > 1000
			}, 30*time.Second, time.Millisecond)
			var closing sync.WaitGroup
			for _, s := range []*side{a, b} {
				for range 2 {
					closing.Go(func() { s.Close() })
				}
				if round%2 == 0 {
					closing.Wait() // one after the other
				}
			}
			closing.Wait()
			traffic.Wait()
		}
	})
}

func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		names := newNames()
		names.set("p.example.net", "127.0.0.1")
		node, other := newSide(t, engine, 1, resolver(names)), newSide(t, engine, 2)
		join(t, node, other)
		var peers []overlay.Peer
		for i := range 8 {
			p := newPeer(t, fmt.Sprintf("10.100.%d.0/24", i))
			p.Endpoint = "p.example.net:9"
			peers = append(peers, p)
		}
		var running sync.WaitGroup
		for worker := range 6 {
			running.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(worker)))
				for range 200 {
					p := peers[r.IntN(len(peers))]
					prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(r.IntN(8)), 0}), 24)
					switch r.IntN(10) {
					case 0:
						node.SetPeers(t.Context(), append([]overlay.Peer{other.as()}, peers[:r.IntN(len(peers))]...))
					case 1:
						node.RemovePeer(p.PublicKey)
					case 2:
						node.SetEndpoint(t.Context(), p.PublicKey, p.Endpoint)
					case 3:
						node.Allow(p.PublicKey, prefix)
					case 4:
						node.Disallow(p.PublicKey, prefix)
					case 5:
						node.Stats()
					case 6:
						for _, s := range node.Peers() {
							s.AllowedIPs = append(s.AllowedIPs[:0], prefix) // the caller's own
						}
					default:
						node.SetPeer(t.Context(), p)
					}
					node.dev.Put(0, node.udp(other), 0)
				}
			})
		}
		running.Wait()

		owners := make(map[netip.Prefix]overlay.PublicKey)
		for _, s := range node.Peers() {
			for _, p := range s.AllowedIPs {
				require.NotContains(t, owners, p)
				owners[p] = s.PublicKey
			}
		}
		require.NoError(t, node.SetPeers(t.Context(), append(peers, other.as())), "what is recorded agrees with what the peers have")
		require.Len(t, node.Peers(), len(peers)+1)
		node.drain()
		other.drain()

		for range 4 {
			running.Go(func() {
				for err := error(nil); err == nil; {
					err = node.SetPeer(t.Context(), peers[0])
					if err != nil {
						require.ErrorIs(t, err, net.ErrClosed)
					}
				}
			})
		}
		require.NoError(t, node.Close())
		running.Wait()
	})
}
