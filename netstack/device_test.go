package netstack

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// checksumOK reports whether an ordinary packet's checksums are right.
func checksumOK(p *packet.Packet) bool {
	t := p.Transport()
	src, dst := toAddress(p.SrcAddr()), toAddress(p.DstAddr())
	if p.Version() == 4 && checksum.Checksum(p.Data[:len(p.Data)-len(t)], 0) != 0xffff {
		return false
	}
	switch p.Protocol() {
	case packet.ProtocolTCP:
		return checksum.Checksum(t, header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(t)))) == 0xffff
	case packet.ProtocolUDP:
		return checksum.Checksum(t, header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(t)))) == 0xffff
	case packet.ProtocolICMP:
		return checksum.Checksum(t, 0) == 0xffff
	case packet.ProtocolICMPv6:
		return checksum.Checksum(t, header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, src, dst, uint16(len(t)))) == 0xffff
	}
	return false
}

// A tap looks at every packet that passes.
func tap(look func(p *packet.Packet)) wire {
	return func() func(*packet.Batch, packet.Device) error {
		return func(from *packet.Batch, to packet.Device) error {
			for i := range from.Packets {
				look(&from.Packets[i])
			}
			return to.WriteBatch(from)
		}
	}
}

func TestBulkTCPLeavesAsSuperpacketsThatFitOneSend(t *testing.T) {
	for _, tt := range []struct {
		mtu      int
		to       netip.Prefix
		segments int // at least in the largest
	}{
		{1420, addrB4, 44}, {1420, addrB6, 44}, {1280, addrB4, 48}, {1280, addrB6, 48},
		{1400, addrB6, 44}, {9000, addrB4, 7}, {60000, addrB4, 1},
	} {
		var mu sync.Mutex
		largest := 0
		look := func(p *packet.Packet) {
			mu.Lock()
			defer mu.Unlock()
			if p.Seg == 0 {
				assert.LessOrEqual(t, len(p.Data), tt.mtu)
				assert.True(t, checksumOK(p), "an ordinary packet's checksums are complete")
				return
			}
			headers := len(p.Data) - len(p.Transport()) + int(header.TCP(p.Transport()).DataOffset())
			segments := (len(p.Data) - headers + int(p.Seg) - 1) / int(p.Seg)
			largest = max(largest, segments)
			padded := (headers + int(p.Seg) + 15) / 16 * 16
			assert.LessOrEqual(t, headers+int(p.Seg), tt.mtu)
			assert.LessOrEqual(t, segments, 64)
			assert.LessOrEqual(t, segments*(padded+32), 65507)
		}
		// Reno, because cubic may leave slow start early when delays vary, and then
		// sends in smaller pieces for a while.
		config := Config{MTU: tt.mtu, TCP: TCP{CongestionControl: "reno"}}
		a, b := newPairOver(t, config, tap(look), tap(look))
		client, server := connect(t, a, b, "tcp", tt.to.Addr().String())
		go func() {
			client.Write(make([]byte, 4<<20))
			client.Close()
		}()
		n, err := io.Copy(io.Discard, server)
		require.NoError(t, err)
		require.EqualValues(t, 4<<20, n)
		require.NoError(t, server.Close())
		mu.Lock()
		got := max(largest, 1)
		mu.Unlock()
		require.GreaterOrEqual(t, got, tt.segments, "MTU %d to %s", tt.mtu, tt.to)
	}
}

func TestASuperpacketCutsIntoValidSegments(t *testing.T) {
	for _, to := range []netip.Prefix{addrB4, addrB6} {
		var c packet.Cutter
		look := func(p *packet.Packet) {
			whole := packet.Packet{}
			whole.Set(append([]byte(nil), p.Data...), p.Seg)
			assert.NoError(t, c.Start(&whole))
			for s := c.Next(); s != nil; s = c.Next() {
				var one packet.Packet
				one.Set(s, 0)
				assert.True(t, checksumOK(&one))
			}
		}
		a, b := newPairOver(t, Config{}, tap(look), whole)
		client, server := connect(t, a, b, "tcp", to.Addr().String())
		go func() {
			client.Write(make([]byte, 1<<20))
			client.Close()
		}()
		_, err := io.Copy(io.Discard, server)
		require.NoError(t, err)
		require.NoError(t, server.Close())
	}
}

