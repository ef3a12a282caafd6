package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// virtio is a header in the fields' order of struct virtio_net_hdr.
func virtio(flags, kind byte, headerLen, size, sumStart, sumOffset uint16) []byte {
	h := []byte{flags, kind}
	for _, field := range []uint16{headerLen, size, sumStart, sumOffset} {
		h = binary.NativeEndian.AppendUint16(h, field)
	}
	return h
}

// partial is data as the kernel leaves it to be finished: with the sum of the
// pseudo header where the checksum is to be.
func partial(data []byte, protocol uint8, transport, offset int) []byte {
	var p packet.Packet
	p.Set(bytes.Clone(data), 0)
	sum := packet.PseudoSum(protocol, p.SrcAddr(), p.DstAddr(), len(data)-transport)
	binary.BigEndian.PutUint16(p.Data[transport+offset:], sum)
	return p.Data
}

func TestChecksumsOfOrdinaryPacketsAreFinished(t *testing.T) {
	const needs = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	for name, c := range map[string]struct {
		whole             []byte
		protocol          uint8
		transport, offset int
	}{
		"UDP over IPv4":      {testnet.UDP(here4, there4, payload(64)), packet.ProtocolUDP, 20, 6},
		"UDP over IPv6":      {testnet.UDP(here6, there6, payload(63)), packet.ProtocolUDP, 40, 6},
		"TCP over IPv4":      {testnet.TCP(here4, there4, 7, payload(1)), packet.ProtocolTCP, 20, 16},
		"TCP over IPv6":      {testnet.TCP(here6, there6, 7, nil), packet.ProtocolTCP, 40, 16},
		"a sum that is zero": {testnet.UDP(here4, there4, zeroSum(t)), packet.ProtocolUDP, 20, 6},
	} {
		t.Run(name, func(t *testing.T) {
			var p packet.Packet
			p.Set(partial(c.whole, c.protocol, c.transport, c.offset), 0)
			require.True(t, unpackVirtio(virtio(needs, 0, 0, 0, uint16(c.transport), uint16(c.offset)), &p))
			require.Equal(t, c.whole, p.Data)
			require.Zero(t, p.Seg)
		})
	}
}

// zeroSum is a payload that makes the UDP checksum between here4 and there4 come
// out as zero, which is sent as 0xffff (RFC 768).
func zeroSum(t *testing.T) []byte {
	p := make([]byte, 2)
	sum := testnet.UDP(here4, there4, p)[26:28]
	copy(p, sum)
	require.Equal(t, []byte{0xff, 0xff}, testnet.UDP(here4, there4, p)[26:28])
	return p
}

func TestASuperpacketIsReadAsItWasWritten(t *testing.T) {
	withFlags := func(data []byte, flags byte) []byte { data[33] |= flags; return data }
	for name, c := range map[string]struct {
		data []byte
		seg  uint16
		kind byte
	}{
		"TCP over IPv4":              {testnet.TCP(here4, there4, 7, payload(5000)), 1380, unix.VIRTIO_NET_HDR_GSO_TCPV4},
		"TCP over IPv6":              {testnet.TCP(here6, there6, 7, payload(5000)), 1360, unix.VIRTIO_NET_HDR_GSO_TCPV6},
		"TCP that slowed down":       {withFlags(testnet.TCP(here4, there4, 7, payload(5000)), 0x80), 1380, unix.VIRTIO_NET_HDR_GSO_TCPV4 | unix.VIRTIO_NET_HDR_GSO_ECN},
		"UDP over IPv4":              {testnet.UDP(here4, there4, payload(5000)), 1200, unix.VIRTIO_NET_HDR_GSO_UDP_L4},
		"UDP over IPv6":              {testnet.UDP(here6, there6, payload(5000)), 1200, unix.VIRTIO_NET_HDR_GSO_UDP_L4},
		"the largest":                {testnet.TCP(here4, there4, 7, payload(65495)), 1380, unix.VIRTIO_NET_HDR_GSO_TCPV4},
		"one byte more than segment": {testnet.TCP(here4, there4, 7, payload(1381)), 1380, unix.VIRTIO_NET_HDR_GSO_TCPV4},
	} {
		t.Run(name, func(t *testing.T) {
			var out, in packet.Packet
			out.Set(bytes.Clone(c.data), c.seg)
			h, ok := packVirtio(&out, allTUNOffloads)
			require.True(t, ok)
			require.Equal(t, c.kind, h[1])
			require.EqualValues(t, unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, h[0])

			in.Set(bytes.Clone(out.Data), 0)
			require.True(t, unpackVirtio(h[:], &in))
			require.Equal(t, c.seg, in.Seg)
			require.Equal(t, segments(t, c.data, c.seg), segments(t, in.Data, in.Seg))
		})
	}
}

func segments(t testing.TB, data []byte, seg uint16) (list [][]byte) {
	t.Helper()
	var p packet.Packet
	p.Set(bytes.Clone(data), seg)
	var c packet.Cutter
	require.NoError(t, c.Start(&p))
	for s := c.Next(); s != nil; s = c.Next() {
		list = append(list, bytes.Clone(s))
	}
	return list
}

func TestASuperpacketOfOneSegmentIsAnOrdinaryPacket(t *testing.T) {
	whole := testnet.TCP(here4, there4, 7, payload(1000))
	var p packet.Packet
	p.Set(bytes.Clone(whole), 1000)
	h, ok := packVirtio(&p, allTUNOffloads)
	require.True(t, ok)
	require.Zero(t, h[1])

	for _, kind := range []byte{h[1], unix.VIRTIO_NET_HDR_GSO_TCPV4} {
		h[1] = kind
		binary.NativeEndian.PutUint16(h[4:], 1380)
		p.Set(partial(whole, packet.ProtocolTCP, 20, 16), 0)
		require.True(t, unpackVirtio(h[:], &p))
		require.Zero(t, p.Seg)
		require.Equal(t, whole, p.Data)
	}
}

