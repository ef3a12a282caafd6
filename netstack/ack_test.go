package netstack

import (
	"io"
	"net/netip"
	"sync"
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
	seq     uint32
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
		SrcPort: 1, DstPort: 2, SeqNum: s.seq, AckNum: s.ack, Flags: s.flags,
		DataOffset: uint8(header.TCPMinimumSize + len(s.options)),
	})
	copy(h[header.TCPMinimumSize:], s.options)
	p.TransportProtocolNumber = header.TCPProtocolNumber
	header.IPv4(p.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{})
	p.NetworkProtocolNumber = header.IPv4ProtocolNumber
	p.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: 1000}
	p.EgressRoute.RemoteAddress = tcpip.AddrFrom4([4]byte{10, 0, 0, s.to})
	return p
}

// leaving pushes segments and pops them again, all in one go or one with each pop,
// and returns which left and in what order; one that carries the FIN of another has
// it with a fraction.
func leaving(t *testing.T, packets []sent, size int) (order []float64) {
	q := queue{wake: make(chan struct{}, 1)}
	var all []*stack.PacketBuffer
	for _, s := range packets {
		p := s.packet()
		all = append(all, p)
		require.True(t, q.push(p))
	}
	into := make([]queued, size)
	for waiting(&q) {
		n, ok := q.pop(into, func(int) bool { return true })
		require.True(t, ok)
		require.NotZero(t, n)
		for i := range into[:n] {
			for j, p := range all {
				if into[i].pkt == p {
					at := float64(j)
					if into[i].fin {
						at += 0.5
					}
					order = append(order, at)
				}
			}
			into[i].pkt.DecRef()
			into[i] = queued{}
		}
	}
	require.Zero(t, q.bytes)
	for i, p := range all {
		p.DecRef()
		require.Zero(t, p.ReadRefs(), "packet %d", i)
	}
	return order
}

func TestAnAcknowledgementGivesWayToWhatSaysTheSame(t *testing.T) {
	const ack, data, fin = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagFin | header.TCPFlagAck
	timestamps := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	sack := []byte{1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10}
	for name, c := range map[string]struct {
		packets []sent
		leave   []float64
	}{
		"data right behind it":             {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 5, data, nil, "x"}}, []float64{1}},
		"data that acknowledges more":      {[]sent{{1, 7, 5, ack, timestamps, ""}, {1, 7, 6, data, timestamps, "x"}}, []float64{1}},
		"data after that of others":        {[]sent{{1, 7, 5, ack, nil, ""}, {2, 7, 5, data, nil, "x"}, {1, 7, 5, data, nil, "x"}}, []float64{1, 2}},
		"several, and then data":           {[]sent{{1, 7, 4, ack, nil, ""}, {1, 7, 5, ack, nil, ""}, {1, 7, 5, data, nil, "x"}}, []float64{2}},
		"nothing behind it":                {[]sent{{1, 7, 5, ack, nil, ""}}, []float64{0}},
		"another acknowledgement":          {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 6, ack, nil, ""}}, []float64{0, 1}},
		"data that acknowledges less":      {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 4, data, nil, "x"}}, []float64{0, 1}},
		"data of another connection":       {[]sent{{1, 7, 5, ack, nil, ""}, {2, 7, 5, data, nil, "x"}}, []float64{1, 0}},
		"what is missing is told":          {[]sent{{1, 7, 5, ack, sack, ""}, {1, 7, 5, data, timestamps, "x"}}, []float64{0, 1}},
		"it comes before what is missing":  {[]sent{{1, 7, 5, ack, timestamps, ""}, {1, 7, 5, ack, sack, ""}}, []float64{0, 1}},
		"a reset behind it":                {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 5, header.TCPFlagRst | ack, nil, ""}}, []float64{0, 1}},
		"a FIN with data behind it":        {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 5, header.TCPFlagFin | data, nil, "x"}}, []float64{1}},
		"a FIN right behind it":            {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 5, fin, nil, ""}}, []float64{1}},
		"data and its end behind it":       {[]sent{{1, 7, 5, ack, nil, ""}, {1, 7, 5, data, nil, "x"}, {1, 8, 5, fin, nil, ""}}, []float64{1.5}},
		"it ends the connection":           {[]sent{{1, 7, 5, fin, nil, ""}, {1, 7, 5, data, nil, "x"}}, []float64{0, 1}},
		"it has data itself":               {[]sent{{1, 7, 5, data, nil, "a"}, {1, 8, 5, data, nil, "b"}}, []float64{0, 1}},
		"it says congestion was heard":     {[]sent{{1, 7, 5, header.TCPFlags(0x40) | ack, nil, ""}, {1, 7, 5, data, nil, "x"}}, []float64{0, 1}},
		"more at once than may wait":       {append(acknowledgements(maxWaitingAcks+2), sent{1, 7, 100, data, nil, "x"}), append(upTo(maxWaitingAcks), maxWaitingAcks+2)},
		"more at once than may wait, late": {acknowledgements(maxWaitingAcks + 2), upTo(maxWaitingAcks + 2)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.leave, leaving(t, c.packets, packet.BatchSize))
		})
	}
}

// acknowledgements of one connection, each of more than the last.
func acknowledgements(n int) (all []sent) {
	for i := range n {
		all = append(all, sent{1, 7, uint32(i), header.TCPFlagAck, nil, ""})
	}
	return all
}

func upTo(n int) (all []float64) {
	for i := range n {
		all = append(all, float64(i))
	}
	return all
}