func TestEveryPacketLentHasRoomToGrow(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	d := s.Device()
	pc, err := s.ListenPacket("udp", ":0")
	require.NoError(t, err)
	for _, size := range []int{0, 1, 100, 1392, 5000} { // the last in fragments
		_, err := pc.WriteTo(make([]byte, size), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB4.Addr(), 9)))
		require.NoError(t, err)
	}
	b := packet.NewBatch(0)
	require.NoError(t, d.ReadBatch(b))
	require.Len(t, b.Packets, 8)
	for i := range b.Packets {
		p := &b.Packets[i]
		require.GreaterOrEqual(t, cap(p.Data), max(len(p.Data), d.MTU())+packet.Slack)
		grown := p.Data[:cap(p.Data)]
		for j := range grown {
			grown[j] = byte(i)
		}
	}
	for i := range b.Packets {
		for _, c := range b.Packets[i].Data[:cap(b.Packets[i].Data)] {
			require.Equal(t, byte(i), c, "no packet grows into another")
		}
	}
}

func TestTheDeviceTellsItsNature(t *testing.T) {
	s, err := New(Config{Name: "here", MTU: 1300})
	require.NoError(t, err)
	d := s.Device()
	require.Equal(t, "here", d.Name())
	require.Equal(t, 1300, d.MTU())
	require.Equal(t, 1, d.Lanes())
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "closing twice is no error")
	require.NoError(t, s.Close())
	_, open := <-d.Events()
	require.False(t, open)
	require.ErrorIs(t, d.ReadBatch(packet.NewBatch(0)), net.ErrClosed)
	require.ErrorIs(t, d.ReadBatch(packet.NewBatch(0)), net.ErrClosed)
	require.ErrorIs(t, d.WriteBatch(packet.NewBatch(0)), net.ErrClosed)
	require.ErrorIs(t, s.SetAddrs(nil), net.ErrClosed)
	require.ErrorIs(t, s.SetRoutes(nil), net.ErrClosed)
}

func TestABatchOfAnyCapacityIsFilledNoFurther(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	pc, err := s.ListenPacket("udp", ":0")
	require.NoError(t, err)
	for range 5 {
		_, err := pc.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB4.Addr(), 9)))
		require.NoError(t, err)
	}
	b := &packet.Batch{Packets: make([]packet.Packet, 0, 2)}
	for _, want := range []int{2, 2, 1} {
		require.NoError(t, s.Device().ReadBatch(b))
		require.Len(t, b.Packets, want)
	}
}

// The reader is the writer: a packet it writes has the stack answer into the
// queue it reads from.
func TestTheReaderMayWriteWhileTheQueueIsFull(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	d := s.Device()
	request := echoRequest(t)
	in := packet.NewBatch(0)
	for s.Stats().Dropped < 10 {
		in.Reset()
		for !in.Full() {
			in.Append(append([]byte(nil), request...), 0)
		}
		require.NoError(t, d.WriteBatch(in))
	}
	out := packet.NewBatch(0)
	read := 0
	for read < queuePackets {
		require.NoError(t, d.ReadBatch(out))
		read += len(out.Packets)
	}
	require.Equal(t, queuePackets, read, "the bound")
	in.Reset()
	in.Append(request, 0)
	require.NoError(t, d.WriteBatch(in))
	require.NoError(t, d.ReadBatch(out), "and it recovers")
	require.Len(t, out.Packets, 1)
	require.Equal(t, addrB4.Addr(), out.Packets[0].DstAddr())
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}, MTU: 60000})
	const size, header = 50000, 28
	const buffer = 4 << 20 // the largest there is
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrB4.Addr(), 9))
	for s.Stats().Dropped == 0 {
		pc := listenPacket(t, s, "udp", ":0")
		require.NoError(t, pc.SetWriteBuffer(buffer))
		for range buffer / (size + 200) {
			_, err := pc.WriteTo(make([]byte, size), to)
			require.NoError(t, err)
		}
	}
	out := packet.NewBatch(0)
	bytes := 0
	for bytes <= queueBytes-(size+header) {
		require.NoError(t, s.Device().ReadBatch(out))
		for i := range out.Packets {
			bytes += len(out.Packets[i].Data)
		}
	}
	require.LessOrEqual(t, bytes, queueBytes)
	require.False(t, waiting(&s.device.queue))
}

