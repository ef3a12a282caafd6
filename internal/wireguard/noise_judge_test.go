package wireguard

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// A judge is a wireguard-go device with one peer, us. Its packets and its
// datagrams go through channels.
type judge struct {
	t    testing.TB
	dev  *device.Device
	peer *device.Peer
	tun  *tuntest.ChannelTUN
	bind *channelBind
}

var (
	ourAddr, judgeAddr = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	toJudge, fromJudge = tuntest.Ping(judgeAddr, ourAddr), tuntest.Ping(ourAddr, judgeAddr)
)

func newJudge(t testing.TB, private, us, psk [sizeKey]byte) *judge {
	t.Helper()
	j := &judge{
		t:    t,
		tun:  tuntest.NewChannelTUN(),
		bind: &channelBind{in: make(chan []byte), out: make(chan []byte, 16)},
	}
	j.dev = device.NewDevice(j.tun.TUN(), j.bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(j.dev.Close)
	require.NoError(t, j.dev.IpcSet(fmt.Sprintf(
		"private_key=%x\npublic_key=%x\npreshared_key=%x\nendpoint=192.0.2.9:9\nallowed_ip=%v/32\n", private, us, psk, ourAddr)))
	require.NoError(t, j.dev.Up())
	j.peer = j.dev.LookupPeer(us)
	require.NotNil(t, j.peer)
	return j
}

// read decodes one of our messages into one of wireguard-go's.
func (j *judge) read(from []byte, to any) {
	j.t.Helper()
	require.NoError(j.t, binary.Read(bytes.NewReader(from), binary.LittleEndian, to))
}

// write is the inverse of read.
func (j *judge) write(msg any) []byte {
	j.t.Helper()
	var b bytes.Buffer
	require.NoError(j.t, binary.Write(&b, binary.LittleEndian, msg))
	return b.Bytes()
}

// opens has the judge open a transport message of ours.
func (j *judge) opens(msg, want []byte) {
	j.t.Helper()
	select {
	case j.bind.in <- msg:
	case <-time.After(30 * time.Second):
		j.t.Fatal("wireguard-go does not receive")
	}
	select {
	case got := <-j.tun.Inbound:
		require.Equal(j.t, want, got)
	case <-time.After(30 * time.Second):
		j.t.Fatal("wireguard-go has refused our transport message")
	}
}

// seals has the judge make a transport message of a packet.
func (j *judge) seals(packet []byte) []byte {
	j.t.Helper()
	select {
	case j.tun.Outbound <- packet:
	case <-time.After(30 * time.Second):
		j.t.Fatal("wireguard-go does not read")
	}
	select {
	case msg := <-j.bind.out:
		require.EqualValues(j.t, typeTransport, messageType(msg), "wireguard-go wants another handshake")
		return msg
	case <-time.After(30 * time.Second):
		j.t.Fatal("wireguard-go has not sent")
	}
	return nil
}

// A channelBind is a conn.Bind whose datagrams go through channels.
type channelBind struct {
	in, out chan []byte
	closed  chan struct{}
}

func (b *channelBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	closed := make(chan struct{})
	b.closed = closed
	receive := func(bufs [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
		select {
		case msg := <-b.in:
			sizes[0] = copy(bufs[0], msg)
			from[0] = &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("192.0.2.9:9")}
			return 1, nil
		case <-closed:
			return 0, net.ErrClosed
		}
	}
	return []conn.ReceiveFunc{receive}, 9, nil
}

func (b *channelBind) Close() error {
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
	}
	return nil
}

func (b *channelBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, buf := range bufs {
		b.out <- bytes.Clone(buf)
	}
	return nil
}

func (b *channelBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: a}, err
}

func (b *channelBind) SetMark(uint32) error { return nil }
func (b *channelBind) BatchSize() int       { return 1 }

// hexBytes are bytes that are hexadecimal in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// A vector is a handshake between us and wireguard-go, and everything that it
// came to. What we made of it can be made again, for the ephemeral key is known.
type vector struct {
	Name         string   `json:"name"`
	WeInitiate   bool     `json:"we_initiate"`
	OurPrivate   hexBytes `json:"our_private"`
	OurEphemeral hexBytes `json:"our_ephemeral"` // the private key
	OurIndex     uint32   `json:"our_index"`
	TheirPrivate hexBytes `json:"their_private"`
	TheirIndex   uint32   `json:"their_index"`
	PresharedKey hexBytes `json:"preshared_key"`
	Timestamp    hexBytes `json:"timestamp"`
	Initiation   hexBytes `json:"initiation"` // the messages have MAC1
	Response     hexBytes `json:"response"`
	SendKey      hexBytes `json:"send_key"` // ours
	ReceiveKey   hexBytes `json:"receive_key"`
	Sent         hexBytes `json:"sent"` // the transport message we send first
	SentPacket   hexBytes `json:"sent_packet"`
	Got          hexBytes `json:"got"` // the one wireguard-go sends first
	GotPacket    hexBytes `json:"got_packet"`

	CookieSource netip.AddrPort `json:"cookie_source"` // where our handshake message came from
	CookieReply  hexBytes       `json:"cookie_reply"`
	WithMAC2     hexBytes       `json:"with_mac2"` // our message, made again with the cookie
}

