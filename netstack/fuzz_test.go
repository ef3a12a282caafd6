package netstack

import (
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

// Whatever bytes come, as ordinary packets or as superpackets, nothing panics,
// and what the stack answers is well formed.
func FuzzWriteBatch(f *testing.F) {
	syn := tcpSegment(80, 2, nil)
	f.Add(syn, uint16(0), []byte{}, uint16(0))
	f.Add(tcpSegment(80, 0x18, make([]byte, 3000)), uint16(1000), syn, uint16(7))
	f.Add(echoRequest(f), uint16(0), echoRequest(f), uint16(1))
	f.Add(udpTo(addrA4.Addr(), 53, []byte("datagrams")), uint16(4), udpTo(addrA6.Addr(), 53, []byte("x")), uint16(0))
	f.Add(udpTo(addrA6.Addr(), 9, make([]byte, 100)), uint16(1), []byte{0x60}, uint16(65535))
	fragment := udpTo(addrA4.Addr(), 53, make([]byte, 64))
	fragment[6] = 0x20
	f.Add(fragment, uint16(0), fragment, uint16(8))

	s, err := New(Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	require.NoError(f, err)
	d := s.Device()
	_, err = s.Listen("tcp", ":80")
	require.NoError(f, err)
	_, err = s.ListenPacket("udp", ":53")
	require.NoError(f, err)
	f.Cleanup(func() { s.Close() })
	out := packet.NewBatch(0)
	f.Fuzz(func(t *testing.T, first []byte, seg1 uint16, second []byte, seg2 uint16) {
		if len(first) > packet.MaxSize || len(second) > packet.MaxSize {
			return
		}
		b := packet.NewBatch(0)
		b.Append(first, seg1)
		b.Append(second, seg2)
		require.NoError(t, d.WriteBatch(b))
		for waiting(&s.device.queue) { // what TCP answers later comes with the next
			require.NoError(t, d.ReadBatch(out))
			for i := range out.Packets {
				p := &out.Packets[i]
				require.True(t, p.Trim())
				require.True(t, p.Seg != 0 || len(p.Data) <= d.MTU())
			}
		}
	})
}

func waiting(q *queue) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count+q.acks.count > 0
}
