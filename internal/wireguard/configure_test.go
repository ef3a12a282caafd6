package wireguard

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestAnUpdateNeverDropsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		before := a.Peers()[0]

		time.Sleep(time.Second)
		cfg := b.peerOf()
		cfg.AllowedIPs = append(cfg.AllowedIPs, netip.MustParsePrefix("10.9.0.0/16"))
		cfg.Endpoint = netip.AddrPort{}
		require.NoError(t, a.SetPeer(cfg))
		require.NoError(t, a.SetPeers([]Peer{cfg}))
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		after := a.Peers()[0]
		require.Equal(t, before.LastHandshake, after.LastHandshake)
		require.Equal(t, before.Endpoint, after.Endpoint)
		require.Len(t, after.AllowedIPs, 2)

		require.True(t, a.RemovePeer(b.public))
		require.False(t, a.RemovePeer(b.public))
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		synctest.Wait()
		require.Empty(t, b.device.received())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoPeer])
	})
}

// As in wg(8), it is the next handshake that a new preshared key counts for.
func TestAPresharedKeyIsChangedInMidTraffic(t *testing.T) {
	for name, c := range map[string]struct {
		both bool
		last time.Duration // how long packets go on to arrive, at least
	}{
		"on both sides": {true, 10 * time.Minute},
		"on one side":   {false, rekeyAfterTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b := newPair(t)
				defer a.close()
				defer b.close()
				ofA, ofB := a.peerOf(), b.peerOf()
				ofA.PresharedKey, ofB.PresharedKey = [32]byte{1}, [32]byte{1}
				require.NoError(t, a.SetPeer(ofB))
				require.NoError(t, b.SetPeer(ofA))
				begin := time.Now()
				var arrived time.Duration
				for i := range uint32(10 * 60) {
					if i == 10 {
						ofA.PresharedKey, ofB.PresharedKey = [32]byte{2}, [32]byte{2}
						require.NoError(t, a.SetPeer(ofB))
						if c.both {
							require.NoError(t, b.SetPeer(ofA))
						}
					}
					a.device.send(datagramTo(a.overlay, b.overlay, i))
					time.Sleep(time.Second)
					if slices.Equal([]uint32{i}, numbers(b.device.received())) && arrived == time.Since(begin)-time.Second {
						arrived = time.Since(begin)
					}
				}
				require.GreaterOrEqual(t, arrived, c.last)
				require.Equal(t, c.both, time.Since(begin) == arrived, "arrived for %v", arrived)
				require.Equal(t, ofB.PresharedKey, a.Peers()[0].PresharedKey)
			})
		})
	}
}

func TestAPrefixBelongsToThePeerThatWasGivenItLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		_, key := newTestKeys(t)
		first, second := netip.MustParsePrefix("10.8.0.0/16"), netip.MustParsePrefix("10.9.0.0/16")
		require.NoError(t, a.SetPeer(Peer{PublicKey: key, AllowedIPs: []netip.Prefix{first, second}}))
		cfg := b.peerOf()
		cfg.AllowedIPs = append(cfg.AllowedIPs, first)
		require.NoError(t, a.SetPeer(cfg))
		of := make(map[[32]byte][]netip.Prefix)
		for _, p := range a.Peers() {
			of[p.PublicKey] = p.AllowedIPs
		}
		require.Equal(t, []netip.Prefix{second}, of[key])
		require.Equal(t, cfg.AllowedIPs, of[b.public])
		require.True(t, a.RemovePeer(key), "which leaves alone what is no longer its own")
		a.device.send(datagramTo(a.overlay, netip.MustParseAddr("10.8.0.1"), 1))
		synctest.Wait()
		require.Zero(t, a.Stats().Drops[packet.NoPeer])
	})
}

// New peers with a keepalive mean as many handshakes, and sockets may be full.
func TestConfigurationDoesNotWaitForTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := newTestNode(t, n, "192.0.2.1:1000", "10.0.0.1")
		defer a.close()
		full := make(chan struct{})
		sent := 0
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration {
			<-full
			sent++
			return nil
		})
		var peers [3]Peer
		for i := range peers {
			peers[i] = Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:9"), Keepalive: 25 * time.Second}
			_, peers[i].PublicKey = newTestKeys(t)
		}
		require.NoError(t, a.SetPeers(peers[:2]))
		require.NoError(t, a.SetPeer(peers[2]))
		close(full)
		synctest.Wait()
		require.Equal(t, len(peers), sent)
	})
}

func TestAPeerHasItsEndpointBeforeItsPackets(t *testing.T) {
	e, _, _ := handEngine(t, nil)
	overlay := netip.MustParseAddr("10.0.0.9")
	cfg := Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:9"), AllowedIPs: []netip.Prefix{netip.PrefixFrom(overlay, 32)}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 3000 {
			cfg.PublicKey = [32]byte{1, byte(i % 2)}
			if i%4 < 2 {
				_ = e.SetPeers([]Peer{cfg})
			} else {
				_ = e.SetPeer(cfg)
			}
		}
		_ = e.SetPeers(nil)
	}()
	out := newOutbound(e, 0)
	for sending := true; sending; {
		select {
		case <-done:
			sending = false
		default:
			out.batch.Reset()
			out.batch.Append(datagramTo(overlay, overlay, 1), 0)
			out.process()
		}
	}
	require.Zero(t, e.Stats().Drops[packet.NoEndpoint])
}