// identities are ours and the judge's public key.
func (v *vector) identities(t testing.TB) (us *identity, them [sizeKey]byte) {
	t.Helper()
	us, err := newIdentity([sizeKey]byte(v.OurPrivate))
	require.NoError(t, err)
	us.random = bytes.NewReader(v.OurEphemeral)
	other, err := newIdentity([sizeKey]byte(v.TheirPrivate))
	require.NoError(t, err)
	return us, other.public()
}

// ours is the handshake message of the vector that we have made.
func (v *vector) ours() []byte {
	if v.WeInitiate {
		return v.Initiation
	}
	return v.Response
}

// exchange shakes hands with wireguard-go, moves a packet each way, and has us
// told a cookie.
func exchange(t *testing.T, name string, weInitiate bool, psk [sizeKey]byte) *vector {
	t.Helper()
	ourPrivate, ourEphemeral, theirPrivate := randomKey(), randomKey(), randomKey()
	v := &vector{
		Name: name, WeInitiate: weInitiate, OurIndex: 0x01020304,
		OurPrivate: ourPrivate[:], OurEphemeral: ourEphemeral[:], TheirPrivate: theirPrivate[:], PresharedKey: psk[:],
		SentPacket: toJudge, GotPacket: fromJudge,
		CookieSource: netip.MustParseAddrPort("192.0.2.9:9"),
	}
	us, them := v.identities(t)
	j := newJudge(t, theirPrivate, us.public(), psk)
	jar := newCookieJar(them)
	var (
		judgeChecker device.CookieChecker
		judgeJar     device.CookieGenerator
		keys         transportKeys
		index        uint32
	)
	judgeChecker.Init(them)
	judgeJar.Init(us.public())

	if weInitiate {
		timestamp := tai64n.Now()
		initiation, hs, err := us.initiate(them, psk, v.OurIndex, timestamp)
		require.NoError(t, err)
		jar.addMACs(initiation[:])
		v.Timestamp, v.Initiation = timestamp[:], initiation[:]
		require.True(t, judgeChecker.CheckMAC1(v.Initiation))

		var theirs device.MessageInitiation
		j.read(v.Initiation, &theirs)
		require.Same(t, j.peer, j.dev.ConsumeMessageInitiation(&theirs), "wireguard-go refuses our initiation")
		response, err := j.dev.CreateMessageResponse(j.peer)
		require.NoError(t, err)
		v.Response = j.write(response)
		judgeJar.AddMacs(v.Response)

		keys, index, err = hs.finish(v.Response)
		require.NoError(t, err)
	} else {
		initiation, err := j.dev.CreateMessageInitiation(j.peer)
		require.NoError(t, err)
		v.Initiation = j.write(initiation)
		judgeJar.AddMacs(v.Initiation)

		hs, err := us.receive(v.Initiation)
		require.NoError(t, err)
		require.Equal(t, them, hs.peer)
		v.Timestamp, index = hs.timestamp[:], hs.remoteIndex
		var response [sizeResponse]byte
		response, keys, err = hs.respond(psk, v.OurIndex)
		require.NoError(t, err)
		jar.addMACs(response[:])
		v.Response = response[:]
		require.True(t, judgeChecker.CheckMAC1(v.Response))

		var theirs device.MessageResponse
		j.read(v.Response, &theirs)
		require.Same(t, j.peer, j.dev.ConsumeMessageResponse(&theirs), "wireguard-go refuses our response")
	}
	require.NoError(t, j.peer.BeginSymmetricSession())
	v.TheirIndex, v.SendKey, v.ReceiveKey = index, keys.send[:], keys.receive[:]

	v.Sent = v.seal(t)
	j.opens(v.Sent, v.SentPacket)
	v.Got = j.seals(v.GotPacket)

	source, err := v.CookieSource.MarshalBinary()
	require.NoError(t, err)
	require.False(t, judgeChecker.CheckMAC2(v.ours(), source))
	reply, err := judgeChecker.CreateReply(v.ours(), v.OurIndex, source)
	require.NoError(t, err)
	v.CookieReply = j.write(reply)
	require.True(t, jar.consumeReply(v.CookieReply))
	v.WithMAC2 = bytes.Clone(v.ours())
	jar.addMACs(v.WithMAC2)
	require.True(t, judgeChecker.CheckMAC2(v.WithMAC2, source), "wireguard-go refuses our MAC2")
	return v
}

func transportCipher(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	aead, err := chacha20poly1305.New(key)
	require.NoError(t, err)
	return aead
}

