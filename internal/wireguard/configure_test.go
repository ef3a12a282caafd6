package wireguard

import (
	"net/netip"
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