// echoRequest is a ping from B's address to A's.
func echoRequest(t testing.TB) []byte {
	data := make([]byte, 28)
	header.IPv4(data).Encode(&header.IPv4Fields{
		TotalLength: 28, TTL: 64, Protocol: packet.ProtocolICMP,
		SrcAddr: toAddress(addrB4.Addr()), DstAddr: toAddress(addrA4.Addr()),
	})
	h := header.IPv4(data)
	h.SetChecksum(^h.CalculateChecksum())
	icmp := header.ICMPv4(data[20:])
	icmp.SetType(header.ICMPv4Echo)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return data
}

func TestMovingPacketsAllocatesNothing(t *testing.T) {
	a, b := newPairOver(t, Config{}, whole, whole)
	client, server := connect(t, a, b, "tcp", addrB4.Addr().String())
	defer client.Close()
	go func() {
		io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server})
		server.Close()
	}()
	buf := make([]byte, 1<<20)
	write := func() {
		_, err := client.Write(buf)
		require.NoError(t, err)
	}
	for range 64 {
		write()
	}
	perMB := testing.AllocsPerRun(64, write)
	t.Logf("%.1f allocations per MiB over both stacks", perMB)
	if !raceDetector() { // under which pools forget on purpose
		require.Less(t, perMB, 60.0)
	}
}

func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestUDPSuperpacketsArriveAsDatagrams(t *testing.T) {
	for _, local := range []netip.Prefix{addrA4, addrA6} {
		s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
		pc, err := s.ListenPacket("udp", addrPort(local, "53"))
		require.NoError(t, err)
		data := udpTo(local.Addr(), 53, []byte("onetwosix!"))
		b := packet.NewBatch(0)
		b.Append(data, 3)
		require.NoError(t, s.Device().WriteBatch(b))
		buf := make([]byte, 100)
		for _, want := range []string{"one", "two", "six", "!"} {
			n, _, err := pc.ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, want, string(buf[:n]))
		}
	}
}

// udpTo is a datagram from B with the checksum left out of it.
func udpTo(dst netip.Addr, port uint16, payload []byte) []byte {
	var data []byte
	if dst.Is4() {
		data = make([]byte, 28+len(payload))
		header.IPv4(data).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(data)), TTL: 64, Protocol: packet.ProtocolUDP,
			SrcAddr: toAddress(addrB4.Addr()), DstAddr: toAddress(dst),
		})
		header.IPv4(data).SetChecksum(^header.IPv4(data).CalculateChecksum())
	} else {
		data = make([]byte, 48+len(payload))
		header.IPv6(data).Encode(&header.IPv6Fields{
			PayloadLength: uint16(8 + len(payload)), TransportProtocol: packet.ProtocolUDP, HopLimit: 64,
			SrcAddr: toAddress(addrB6.Addr()), DstAddr: toAddress(dst),
		})
	}
	u := data[len(data)-8-len(payload):]
	header.UDP(u).Encode(&header.UDPFields{SrcPort: 4000, DstPort: port, Length: uint16(len(u))})
	copy(u[8:], payload)
	return data
}

// tcpSegment is a segment from B's address to A's.
func tcpSegment(port uint16, flags byte, payload []byte) []byte {
	data := make([]byte, 40+len(payload))
	header.IPv4(data).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(data)), TTL: 64, Protocol: packet.ProtocolTCP,
		SrcAddr: toAddress(addrB4.Addr()), DstAddr: toAddress(addrA4.Addr()),
	})
	header.IPv4(data).SetChecksum(^header.IPv4(data).CalculateChecksum())
	t := header.TCP(data[20:])
	t.Encode(&header.TCPFields{SrcPort: 4000, DstPort: port, SeqNum: 1, DataOffset: 20, Flags: header.TCPFlags(flags), WindowSize: 1000})
	copy(t[20:], payload)
	t.SetChecksum(^checksum.Checksum(t, header.PseudoHeaderChecksum(header.TCPProtocolNumber,
		toAddress(addrB4.Addr()), toAddress(addrA4.Addr()), uint16(len(t)))))
	return data
}