func TestWhatTheKernelHasNotIsCut(t *testing.T) {
	tcp, udp := testnet.TCP(here4, there4, 7, payload(5000)), testnet.UDP(here4, there4, payload(5000))
	for _, c := range []struct {
		offloads tunOffloads
		tcp, udp bool
	}{
		{allTUNOffloads, true, true},
		{allTUNOffloads &^ udpOffloads, true, false},
		{unix.TUN_F_CSUM, false, false},
		{0, false, false},
	} {
		var p packet.Packet
		p.Set(bytes.Clone(tcp), 1000)
		_, ok := packVirtio(&p, c.offloads)
		require.Equal(t, c.tcp, ok)
		p.Set(bytes.Clone(udp), 1000)
		_, ok = packVirtio(&p, c.offloads)
		require.Equal(t, c.udp, ok)
		require.Equal(t, c.udp, c.offloads.udp())
	}
}

func TestHeadersThatDoNotFitThePacketAreRefused(t *testing.T) {
	const (
		needs = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
		tcp4  = unix.VIRTIO_NET_HDR_GSO_TCPV4
		tcp6  = unix.VIRTIO_NET_HDR_GSO_TCPV6
		udp   = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	)
	super := testnet.TCP(here4, there4, 7, payload(5000))
	fragment := bytes.Clone(super)
	fragment[6] = 0x20 // more fragments
	longer := append(bytes.Clone(super), 1, 2, 3)
	for name, c := range map[string]struct {
		header, data []byte
	}{
		"a checksum past the end":           {virtio(needs, 0, 0, 0, 20, 5019), super},
		"a checksum at the end of 16 bits":  {virtio(needs, 0, 0, 0, 65535, 65535), super},
		"a kind nobody asked for":           {virtio(needs, unix.VIRTIO_NET_HDR_GSO_UDP, 0, 1000, 20, 16), super},
		"IPv6 in front of IPv4":             {virtio(needs, tcp6, 0, 1000, 20, 16), super},
		"UDP in front of TCP":               {virtio(needs, udp, 0, 1000, 20, 16), super},
		"segments of nothing":               {virtio(needs, tcp4, 0, 0, 20, 16), super},
		"a fragment":                        {virtio(needs, tcp4, 0, 1000, 20, 16), fragment},
		"more than the IP header has":       {virtio(needs, tcp4, 0, 1000, 20, 16), longer},
		"half a TCP header":                 {virtio(needs, tcp4, 0, 1000, 20, 16), super[:30]},
		"no packet":                         {virtio(needs, tcp4, 0, 1000, 20, 16), nil},
		"a TCP header longer than there is": {virtio(needs, tcp4, 0, 1000, 20, 16), longTCP()},
	} {
		var p packet.Packet
		p.Set(bytes.Clone(c.data), 0)
		require.False(t, unpackVirtio(c.header, &p), name)
	}
}

func longTCP() []byte {
	data := testnet.TCP(here4, there4, 7, nil)
	data[32] = 15 << 4
	return data
}

func FuzzVirtio(f *testing.F) {
	for _, data := range [][]byte{ // small ones, because the fuzzer takes long to shrink others
		testnet.TCP(here4, there4, 7, payload(50)),
		testnet.TCP(here6, there6, 7, payload(30)),
		testnet.UDP(here4, there4, payload(30)),
		testnet.UDP(netip.MustParseAddrPort("[fd00::1]:53"), there6, payload(20)),
		{},
	} {
		f.Add(virtio(1, unix.VIRTIO_NET_HDR_GSO_TCPV4, 40, 13, 20, 16), data, uint16(13))
		f.Add(virtio(1, unix.VIRTIO_NET_HDR_GSO_UDP_L4, 48, 10, 40, 6), data, uint16(0))
		f.Add(virtio(1, unix.VIRTIO_NET_HDR_GSO_TCPV6|unix.VIRTIO_NET_HDR_GSO_ECN, 60, 1, 40, 16), data, uint16(1))
	}
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	require.NoError(f, err)
	f.Cleanup(func() { null.Close() })
	takesAll := newTUN("null", []int{dup(f, null)}, 1420, allTUNOffloads)
	takesNone := newTUN("null", []int{dup(f, null)}, 1420, 0)
	f.Cleanup(func() { takesAll.Close(); takesNone.Close() })
	batch := packet.NewBatch(0)

	f.Fuzz(func(t *testing.T, header, data []byte, seg uint16) {
		if len(header) < virtioHeaderSize || len(data) > packet.MaxSize {
			return
		}
		var p packet.Packet
		p.Set(bytes.Clone(data), 0)
		if unpackVirtio(header[:virtioHeaderSize], &p) {
			require.Len(t, p.Data, len(data))
			if p.Seg != 0 {
				s, ok := shapeOf(&p)
				require.True(t, ok)
				require.Greater(t, len(data)-s.payload, int(p.Seg))
				h, ok := packVirtio(&p, allTUNOffloads)
				require.True(t, ok)
				var again packet.Packet
				again.Set(p.Data, 0)
				require.True(t, unpackVirtio(h[:], &again))
				require.Equal(t, p.Seg, again.Seg)
			}
		}
		for _, dev := range []*TUN{takesAll, takesNone} {
			batch.Reset()
			batch.Append(bytes.Clone(data), seg)
			require.NoError(t, dev.WriteBatch(batch))
		}
	})
}

func dup(t testing.TB, f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	return fd
}
