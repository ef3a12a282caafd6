package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestRoamingOfEitherSideInMidTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		exchange := func(i uint32) {
			a.device.send(datagramTo(a.overlay, b.overlay, i))
			synctest.Wait()
			b.device.send(datagramTo(b.overlay, a.overlay, i))
			synctest.Wait()
			require.Equal(t, []uint32{i}, numbers(b.device.received()))
			require.Equal(t, []uint32{i}, numbers(a.device.received()))
		}
		exchange(1)
		handshake := a.Peers()[0].LastHandshake
		a.transport.move("198.51.100.1:1111")
		exchange(2)
		require.Equal(t, "198.51.100.1:1111", b.Peers()[0].Endpoint.String())
		b.transport.move("[2001:db8::2]:2222")
		b.device.send(datagramTo(b.overlay, a.overlay, 9)) // the one who moved speaks first
		synctest.Wait()
		require.Equal(t, []uint32{9}, numbers(a.device.received()))
		exchange(3)
		require.Equal(t, "[2001:db8::2]:2222", a.Peers()[0].Endpoint.String())
		require.Equal(t, handshake, a.Peers()[0].LastHandshake, "roaming needs no handshake")
	})
}

// Both sides get other addresses at the same moment, from NATs that still know the
// old ones for a while.
func TestBothRoamAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration {
			return []time.Duration{30 * time.Millisecond}
		})
		exchange := func(i uint32) {
			a.device.send(datagramTo(a.overlay, b.overlay, i))
			b.device.send(datagramTo(b.overlay, a.overlay, i))
			time.Sleep(time.Second)
			require.Equal(t, []uint32{i}, numbers(b.device.received()))
			require.Equal(t, []uint32{i}, numbers(a.device.received()))
		}
		exchange(1)
		handshake := a.Peers()[0].LastHandshake
		a.device.send(datagramTo(a.overlay, b.overlay, 2)) // on its way meanwhile
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		synctest.Wait()
		a.transport.rebind("198.51.100.1:1111")
		b.transport.rebind("198.51.100.2:2222")
		time.Sleep(time.Second)
		require.Equal(t, []uint32{2}, numbers(b.device.received()))
		require.Equal(t, []uint32{2}, numbers(a.device.received()))
		exchange(3)
		require.Equal(t, "198.51.100.1:1111", b.Peers()[0].Endpoint.String())
		require.Equal(t, "198.51.100.2:2222", a.Peers()[0].Endpoint.String())
		exchange(4)
		require.Equal(t, handshake, a.Peers()[0].LastHandshake)
	})
}

// When the old addresses lead nowhere, neither can reach the other, until one is
// told the new address, and finds it when it calls.
func TestBothMoveAwayAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		time.Sleep(time.Minute)
		a.transport.move("198.51.100.1:1111")
		b.transport.move("198.51.100.2:2222")
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		b.device.send(datagramTo(b.overlay, a.overlay, 2))
		time.Sleep(time.Minute)
		require.Empty(t, b.device.received())
		require.NoError(t, a.SetPeer(b.peerOf()))
		a.device.send(datagramTo(a.overlay, b.overlay, 3))
		synctest.Wait()
		require.Equal(t, []uint32{3}, numbers(b.device.received()), "at once, on the session there is")
		b.device.send(datagramTo(b.overlay, a.overlay, 4))
		synctest.Wait()
		require.Equal(t, []uint32{4}, numbers(a.device.received()))
	})
}

func TestHostileDatagramsAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		captured := n.watch(a.transport, typeTransport)
		a.device.send(datagramTo(a.overlay, b.overlay, 1))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		answers := n.watch(b.transport, 0)
		good, _ := captured.at(captured.count() - 1)
		stranger := netip.MustParseAddrPort("203.0.113.9:9")
		count := func(why packet.Reason, what string, datagram []byte) {
			before := b.Stats().Drops[why]
			n.deliver(append([]byte(nil), datagram...), stranger, b.transport.address(), 0)
			synctest.Wait()
			require.Equal(t, before+1, b.Stats().Drops[why], what)
			require.Empty(t, b.device.received(), what)
			require.Equal(t, a.transport.address(), b.Peers()[0].Endpoint, what)
		}
		edit := func(change func(d []byte) []byte) []byte { return change(append([]byte(nil), good...)) }

		count(packet.Replayed, "replayed", good)
		count(packet.Unauthentic, "truncated", edit(func(d []byte) []byte { return d[:len(d)-1] }))
		count(packet.Unauthentic, "oversized", edit(func(d []byte) []byte { return append(d, make([]byte, 3000)...) }))
		count(packet.Unauthentic, "its last bit flipped", edit(func(d []byte) []byte { d[len(d)-1] ^= 1; return d }))
		count(packet.Unauthentic, "another counter", edit(func(d []byte) []byte { d[8]++; return d }))
		count(packet.UnknownIndex, "another index", edit(func(d []byte) []byte { d[4] ^= 1; return d }))
		count(packet.Malformed, "another type", edit(func(d []byte) []byte { d[0] = 9; return d }))
		count(packet.Malformed, "a reserved byte", edit(func(d []byte) []byte { d[1] = 9; return d }))
		count(packet.Malformed, "shorter than any message", good[:10])
		count(packet.Unauthentic, "an initiation of noise", append([]byte{typeInitiation, 0, 0, 0}, make([]byte, sizeInitiation-4)...))
		count(packet.Malformed, "an initiation of the wrong size", append([]byte{typeInitiation, 0, 0, 0}, make([]byte, sizeInitiation)...))
		count(packet.UnknownIndex, "a cookie for nobody", append([]byte{typeCookie, 0, 0, 0}, make([]byte, sizeCookie-4)...))
		before := b.Peers()[0].RxBytes
		cookie := make([]byte, sizeCookie)
		putCookieHeader(cookie, binary.LittleEndian.Uint32(good[4:]))
		count(packet.Unauthentic, "a cookie of noise", cookie)
		require.Equal(t, before, b.Peers()[0].RxBytes)
		require.Zero(t, answers.count(), "strangers are met with silence")

		time.Sleep(rejectAfterTime + time.Second)
		count(packet.Expired, "stale", edit(func(d []byte) []byte { d[8] += 100; return d }))
	})
}

