package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestControlMessagesFitTheirRoom(t *testing.T) {
	var room controlBuffer
	for _, v6 := range []bool{false, true} {
		e := Endpoint{Src: netip.MustParseAddr("192.0.2.1"), Interface: 7}
		if v6 {
			e.Src = netip.MustParseAddr("2001:db8::1")
		}
		at := putEndpoint(room.bytes(), &e, v6, 3)
		end := putSegment(room.bytes(), at, 1452)
		require.LessOrEqual(t, end, len(room.bytes()))
		all, err := unix.ParseSocketControlMessage(room.bytes()[:end])
		require.NoError(t, err)
		require.Len(t, all, 3)

		c := parseControl(room.bytes()[:at])
		require.Equal(t, int32(7), c.index)
		require.Equal(t, e.Src, c.src)
		require.Equal(t, byte(3), c.ecn)
	}
	received := unix.CmsgSpace(unix.SizeofInet6Pktinfo) + 2*unix.CmsgSpace(4)
	require.LessOrEqual(t, received, len(room.bytes()), "what the kernel tells of a run")
	require.Zero(t, putEndpoint(room.bytes(), &Endpoint{}, true, 0), "nothing asked, nothing written")
}

// FuzzControl looks for a panic, and for values that no kernel gives.
func FuzzControl(f *testing.F) {
	var room controlBuffer
	e := Endpoint{Src: netip.MustParseAddr("192.0.2.1"), Interface: 7}
	f.Add(append([]byte(nil), room.bytes()[:putEndpoint(room.bytes(), &e, false, 2)]...))
	e.Src = netip.MustParseAddr("2001:db8::1")
	f.Add(append([]byte(nil), room.bytes()[:putEndpoint(room.bytes(), &e, true, 1)]...))
	data, end := put(room.bytes(), 0, unix.SOL_UDP, unix.UDP_GRO, 4)
	binary.NativeEndian.PutUint32(data, 1452)
	f.Add(append([]byte(nil), room.bytes()[:end]...))
	f.Add(append([]byte(nil), room.bytes()[:end-1]...))
	f.Add([]byte{0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		words := make([]uint64, len(b)/8+1) // aligned, as the kernel's are
		aligned := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))[:len(b)]
		copy(aligned, b)
		c := parseControl(aligned)
		require.Less(t, c.ecn, byte(4))
		require.False(t, c.src.Is4In6())

		// Whatever it says, a message describes bytes of its own buffer.
		var r receiver
		r.init()
		n := copy(r.ctls[1].bytes(), aligned)
		r.hdrs[1].hdr.SetControllen(n)
		r.hdrs[1].n = 1000
		var m Message
		r.message(1, &m)
		require.Len(t, m.Data, 1000)
		require.Positive(t, m.Seg)
		require.LessOrEqual(t, m.Seg, 1000)
		require.False(t, m.Endpoint.Src.IsMulticast())
	})
}
