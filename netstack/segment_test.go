package netstack

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// held gives each segment with data to a channel instead of the device.
func held(data chan<- []byte) wire {
	return func() func(from *packet.Batch, to packet.Device) error {
		rest := packet.NewBatch(0)
		return func(from *packet.Batch, to packet.Device) error {
			rest.Reset()
			for i := range from.Packets {
				p := &from.Packets[i]
				if h := header.TCP(p.Transport()); len(h) > int(h.DataOffset()) {
					select {
					case data <- append([]byte(nil), p.Data...):
					default: // again
					}
					continue
				}
				rest.Append(p.Data, p.Seg)
			}
			return to.WriteBatch(rest)
		}
	}
}

func TestASegmentGoesToItsConnectionOnlyIfItIsOne(t *testing.T) {
	source := func(a netip.Addr) func([]byte) []byte {
		return func(d []byte) []byte {
			if a.Is4() {
				copy(d[12:16], a.AsSlice())
			} else {
				copy(d[8:24], a.AsSlice())
			}
			return finished(d)
		}
	}
	at4 := func(offset int, b byte) func([]byte) []byte {
		return func(d []byte) []byte { d[offset] = b; return d }
	}
	as := func(d []byte, f func([]byte) []byte) []byte { return f(append([]byte(nil), d...)) }
	type change struct {
		change  func([]byte) []byte
		direct  bool // it goes to the connection without further ado
		arrives bool
	}
	for family, test := range map[string]struct {
		to      netip.Prefix
		changes map[string]change
	}{
		"IPv4": {addrB4, map[string]change{
			"as it was":                        {func(d []byte) []byte { return d }, true, true},
			"with a wrong header checksum":     {func(d []byte) []byte { d[10] ^= 1; return d }, false, false},
			"shorter than it says":             {func(d []byte) []byte { return d[:len(d)-1] }, false, false},
			"longer than it says":              {func(d []byte) []byte { return append(d, 0, 0) }, false, true},
			"a fragment":                       {func(d []byte) []byte { d[6] = 0x20; return finished(d) }, false, false},
			"with an option":                   {withOption4, false, true},
			"from the receiver":                {source(addrB4.Addr()), false, false},
			"from somebody else":               {source(netip.MustParseAddr("10.200.0.77")), false, false},
			"from nowhere":                     {source(netip.IPv4Unspecified()), false, false},
			"with a TCP header that is short":  {at4(20+12, 4<<4), false, false},
			"with a TCP header that is long":   {at4(20+12, 15<<4), false, false},
			"with a wrong transport checksum":  {func(d []byte) []byte { d[20+16] ^= 1; return d }, true, false},
			"to a port where nobody listens":   {func(d []byte) []byte { d[22] ^= 0xff; return finished(d) }, false, false},
			"from a port that nobody has":      {func(d []byte) []byte { d[20] ^= 0xff; return finished(d) }, false, false},
			"cut off behind the ports":         {func(d []byte) []byte { return d[:20+8] }, false, false},
			"with a TTL of 1, as it is for us": {func(d []byte) []byte { d[8] = 1; return finished(d) }, true, true},
		}},
		"IPv6": {addrB6, map[string]change{
			"as it was":                       {func(d []byte) []byte { return d }, true, true},
			"shorter than it says":            {func(d []byte) []byte { return d[:len(d)-1] }, false, false},
			"longer than it says":             {func(d []byte) []byte { return append(d, 0, 0) }, false, true},
			"with an extension header":        {withExtension6, false, true},
			"from the receiver":               {source(addrB6.Addr()), false, false},
			"from somebody else":              {source(netip.MustParseAddr("fd00:200::77")), false, false},
			"with a wrong transport checksum": {func(d []byte) []byte { d[40+16] ^= 1; return d }, true, false},
		}},
	} {
		t.Run(family, func(t *testing.T) {
			data := make(chan []byte, 1)
			a, b := newPairOver(t, Config{}, held(data), whole)
			for name, c := range test.changes {
				t.Run(name, func(t *testing.T) {
					client, server := connect(t, a, b, "tcp", test.to.Addr().String())
					defer client.Close()
					defer server.Close()
					_, err := client.Write([]byte("data"))
					require.NoError(t, err)
					var original []byte
					for payload := []byte(nil); string(payload) != "data" || !of(original, client); {
						original = <-data
						payload = original[len(original)-4:]
					}

					var p packet.Packet
					p.Set(as(original, c.change), 0)
					require.Equal(t, c.direct, b.deliverSegment(&p, false))
					batch := packet.NewBatch(0)
					batch.Append(as(original, c.change), 0)
					require.NoError(t, b.Device().WriteBatch(batch))

					buf := make([]byte, 4)
					if c.arrives {
						_, err := io.ReadFull(server, buf)
						require.NoError(t, err)
						require.Equal(t, "data", string(buf))
						return
					}
					require.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
					_, err = server.Read(buf)
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				})
			}
		})
	}
}

// of reports whether a packet is from a connection's local end.
func of(d []byte, c net.Conn) bool {
	var p packet.Packet
	p.Set(d, 0)
	return netip.AddrPortFrom(p.SrcAddr(), binary.BigEndian.Uint16(p.Transport())) == c.LocalAddr().(*net.TCPAddr).AddrPort()
}

// finished has the checksums right.
func finished(d []byte) []byte {
	var p packet.Packet
	p.Set(d, 0)
	if p.Version() == 4 {
		h := header.IPv4(d)
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	}
	if len(p.Transport()) >= header.TCPMinimumSize {
		p.FinishChecksum()
	}
	return d
}

// withOption4 puts a no-operation option into the header.
func withOption4(d []byte) []byte {
	long := append(append(append([]byte(nil), d[:20]...), 1, 1, 1, 0), d[20:]...)
	long[0] = 0x46
	binary.BigEndian.PutUint16(long[2:], uint16(len(long)))
	return finished(long)
}

// withExtension6 puts an empty destination options header in front of TCP.
func withExtension6(d []byte) []byte {
	long := append(append(append([]byte(nil), d[:40]...), d[6], 0, 1, 4, 0, 0, 0, 0), d[40:]...)
	long[6] = 60
	binary.BigEndian.PutUint16(long[4:], uint16(len(long)-40))
	return long
}