// Whoever has heard a handshake can say it again, from anywhere and at any time: it
// is answered by silence, and changes nothing.
func TestAReplayedHandshakeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		ofA, ofB := n.watch(a.transport, typeInitiation), n.watch(b.transport, typeResponse)
		exchange := func(i uint32) {
			a.device.send(datagramTo(a.overlay, b.overlay, i))
			b.device.send(datagramTo(b.overlay, a.overlay, i))
			synctest.Wait()
			require.Equal(t, []uint32{i}, numbers(b.device.received()))
			require.Equal(t, []uint32{i}, numbers(a.device.received()))
		}
		a.device.send(datagramTo(a.overlay, b.overlay, 0))
		synctest.Wait()
		require.Len(t, b.device.received(), 1)
		exchange(1)
		time.Sleep(rekeyAfterTime + time.Second)
		exchange(2)
		time.Sleep(time.Second)
		exchange(3)
		require.Equal(t, 2, ofA.count())
		require.Equal(t, 2, ofB.count())

		ofBoth := []*watch{n.watch(a.transport, 0), n.watch(b.transport, 0)}
		stranger := netip.MustParseAddrPort("203.0.113.9:9")
		before := []PeerStatus{a.Peers()[0], b.Peers()[0]}
		for i := range 2 {
			initiation, _ := ofA.at(i)
			response, _ := ofB.at(i)
			n.deliver(bytes.Clone(initiation), stranger, b.transport.address(), 0)
			n.deliver(bytes.Clone(response), stranger, a.transport.address(), 0)
			synctest.Wait()
			require.EqualValues(t, i+1, b.Stats().Drops[packet.Unauthentic])
			require.EqualValues(t, i+1, a.Stats().Drops[packet.Unauthentic])
		}
		require.Equal(t, before, []PeerStatus{a.Peers()[0], b.Peers()[0]})
		require.Zero(t, ofBoth[0].count()+ofBoth[1].count())
		exchange(4)
	})
}

func TestSourcesOutsideAllowedIPsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newPair(t)
		defer a.close()
		defer b.close()
		a.device.send(datagramTo(netip.MustParseAddr("10.0.0.66"), b.overlay, 1))
		a.device.send(datagramTo(a.overlay, b.overlay, 2))
		synctest.Wait()
		require.Equal(t, []uint32{2}, numbers(b.device.received()))
		require.EqualValues(t, 1, b.Stats().Drops[packet.NotAllowed])
		require.EqualValues(t, 1, b.Stats().RxPackets)
	})
}

func TestCongestionMarksCrossTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := newPair(t)
		defer a.close()
		defer b.close()
		speaks := datagramTo(a.overlay, b.overlay, 1)
		packet.Rewrite(speaks[:2], []byte{0x45, 2}, speaks[10:12]) // ECT(0)
		a.device.send(datagramTo(a.overlay, b.overlay, 0))
		synctest.Wait()
		b.device.received()
		sent := n.watch(a.transport, typeTransport)
		n.setFate(func([]byte, netip.AddrPort, netip.AddrPort) []time.Duration { return nil })
		mark := func(p []byte) [][]byte {
			a.device.send(p)
			synctest.Wait()
			last, _ := sent.at(sent.count() - 1)
			n.deliver(last, a.transport.address(), b.transport.address(), congestionExperienced)
			synctest.Wait()
			return b.device.received()
		}
		got := mark(speaks)
		require.Len(t, got, 1)
		require.EqualValues(t, congestionExperienced, got[0][1]&3)
		require.Zero(t, headerSum(got[0][:20]))
		require.Empty(t, mark(datagramTo(a.overlay, b.overlay, 2)), "who does not speak ECN sees a loss (RFC 6040)")
		require.EqualValues(t, 1, b.Stats().Drops[packet.Congested])
	})
}

func headerSum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