func TestWrongChecksumsAreRefusedUnlessMerged(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA6}})
	pc, err := s.ListenPacket("udp", ":53")
	require.NoError(t, err)
	b := packet.NewBatch(0)
	bad := udpTo(addrA6.Addr(), 53, []byte("bad"))
	binary.BigEndian.PutUint16(bad[46:], 0x1234)
	b.Append(bad, 0)
	require.NoError(t, s.Device().WriteBatch(b))
	require.EqualValues(t, 1, s.Stats().BadChecksums)
	require.NoError(t, pc.SetReadDeadline(time.Now()))
	_, _, err = pc.ReadFrom(make([]byte, 1))
	require.Error(t, err)
}

func TestPacketsThatNobodyMaySendAreDropped(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	b := packet.NewBatch(0)
	b.Append(nil, 0)
	b.Append([]byte{0x45, 0, 0}, 0)
	b.Append(make([]byte, 100), 0)
	b.Append(udpTo(netip.MustParseAddr("127.0.0.1"), 53, nil), 0)
	b.Append(udpTo(netip.IPv6Loopback(), 53, nil), 0)
	want := len(b.Packets)
	require.NoError(t, s.Device().WriteBatch(b))
	b.Sweep()
	require.Empty(t, b.Packets)
	require.Equal(t, want, b.Drops(packet.Malformed))
}

func TestAbsurdPathMTUsAreNotBelieved(t *testing.T) {
	for _, tt := range []struct {
		name    string
		to      netip.Prefix
		message func(quoted []byte) []byte
	}{
		{"IPv4", addrB4, func(quoted []byte) []byte {
			h := header.ICMPv4(make([]byte, 8))
			h.SetType(header.ICMPv4DstUnreachable)
			h.SetCode(header.ICMPv4FragmentationNeeded)
			h.SetMTU(68)
			m := append(h, quoted...)
			header.ICMPv4(m).SetChecksum(^checksum.Checksum(m, 0))
			ip := header.IPv4(make([]byte, 20))
			ip.Encode(&header.IPv4Fields{TotalLength: uint16(20 + len(m)), TTL: 64, Protocol: packet.ProtocolICMP,
				SrcAddr: toAddress(addrB4.Addr()), DstAddr: toAddress(addrA4.Addr())})
			ip.SetChecksum(^ip.CalculateChecksum())
			return append(ip, m...)
		}},
		{"IPv6", addrB6, func(quoted []byte) []byte {
			h := header.ICMPv6(make([]byte, 8))
			h.SetType(header.ICMPv6PacketTooBig)
			binary.BigEndian.PutUint32(h[4:], 100)
			m := append(h, quoted...)
			src, dst := toAddress(addrB6.Addr()), toAddress(addrA6.Addr())
			header.ICMPv6(m).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: src, Dst: dst}))
			ip := header.IPv6(make([]byte, 40))
			ip.Encode(&header.IPv6Fields{PayloadLength: uint16(len(m)), TransportProtocol: packet.ProtocolICMPv6, HopLimit: 64, SrcAddr: src, DstAddr: dst})
			return append(ip, m...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var quoted []byte
			smallest := uint16(0xffff)
			look := func(p *packet.Packet) {
				mu.Lock()
				defer mu.Unlock()
				quoted = append(quoted[:0], p.Data[:min(len(p.Data), 60)]...)
				if p.Seg != 0 {
					smallest = min(smallest, p.Seg)
				}
			}
			a, b := newPairOver(t, Config{}, tap(look), whole)
			client, server := connect(t, a, b, "tcp", tt.to.Addr().String())
			batch := packet.NewBatch(0)
			mu.Lock()
			p := batch.Append(tt.message(quoted), 0)
			mu.Unlock()
			require.NoError(t, a.Device().WriteBatch(batch))
			require.False(t, p.Live())
			go func() {
				client.Write(make([]byte, 1<<20))
				client.Close()
			}()
			_, err := io.Copy(io.Discard, server)
			require.NoError(t, err)
			server.Close()
			mu.Lock()
			got := smallest
			mu.Unlock()
			require.Greater(t, got, uint16(1300))
		})
	}
}

func TestAStackThatDoesNothingSendsNothing(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4, addrA6}})
	require.NoError(t, s.SetAddrs([]netip.Prefix{addrA6}))
	_, err := s.Listen("tcp", ":80")
	require.NoError(t, err)
	require.False(t, waiting(&s.device.queue))
}