// seal makes our first transport message: the packet, padded to a multiple of 16.
func (v *vector) seal(t *testing.T) []byte {
	t.Helper()
	msg := make([]byte, sizeTransportHeader)
	putTransportHeader(msg, v.TheirIndex, 0)
	padded := append(bytes.Clone(v.SentPacket), make([]byte, -len(v.SentPacket)&15)...)
	return transportCipher(t, v.SendKey).Seal(msg, make([]byte, chacha20poly1305.NonceSize), padded, nil)
}

// verify makes and consumes the vector's messages once more.
func (v *vector) verify(t *testing.T) {
	us, them := v.identities(t)
	jar, checker := newCookieJar(them), newCookieChecker(us.public())
	psk := [sizeKey]byte(v.PresharedKey)
	var (
		ours  []byte
		keys  transportKeys
		index uint32
	)
	if v.WeInitiate {
		initiation, hs, err := us.initiate(them, psk, v.OurIndex, tai64n.Timestamp(v.Timestamp))
		require.NoError(t, err)
		ours = initiation[:]
		require.True(t, checker.checkMAC1(v.Response))
		keys, index, err = hs.finish(v.Response)
		require.NoError(t, err)
	} else {
		require.True(t, checker.checkMAC1(v.Initiation))
		hs, err := us.receive(v.Initiation)
		require.NoError(t, err)
		require.Equal(t, them, hs.peer)
		require.Equal(t, tai64n.Timestamp(v.Timestamp), hs.timestamp)
		index = hs.remoteIndex
		var response [sizeResponse]byte
		response, keys, err = hs.respond(psk, v.OurIndex)
		require.NoError(t, err)
		ours = response[:]
	}
	jar.addMACs(ours)
	require.Equal(t, v.ours(), ours)
	require.Equal(t, v.TheirIndex, index)
	require.Equal(t, []byte(v.SendKey), keys.send[:])
	require.Equal(t, []byte(v.ReceiveKey), keys.receive[:])

	require.EqualValues(t, v.Sent, v.seal(t))
	require.EqualValues(t, typeTransport, messageType(v.Got))
	require.Equal(t, v.OurIndex, receiverIndex(v.Got))
	require.Zero(t, transportCounter(v.Got))
	packet, err := transportCipher(t, keys.receive[:]).Open(nil, make([]byte, chacha20poly1305.NonceSize), v.Got[sizeTransportHeader:], nil)
	require.NoError(t, err)
	require.EqualValues(t, v.GotPacket, packet[:len(v.GotPacket)])

	require.Equal(t, v.OurIndex, receiverIndex(v.CookieReply))
	require.True(t, jar.consumeReply(v.CookieReply))
	jar.addMACs(ours)
	require.EqualValues(t, v.WithMAC2, ours)
}

// exchanges are all there are: both roles, with and without a preshared key.
func exchanges(t *testing.T, each func(t *testing.T, v *vector)) {
	for _, test := range []struct {
		name       string
		weInitiate bool
		psk        [sizeKey]byte
	}{
		{"we initiate", true, noPSK},
		{"we initiate with a preshared key", true, testPSK},
		{"wireguard-go initiates", false, noPSK},
		{"wireguard-go initiates with a preshared key", false, testPSK},
	} {
		t.Run(test.name, func(t *testing.T) { each(t, exchange(t, test.name, test.weInitiate, test.psk)) })
	}
}

func TestHandshakeWithWireGuardGo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	exchanges(t, func(t *testing.T, v *vector) { v.verify(t) })
}

func TestWireGuardGoRefusesWhatIsNotOurs(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("an initiation of a stranger", func(t *testing.T) {
		theirPrivate := randomKey()
		them, err := newIdentity(theirPrivate)
		require.NoError(t, err)
		j := newJudge(t, theirPrivate, newTestIdentity(t).public(), noPSK)
		initiation, _, err := newTestIdentity(t).initiate(them.public(), noPSK, 1, tai64n.Now())
		require.NoError(t, err)
		var theirs device.MessageInitiation
		j.read(initiation[:], &theirs)
		require.Nil(t, j.dev.ConsumeMessageInitiation(&theirs))
	})
	t.Run("a response under another preshared key", func(t *testing.T) {
		us := newTestIdentity(t)
		j := newJudge(t, randomKey(), us.public(), testPSK)
		initiation, err := j.dev.CreateMessageInitiation(j.peer)
		require.NoError(t, err)
		for _, psk := range [][sizeKey]byte{noPSK, testPSK} {
			hs, err := us.receive(j.write(initiation))
			require.NoError(t, err)
			response, _, err := hs.respond(psk, 1)
			require.NoError(t, err)
			var theirs device.MessageResponse
			j.read(response[:], &theirs)
			require.Equal(t, psk == testPSK, j.dev.ConsumeMessageResponse(&theirs) != nil)
		}
	})
}
