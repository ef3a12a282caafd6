package wireguard

import (
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestPacketsNobodyTakesAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		nowhere := netip.MustParseAddr("10.0.0.99")
		refusals := func() (count int) {
			synctest.Wait()
			for _, answer := range a.device.received() {
				var p packet.Packet
				p.Set(answer, 0)
				require.EqualValues(t, packet.ProtocolICMP, p.Protocol())
				require.Equal(t, []byte{3, 1}, p.Transport()[:2], "host unreachable")
				require.Equal(t, nowhere, p.SrcAddr())
				require.Equal(t, a.overlay, p.DstAddr())
				require.True(t, p.ChecksumOK())
				count++
			}
			return count
		}
		a.device.send(datagramTo(a.overlay, nowhere, 1))
		require.Equal(t, 1, refusals())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoPeer])

		time.Sleep(time.Second)
		for i := range uint32(500) {
			a.device.send(datagramTo(a.overlay, nowhere, i))
		}
		require.Equal(t, 50, refusals(), "no more in one moment")

		_, key := newTestKeys(t)
		require.NoError(t, a.SetPeer(Peer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(nowhere, 32)}}))
		time.Sleep(time.Second)
		a.device.send(datagramTo(a.overlay, nowhere, 1))
		require.Equal(t, 1, refusals())
		require.EqualValues(t, 1, a.Stats().Drops[packet.NoEndpoint])
	})
}

func TestPaddingKeepsToTheMTUOfTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		sent := n.watch(a.transport, typeTransport)
		for i, mtu := range []int{1400, 1410, 1390} { // none a multiple of 16
			a.device.mtu.Store(int32(mtu))
			p := make([]byte, mtu)
			copy(p, datagramTo(a.overlay, b.overlay, 1))
			a.device.send(p)
			synctest.Wait()
			datagram, _ := sent.at(i)
			require.Equal(t, sizeTransportMin+mtu, len(datagram), "MTU %d", mtu)
		}
	})
}

func TestACounterAtItsEndStaysThere(t *testing.T) {
	e, wire, addr := handEngine(t, nil)
	out := newOutbound(e, 0)
	p, _ := e.routes.Load().Lookup(addr)
	current := p.current.Load()
	current.counter.Store(rejectAfterMessages - 1)
	for range 3 {
		out.batch.Append(tcpSuperpacket(addr, addr, 7500, 8), 8)
	}
	out.process()
	require.Len(t, wire.messages, 1)
	require.Equal(t, uint64(rejectAfterMessages-1), transportCounter(wire.messages[0].Data))
	require.Equal(t, uint64(rejectAfterMessages), current.counter.Load())
	require.EqualValues(t, 3*7500-1, e.Stats().Drops[packet.Expired])
}

func TestASessionReplacedWhileALaneTakesItLosesNothing(t *testing.T) {
	e, wire, addr := handEngine(t, nil)
	p, _ := e.routes.Load().Lookup(addr)
	replaced := p.current.Load()
	fresh, err := newSession(p, &transportKeys{}, e.sessions.reserve(p), 7, true, e.now())
	require.NoError(t, err)
	out := newOutbound(e, 0)
	out.batch.Append(datagramTo(addr, addr, 1), 0)

	replaced.sending.Lock() // as for being wiped
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.process()
	}()
	for range 1000 {
		runtime.Gosched() // it most likely waits for replaced by now
	}
	p.current.Store(fresh)
	replaced.send.Wipe()
	replaced.send = nil
	replaced.sending.Unlock()
	<-done
	require.Zero(t, e.Stats().Drops[packet.Expired])
	require.Len(t, wire.messages, 1)
	require.EqualValues(t, 7, receiverIndex(wire.messages[0].Data))
}
