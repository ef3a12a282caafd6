package wireguard

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/device"
)

func TestSizesAreWireGuards(t *testing.T) {
	require.Equal(t, device.MessageInitiationSize, sizeInitiation)
	require.Equal(t, device.MessageResponseSize, sizeResponse)
	require.Equal(t, device.MessageCookieReplySize, sizeCookie)
	require.Equal(t, device.MessageTransportHeaderSize, sizeTransportHeader)
	require.Equal(t, device.MessageTransportSize, sizeTransportMin)
	require.Equal(t, device.MessageInitiationType, typeInitiation)
	require.Equal(t, device.MessageResponseType, typeResponse)
	require.Equal(t, device.MessageCookieReplyType, typeCookie)
	require.Equal(t, device.MessageTransportType, typeTransport)
}

func TestMessageType(t *testing.T) {
	for _, test := range []struct {
		name  string
		first uint32
		size  int
		want  uint32
	}{
		{"an initiation", 1, 148, typeInitiation},
		{"an initiation one byte short", 1, 147, 0},
		{"an initiation one byte long", 1, 149, 0},
		{"a response", 2, 92, typeResponse},
		{"a response of an initiation's size", 2, 148, 0},
		{"a cookie", 3, 64, typeCookie},
		{"a cookie one byte short", 3, 63, 0},
		{"a keepalive", 4, 32, typeTransport},
		{"a transport message", 4, 1452, typeTransport},
		{"a transport message of an odd size", 4, 33, typeTransport},
		{"a transport message without room for a tag", 4, 31, 0},
		{"type zero", 0, 148, 0},
		{"an unknown type", 5, 148, 0},
		{"an initiation with a reserved bit set", 1 | 1<<8, 148, 0},
		{"a transport message with a reserved bit set", 4 | 1<<31, 64, 0},
		{"nothing", 0, 0, 0},
		{"three bytes", 0, 3, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			msg := make([]byte, max(test.size, 4))
			binary.LittleEndian.PutUint32(msg, test.first)
			require.Equal(t, test.want, messageType(msg[:test.size]))
		})
	}
}

func TestHeadersAreReadAsTheyWereWritten(t *testing.T) {
	msg := make([]byte, 256)

	putInitiationHeader(msg, 0x04030201)
	require.Equal(t, []byte{1, 0, 0, 0, 1, 2, 3, 4}, msg[:8])
	require.EqualValues(t, 0x04030201, senderIndex(msg))

	putResponseHeader(msg, 0x04030201, 0x08070605)
	require.Equal(t, []byte{2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, msg[:12])
	require.EqualValues(t, 0x04030201, senderIndex(msg))
	require.EqualValues(t, 0x08070605, receiverIndex(msg))

	putCookieHeader(msg, 0x0c0b0a09)
	require.Equal(t, []byte{3, 0, 0, 0, 9, 10, 11, 12}, msg[:8])
	require.EqualValues(t, 0x0c0b0a09, receiverIndex(msg))

	putTransportHeader(msg, 0x04030201, 0x0807060504030201)
	require.Equal(t, []byte{4, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8}, msg[:16])
	require.EqualValues(t, 0x04030201, receiverIndex(msg))
	require.EqualValues(t, uint64(0x0807060504030201), transportCounter(msg))
}
