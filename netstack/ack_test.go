package netstack

import (
	"io"
	"sync/atomic"
	"testing"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A sent is a TCP segment as gVisor gives it to the link.
type sent struct {
	to      byte // last byte of the remote address
	ack     uint32
	flags   header.TCPFlags
	options []byte
	payload string
}

func (s sent) packet() *stack.PacketBuffer {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize + len(s.options),
		Payload:            buffer.MakeWithData([]byte(s.payload)),
	})
	h := header.TCP(p.TransportHeader().Push(header.TCPMinimumSize + len(s.options)))
	h.Encode(&header.TCPFields{
		SrcPort: 1, DstPort: 2, SeqNum: 7, AckNum: s.ack, Flags: s.flags,
		DataOffset: uint8(header.TCPMinimumSize + len(s.options)),
	})
	copy(h[header.TCPMinimumSize:], s.options)
	p.TransportProtocolNumber = header.TCPProtocolNumber
	header.IPv4(p.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{})
	p.NetworkProtocolNumber = header.IPv4ProtocolNumber
	p.EgressRoute.RemoteAddress = tcpip.AddrFrom4([4]byte{10, 0, 0, s.to})
	return p
}

func TestAnAcknowledgementGivesWayToDataThatSaysTheSame(t *testing.T) {
	const ack, data = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh
	timestamps := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	sack := []byte{1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10}
	for name, c := range map[string]struct {
		packets []sent
		leave   []int
	}{
		"data right behind it":         {[]sent{{1, 5, ack, nil, ""}, {1, 5, data, nil, "x"}}, []int{1}},
		"data that acknowledges more":  {[]sent{{1, 5, ack, timestamps, ""}, {1, 6, data, timestamps, "x"}}, []int{1}},
		"several, and then data":       {[]sent{{1, 4, ack, nil, ""}, {1, 5, ack, nil, ""}, {1, 5, data, nil, "x"}}, []int{0, 2}},
		"nothing behind it":            {[]sent{{1, 5, ack, nil, ""}}, []int{0}},
		"another acknowledgement":      {[]sent{{1, 5, ack, nil, ""}, {1, 5, ack, nil, ""}}, []int{0, 1}},
		"data that acknowledges less":  {[]sent{{1, 5, ack, nil, ""}, {1, 4, data, nil, "x"}}, []int{0, 1}},
		"data of another connection":   {[]sent{{1, 5, ack, nil, ""}, {2, 5, data, nil, "x"}}, []int{0, 1}},
		"what is missing is told":      {[]sent{{1, 5, ack, sack, ""}, {1, 5, data, timestamps, "x"}}, []int{0, 1}},
		"a reset behind it":            {[]sent{{1, 5, ack, nil, ""}, {1, 5, header.TCPFlagRst | ack, nil, ""}}, []int{0, 1}},
		"a FIN with data behind it":    {[]sent{{1, 5, ack, nil, ""}, {1, 5, header.TCPFlagFin | data, nil, "x"}}, []int{1}},
		"a FIN right behind it":        {[]sent{{1, 5, ack, nil, ""}, {1, 5, header.TCPFlagFin | ack, nil, ""}}, []int{1}},
		"it ends the connection":       {[]sent{{1, 5, header.TCPFlagFin | ack, nil, ""}, {1, 5, data, nil, "x"}}, []int{0, 1}},
		"it has data itself":           {[]sent{{1, 5, data, nil, "a"}, {1, 5, data, nil, "b"}}, []int{0, 1}},
		"it says congestion was heard": {[]sent{{1, 5, header.TCPFlags(0x40) | ack, nil, ""}, {1, 5, data, nil, "x"}}, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			q := queue{wake: make(chan struct{}, 1)}
			var all []*stack.PacketBuffer
			for _, s := range c.packets {
				p := s.packet()
				all = append(all, p)
				require.True(t, q.push(p))
			}
			into := make([]queued, 8)
			n, ok := q.pop(into, func(int) bool { return true })
			require.True(t, ok)
			var leave []int
			for i := range into[:n] {
				for j, p := range all {
					if into[i].pkt == p {
						leave = append(leave, j)
					}
				}
				into[i].pkt.DecRef()
			}
			require.Equal(t, c.leave, leave)
			require.Zero(t, q.bytes)
		})
	}
}

// counted is whole, and counts.
func counted(n *atomic.Int64) wire {
	return func() func(from *packet.Batch, to packet.Device) error {
		return func(from *packet.Batch, to packet.Device) error {
			n.Add(int64(len(from.Packets)))
			return to.WriteBatch(from)
		}
	}
}

func TestARequestAndItsResponseAreTwoPackets(t *testing.T) {
	var packets atomic.Int64
	a, b := newPairOver(t, Config{}, counted(&packets), counted(&packets))
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	go func() {
		io.Copy(server, server)
		server.Close()
	}()
	const rounds = 500
	buf := make([]byte, 1)
	before := packets.Load()
	for range rounds {
		_, err := client.Write(buf)
		require.NoError(t, err)
		_, err = io.ReadFull(client, buf)
		require.NoError(t, err)
	}
	require.Less(t, packets.Load()-before, int64(rounds*7/2), "without superseding there are four")
	require.NoError(t, client.Close())
}
