package wire_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func prefixed(n uint32, body string) string {
	return string(binary.LittleEndian.AppendUint32(nil, n)) + body
}

func TestFramesFollowOneAnotherOnAStream(t *testing.T) {
	var stream []byte
	for id := range uint64(3) {
		var err error
		stream, err = wire.AppendFrame(stream, wire.ResponseFrame{ID: id, Response: wire.OK{}})
		require.NoError(t, err)
	}
	require.Equal(t, "\x36\x00\x00\x00{\"frame\"", string(stream[:12]))
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"with the end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			var buf []byte
			for id := range uint64(3) {
				body, err := wire.ReadFrame(r, buf)
				require.NoError(t, err)
				f, err := wire.Decode(body)
				require.NoError(t, err)
				require.Equal(t, wire.ResponseFrame{ID: id, Response: wire.OK{}}, f)
				buf = body
			}
			_, err := wire.ReadFrame(r, buf)
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestAStreamThatEndsInsideAFrameIsAnError(t *testing.T) {
	for name, stream := range map[string]string{
		"in the length":           "\x05\x00",
		"before the body":         prefixed(5, ""),
		"in the body":             prefixed(5, "abc"),
		"in a body of many steps": prefixed(1<<20, strings.Repeat("x", 1<<19)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wire.ReadFrame(strings.NewReader(stream), nil)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	}
	_, err := wire.ReadFrame(strings.NewReader(prefixed(1<<20, "abc")), nil)
	require.EqualError(t, err, "wire: reading a frame: 3 of 1048576 bytes arrived: unexpected EOF")
	_, err = wire.ReadFrame(iotest.ErrReader(io.ErrClosedPipe), nil)
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestTheLargestFrameIsEightMebibytes(t *testing.T) {
	name := func(frame int) string {
		rest, err := wire.AppendFrame(nil, wire.RequestFrame{Request: wire.UnregisterDNS{}})
		require.NoError(t, err)
		return strings.Repeat("x", frame-(len(rest)-4))
	}
	largest, err := wire.AppendFrame(nil, wire.RequestFrame{Request: wire.UnregisterDNS{Name: name(wire.MaxFrame)}})
	require.NoError(t, err)
	require.Len(t, largest, 4+8_388_608)
	body, err := wire.ReadFrame(bytes.NewReader(largest), nil)
	require.NoError(t, err)
	_, err = wire.Decode(body)
	require.NoError(t, err)

	dst, err := wire.AppendFrame([]byte("before"), wire.RequestFrame{Request: wire.UnregisterDNS{Name: name(wire.MaxFrame + 1)}})
	require.EqualError(t, err, "wire: a frame of 8388609 bytes, and 8388608 are allowed")
	require.Equal(t, "before", string(dst))
	_, err = wire.ReadFrame(strings.NewReader(prefixed(wire.MaxFrame+1, "")), nil)
	require.ErrorIs(t, err, wire.FrameTooLarge)
	require.EqualError(t, err, "wire: frame too large: 8388609 bytes, and 8388608 are allowed")
}

// allocated is how many bytes f allocates, at the least of a few runs, as other
// goroutines of the test binary may allocate too.
func allocated(f func()) uint64 {
	least := ^uint64(0)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

func TestALengthAlonePinsNoMemory(t *testing.T) {
	got := allocated(func() {
		_, err := wire.ReadFrame(strings.NewReader(prefixed(wire.MaxFrame, "x")), nil)
		require.Error(t, err)
	})
	require.Less(t, got, uint64(32<<10))
}

func TestABodyTakesAFewTimesItsSizeInMemory(t *testing.T) {
	for name, body := range map[string]string{
		"of keys nobody knows": `{` + strings.Repeat(`"":0,`, 20_000) + `"frame":"request","id":1,"request":{"op":"status"}}`,
		"of empty events":      `{"frame":"request","id":1,"request":{"op":"subscribe_events","events":[""` + strings.Repeat(`,""`, 10_000) + `]}}`,
		"of one long name":     `{"frame":"request","id":1,"request":{"op":"unregister_dns","name":"` + strings.Repeat(`\n`, 20_000) + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			data := []byte(body)
			got := allocated(func() {
				_, err := wire.Decode(data)
				require.NoError(t, err)
			})
			require.Less(t, got, uint64(24*len(data)))
		})
	}
}