func TestAnEndGoesWithTheLastData(t *testing.T) {
	const ack, data, fin = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagFin | header.TCPFlagAck
	for name, c := range map[string]struct {
		packets []sent
		leave   []float64
	}{
		"right behind it":          {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, fin, nil, ""}}, []float64{0.5}},
		"after others' data":       {[]sent{{1, 7, 5, data, nil, "abc"}, {2, 7, 5, data, nil, "x"}, {1, 10, 5, fin, nil, ""}}, []float64{0.5, 1}},
		"two of them":              {[]sent{{1, 7, 5, data, nil, "a"}, {2, 7, 5, data, nil, "b"}, {2, 8, 5, fin, nil, ""}, {1, 8, 5, fin, nil, ""}}, []float64{0.5, 1.5}},
		"after data that is gone":  {[]sent{{1, 10, 5, fin, nil, ""}}, []float64{0}},
		"after a gap":              {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 11, 5, fin, nil, ""}}, []float64{0, 1}},
		"acknowledging more":       {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 6, fin, nil, ""}}, []float64{0, 1}},
		"with data of its own":     {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, fin, nil, "d"}}, []float64{0, 1}},
		"after another end":        {[]sent{{1, 7, 5, fin, nil, "abc"}, {1, 10, 5, fin, nil, ""}}, []float64{0, 1}},
		"of another connection":    {[]sent{{1, 7, 5, data, nil, "abc"}, {2, 10, 5, fin, nil, ""}}, []float64{0, 1}},
		"with a reset":             {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, fin | header.TCPFlagRst, nil, ""}}, []float64{0, 1}},
		"after what is missing":    {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, ack, []byte{1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10}, ""}, {1, 10, 5, fin, nil, ""}}, []float64{0, 1, 2}},
		"after an acknowledgement": {[]sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, ack, nil, ""}, {1, 10, 5, fin, nil, ""}}, []float64{0.5}},
		"after urgent data":        {[]sent{{1, 7, 5, data | header.TCPFlagUrg, nil, "abc"}, {1, 10, 5, fin, nil, ""}}, []float64{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.leave, leaving(t, c.packets, packet.BatchSize))
		})
	}
	t.Run("unless it left before", func(t *testing.T) {
		require.Equal(t, []float64{0, 1}, leaving(t, []sent{{1, 7, 5, data, nil, "abc"}, {1, 10, 5, fin, nil, ""}}, 1))
	})
}

// What leaves a connection says all that was to be said, in the order it was said,
// whatever waits, gives way or goes with something else.
func FuzzQueueKeepsItsWord(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 16, 17, 34, 51}, uint8(3))
	f.Add([]byte{0, 0, 1, 3, 3, 16, 1, 2, 19}, uint8(64))
	f.Fuzz(func(t *testing.T, ops []byte, size uint8) {
		if len(ops) > 300 {
			return
		}
		const connections = 4
		var seq, ack [connections]uint32
		var packets []sent
		for _, op := range ops {
			c := op >> 4 % connections
			s := sent{to: c + 1, seq: seq[c], ack: ack[c], flags: header.TCPFlagAck}
			switch op % 8 {
			case 0:
				ack[c]++
				s.ack = ack[c]
			case 1: // the same again
			case 2, 3:
				s.payload = "data"[:1+op%4]
			case 4:
				s.flags |= header.TCPFlagFin
			case 5:
				s.options = []byte{1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 10}
			case 6:
				ack[c]++
				s.ack = ack[c]
				s.payload = "x"
			case 7:
				s.flags |= header.TCPFlagRst
			}
			seq[c] += uint32(len(s.payload))
			if s.flags&header.TCPFlagFin != 0 {
				seq[c]++
			}
			packets = append(packets, s)
		}
		order := leaving(t, packets, max(1, int(size)%packet.BatchSize))

		left := make([]bool, len(packets))
		last := make([]int, connections+1)
		for i := range last {
			last[i] = -1
		}
		ends := make([]int, connections+1) // FINs that went with data
		for _, at := range order {
			i := int(at)
			to := packets[i].to
			require.Greater(t, i, last[to], "the order of %d", to)
			require.False(t, left[i])
			last[to], left[i] = i, true
			if float64(i) != at {
				ends[to]++
				require.NotEmpty(t, packets[i].payload)
			}
		}
		for i, s := range packets {
			if left[i] {
				continue
			}
			switch s.flags {
			case header.TCPFlagAck | header.TCPFlagFin:
				require.Empty(t, s.payload)
				ends[s.to]--
			case header.TCPFlagAck:
				require.Empty(t, s.payload)
				require.Empty(t, s.options)
				said := false
				for j := i + 1; j < len(packets) && !said; j++ {
					later := packets[j]
					said = later.to == s.to && later.ack >= s.ack && (later.payload != "" || later.flags&header.TCPFlagFin != 0)
				}
				require.True(t, said, "packet %d, and what it acknowledges, is lost", i)
			default:
				t.Errorf("packet %d is lost", i)
			}
		}
		for to, n := range ends {
			require.Zero(t, n, "the ends of %d", to)
		}
	})
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

// Without any of it a connection of one request takes ten.
func TestAConnectionOfOneRequestTakesFewPackets(t *testing.T) {
	var packets atomic.Int64
	a, b := newPairOver(t, Config{}, counted(&packets), counted(&packets))
	l, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				io.CopyN(c, c, 1)
			})
		}
	})
	const rounds = 300
	for range rounds {
		c, err := a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addrB4.Addr(), 80).String())
		require.NoError(t, err)
		_, err = c.Write([]byte{1})
		require.NoError(t, err)
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, []byte{1}, answer)
		require.NoError(t, c.Close())
	}
	require.Less(t, packets.Load(), int64(rounds*9))
	require.NoError(t, l.Close())
	served.Wait()
}
