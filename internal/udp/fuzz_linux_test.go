package udp

import (
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// FuzzSend lets a kernel of whims take any number of headers or refuse: a
// message without an error was sent whole, of one with an error the front, all in
// order and nothing twice, within what one header may hold.
func FuzzSend(f *testing.F) {
	const (
		takesAll   = 0
		refuses    = 0x80 // and up: an index into whims
		longestRun = 70000
	)
	whims := []syscall.Errno{
		unix.EINTR, unix.EIO, unix.EMSGSIZE, unix.EINVAL, unix.ENETUNREACH,
		unix.EADDRNOTAVAIL, unix.EPERM, unix.ENOBUFS,
	}
	open := func(v6 bool) *batch {
		tr, err := openBatch(place{v6: v6})
		if isFamilyMissing(err) {
			f.Skip("the host lacks a family")
		}
		require.NoError(f, err)
		f.Cleanup(func() { tr.close() })
		return tr.(*batch)
	}
	sockets := map[bool]*batch{false: open(false), true: open(true)}

	f.Add(false, []byte{1, 2, 3}, uint16(1452), uint32(1452*45), []byte{takesAll})
	f.Add(true, []byte{1, 2}, uint16(100), uint32(20003), []byte{refuses + 3, refuses + 3, refuses + 3, takesAll})
	f.Add(false, []byte{1}, uint16(1000), uint32(65000), []byte{refuses + 1, 5, refuses + 6})
	f.Add(true, []byte{9}, uint16(0), uint32(0), []byte{refuses + 7})
	f.Fuzz(func(t *testing.T, v6 bool, shape []byte, seg uint16, total uint32, moods []byte) {
		if len(shape) > 8 {
			shape = shape[:8]
		}
		b := sockets[v6]
		b.segments.Store(maxSegments)
		to := families["IPv4"]
		if v6 {
			to = families["IPv6"]
		}
		ms := make([]Message, len(shape))
		starts := make([]int, len(shape)) // of each message in the arena
		arena := make([]byte, len(shape)*(longestRun+1))
		for i, x := range shape {
			starts[i] = i * (longestRun + 1)
			ms[i] = Message{
				Data:     arena[starts[i]:][:int(total)%longestRun/(1+int(x%7))],
				Seg:      int(seg) >> (x % 5),
				ECN:      x & 3,
				Endpoint: Endpoint{Addr: netip.AddrPortFrom(to, 9)},
			}
			if x&0x40 != 0 {
				ms[i].Endpoint.Interface = 1
			}
		}

		sent := make([]int, len(ms)) // bytes
		count := make([]int, len(ms))
		b.tx.call = func(_ uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
			mood := byte(takesAll)
			if len(moods) > 0 {
				mood, moods = moods[0], moods[1:]
			}
			if mood >= refuses {
				return 0, whims[int(mood)%len(whims)]
			}
			if n := int(mood); n != takesAll && n < len(hdrs) {
				hdrs = hdrs[:n]
			}
			for i := range hdrs {
				iov := hdrs[i].hdr.Iov
				at := int(uintptr(unsafe.Pointer(iov.Base)) - uintptr(unsafe.Pointer(&arena[0])))
				owner := at / (longestRun + 1)
				require.Equal(t, starts[owner]+sent[owner], at, "out of order")
				m := &ms[owner]
				segmented, _ := controls(&hdrs[i])
				size := int(iov.Len)
				if segmented {
					require.Greater(t, size, m.Seg)
					require.LessOrEqual(t, size, maxSegments*m.Seg)
					require.LessOrEqual(t, size, maxPayload6)
					require.True(t, v6 || size <= maxPayload4)
					require.True(t, size%m.Seg == 0 || sent[owner]+size == len(m.Data))
				} else if m.Seg > 0 {
					require.LessOrEqual(t, size, m.Seg)
				}
				for _, later := range sent[owner+1:] {
					require.Zero(t, later, "a later message went first")
				}
				sent[owner] += size
				count[owner]++
			}
			return len(hdrs), 0
		}
		n, err := b.send(ms)
		whole := 0
		var first error
		for i, m := range ms {
			if m.Err == nil {
				whole++
				require.Equal(t, len(m.Data), sent[i])
				require.Positive(t, count[i])
			} else if first == nil {
				first = m.Err
			}
		}
		require.Equal(t, whole, n)
		require.Equal(t, first, err)
	})
}
