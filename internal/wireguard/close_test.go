package wireguard

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// An engine can be closed whatever it is doing, and leaves nothing: no goroutine,
// no timer that sends, no session that is found, no key.
func TestCloseInEveryState(t *testing.T) {
	lose := func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil }
	loseTransport := func(d []byte, _, _ netip.AddrPort) []time.Duration {
		if messageType(d) == typeTransport {
			return nil
		}
		return []time.Duration{0}
	}
	begin := func(from, to *testNode) {
		from.device.send(datagramTo(from.overlay, to.overlay, 1))
		synctest.Wait()
	}
	for name, reach := range map[string]func(t *testing.T, n *network, a, b *testNode){
		"nothing was ever sent": func(*testing.T, *network, *testNode, *testNode) {},
		"its call is not answered": func(_ *testing.T, n *network, a, b *testNode) {
			n.setFate(lose)
			begin(a, b)
		},
		"it has called again": func(_ *testing.T, n *network, a, b *testNode) {
			n.setFate(lose)
			begin(a, b)
			time.Sleep(2*rekeyTimeout + time.Second)
		},
		"it has given up": func(_ *testing.T, n *network, a, b *testNode) {
			n.setFate(lose)
			begin(a, b)
			time.Sleep(3 * time.Minute)
		},
		"its answer is not confirmed": func(t *testing.T, n *network, a, b *testNode) {
			n.setFate(loseTransport)
			begin(b, a)
			begin(a, b) // which waits
			require.NotNil(t, a.peer(b.public).next.Load())
		},
		"a session is in use": func(t *testing.T, _ *network, a, b *testNode) {
			begin(a, b)
			require.NotNil(t, a.peer(b.public).current.Load())
		},
		"four sessions are in use": func(t *testing.T, n *network, a, b *testNode) {
			for range 3 {
				begin(b, a)
				time.Sleep(rekeyAfterTime + time.Second)
			}
			n.setFate(loseTransport)
			begin(b, a)
			p := a.peer(b.public)
			require.NotNil(t, p.previous[1])
			require.NotNil(t, p.next.Load())
		},
		"a new session is asked for": func(_ *testing.T, n *network, a, b *testNode) {
			begin(a, b)
			time.Sleep(rekeyAfterTime + time.Second)
			n.setFate(lose)
			begin(a, b)
		},
		"the peer has fallen silent": func(_ *testing.T, n *network, a, b *testNode) {
			begin(a, b)
			n.setFate(lose)
			begin(a, b)
			time.Sleep(keepaliveTimeout + rekeyTimeout + time.Second)
		},
		"keys are forgotten": func(_ *testing.T, n *network, a, b *testNode) {
			begin(a, b)
			n.setFate(lose)
			time.Sleep(forgetKeysAfter + time.Second)
		},
		"handshakes wait for an answer": func(_ *testing.T, n *network, a, b *testNode) {
			begin(a, b)
			jar := newCookieJar(a.public)
			for range 2000 {
				d := newInitiation(rand.Uint32())
				jar.addMACs(d)
				n.deliver(d, b.transport.address(), a.transport.address(), 0)
			}
		},
		"it keeps itself alive": func(t *testing.T, _ *network, a, b *testNode) {
			cfg := b.peerOf()
			cfg.Keepalive = time.Second
			require.NoError(t, a.SetPeer(cfg))
			time.Sleep(time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b := newPair(t)
				defer b.close()
				p := a.peer(b.public)
				reach(t, n, a, b)
				p.mu.Lock()
				sessions := []*session{p.current.Load(), p.next.Load(), p.previous[0], p.previous[1]}
				p.mu.Unlock()
				a.close()
				require.Nil(t, p.current.Load())
				require.Nil(t, p.next.Load())
				require.Equal(t, [2]*session{}, p.previous)
				require.Nil(t, p.initiation)
				require.Empty(t, p.staged)
				require.Zero(t, p.presharedKey)
				for _, s := range sessions {
					if s != nil {
						require.Nil(t, s.send)
						require.Nil(t, s.receive)
					}
				}
				require.Empty(t, a.sessions.pending)
				for i := range a.sessions.shards {
					if shard := a.sessions.shards[i].Load(); shard != nil {
						require.Empty(t, *shard)
					}
				}
				later := n.watch(a.transport, 0)
				time.Sleep(time.Hour)
				require.Zero(t, later.count())
				require.ErrorIs(t, a.SetPeer(b.peerOf()), net.ErrClosed)
				require.ErrorIs(t, a.SetPeers(nil), net.ErrClosed)
				require.False(t, a.RemovePeer(b.public))
				require.Empty(t, a.Peers())
			})
		})
	}
}

// Peers come, go and change, packets flow both ways, addresses change and snapshots
// are taken, all at once, and in the midst of it the engines are closed.
func TestConfigurationTrafficAndCloseAtOnce(t *testing.T) {
	for round := range 6 {
		_, a, b := newPair(t)
		stop := make(chan struct{})
		var running sync.WaitGroup
		always := func(f func(i int)) {
			running.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						f(i)
					}
				}
			})
		}
		send := func(from, to *testNode) func(int) {
			return func(i int) {
				p := packetBytes{datagramTo(from.overlay, to.overlay, uint32(i)), 0}
				if i%8 == 0 {
					p = packetBytes{tcpSuperpacket(from.overlay, to.overlay, 4, 1000), 1000}
				}
				select {
				case from.device.toPeers <- []packetBytes{p}:
				case <-stop:
				}
			}
		}
		always(send(a, b))
		always(send(b, a))
		_, stranger := newTestKeys(t)
		ofA, ofB := a.peerOf(), b.peerOf()
		always(func(i int) {
			cfg := ofB
			switch i % 6 {
			case 0:
				cfg.Keepalive = time.Millisecond
			case 1:
				cfg.AllowedIPs = append(cfg.AllowedIPs[:1:1], netip.MustParsePrefix("10.7.0.0/16"))
			case 2:
				cfg.Endpoint = netip.AddrPort{}
			case 3:
				_ = a.SetPeers([]Peer{cfg, {PublicKey: stranger, Endpoint: cfg.Endpoint, Keepalive: time.Millisecond}})
				return
			case 4:
				if i%64 == 4 { // the session with it
					a.RemovePeer(b.public)
				}
			}
			_ = a.SetPeer(cfg)
		})
		always(func(i int) {
			_ = b.SetPeers([]Peer{ofA})
			a.transport.rebind([]string{"192.0.2.1:1000", "192.0.2.1:1001"}[i%2])
			// What the timers would do.
			if p := b.peer(a.public); p != nil {
				p.quietUntil.Store(0)
				p.requestInitiation(b.now())
			}
		})
		always(func(int) {
			a.Peers()
			a.Stats()
			b.Peers()
			_ = b.Err()
		})
		for delivered := 0; delivered < 100; {
			select {
			case <-a.device.fromPeers:
			case <-b.device.fromPeers:
			}
			delivered++
		}
		first, second := a, b
		if round%2 == 0 {
			first, second = b, a
		}
		first.close()
		second.close()
		close(stop)
		running.Wait()
		for _, e := range []*testNode{a, b} {
			require.Zero(t, e.Stats().Drops[packet.Malformed])
			require.Empty(t, e.sessions.pending)
			require.Empty(t, e.reaper.pending)
		}
	}
}
