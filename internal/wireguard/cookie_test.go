package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/device"
)

var (
	source  = netip.MustParseAddrPort("192.0.2.1:51820")
	source6 = netip.MustParseAddrPort("[2001:db8::1]:51820")
)

// newMACPair is the two sides of a receiver with this public key.
func newMACPair(public [sizeKey]byte) (*cookieChecker, *cookieJar) {
	return newCookieChecker(public), newCookieJar(public)
}

// newInitiation has the shape of an initiation, and no MACs.
func newInitiation(sender uint32) []byte {
	msg := make([]byte, sizeInitiation)
	putInitiationHeader(msg, sender)
	return msg
}

func TestMAC1(t *testing.T) {
	checker, jar := newMACPair(randomKey())
	msg := newInitiation(7)
	require.False(t, checker.checkMAC1(msg))
	jar.addMACs(msg)
	require.True(t, checker.checkMAC1(msg))
	require.False(t, newCookieChecker(randomKey()).checkMAC1(msg), "another receiver")
	require.Zero(t, [sizeMAC]byte(msg[sizeInitiation-sizeMAC:]), "MAC2 without a cookie")
	for n := range len(msg) {
		require.False(t, checker.checkMAC1(msg[:n]), "%d bytes", n)
		require.False(t, checker.checkMAC2(msg[:n], source), "%d bytes", n)
	}
}

func TestCookieProvesTheSourceAddress(t *testing.T) {
	for _, src := range []netip.AddrPort{source, source6} {
		t.Run(src.String(), func(t *testing.T) {
			checker, jar := newMACPair(randomKey())
			msg := newInitiation(7)
			jar.addMACs(msg)
			require.False(t, checker.checkMAC2(msg, src), "no cookie was ever given")

			reply := checker.reply(msg, senderIndex(msg), src)
			require.EqualValues(t, typeCookie, messageType(reply[:]))
			require.EqualValues(t, 7, receiverIndex(reply[:]))
			require.False(t, checker.checkMAC2(msg, src))
			require.True(t, jar.consumeReply(reply[:]))

			jar.addMACs(msg)
			require.True(t, checker.checkMAC1(msg))
			require.True(t, checker.checkMAC2(msg, src))
			for bit := range 8 * len(msg) {
				flipped := bytes.Clone(msg)
				flipped[bit/8] ^= 1 << (bit % 8)
				require.False(t, checker.checkMAC2(flipped, src), "bit %d", bit)
			}

			require.False(t, checker.checkMAC2(msg, netip.AddrPortFrom(src.Addr(), src.Port()+1)), "another port")
			require.False(t, checker.checkMAC2(msg, netip.AddrPortFrom(src.Addr().Next(), src.Port())), "another address")
			require.False(t, newCookieChecker(checker.keys.mac1).checkMAC2(msg, src), "another receiver")
		})
	}
}

func TestCookieIsTheSameForAMappedAddress(t *testing.T) {
	checker, jar := newMACPair(randomKey())
	msg := newInitiation(7)
	jar.addMACs(msg)
	reply := checker.reply(msg, 7, netip.AddrPortFrom(netip.AddrFrom16(source.Addr().As16()), source.Port()))
	require.True(t, jar.consumeReply(reply[:]))
	jar.addMACs(msg)
	require.True(t, checker.checkMAC2(msg, source))
}

func TestCookieReplyIsConsumedOnceByTheMessageItAnswers(t *testing.T) {
	checker, jar := newMACPair(randomKey())
	first, second := newInitiation(1), newInitiation(2)
	jar.addMACs(first)
	answersFirst := checker.reply(first, 1, source)

	other := newCookieJar(jar.keys.mac1)
	require.False(t, other.consumeReply(answersFirst[:]), "nothing was sent")
	other.addMACs(bytes.Clone(first))
	require.False(t, other.consumeReply(answersFirst[:]), "a cookie of another peer")

	for bit := range 8 * sizeCookie {
		if at := bit / 8; at >= 4 && at < sizeCookieHeader {
			continue // the index; who looks the jar up by it finds another or none
		}
		flipped := answersFirst
		flipped[bit/8] ^= 1 << (bit % 8)
		require.False(t, jar.consumeReply(flipped[:]), "bit %d", bit)
	}
	for n := range sizeCookie {
		require.False(t, jar.consumeReply(answersFirst[:n]), "%d bytes", n)
	}
	require.False(t, jar.consumeReply(append(answersFirst[:], 0)))

	jar.addMACs(second)
	require.False(t, jar.consumeReply(answersFirst[:]), "it answers an earlier message")
	answersSecond := checker.reply(second, 2, source)
	require.True(t, jar.consumeReply(answersSecond[:]))
	require.False(t, jar.consumeReply(answersSecond[:]), "a replay")
}

func TestCookieIsUsedForTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker, jar := newMACPair(randomKey())
		msg := newInitiation(7)
		jar.addMACs(msg)
		reply := checker.reply(msg, 7, source)
		require.True(t, jar.consumeReply(reply[:]))

		time.Sleep(120 * time.Second)
		jar.addMACs(msg)
		require.NotZero(t, [sizeMAC]byte(msg[sizeInitiation-sizeMAC:]))
		require.True(t, checker.checkMAC2(msg, source))
		time.Sleep(time.Nanosecond)
		require.False(t, checker.checkMAC2(msg, source), "the secret is too old")
		jar.addMACs(msg)
		require.Zero(t, [sizeMAC]byte(msg[sizeInitiation-sizeMAC:]), "the cookie is too old")
		require.True(t, checker.checkMAC1(msg))
	})
}

func TestCookieSecretChangesEveryTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker, jar := newMACPair(randomKey())
		msg := newInitiation(7)
		ask := func() {
			jar.addMACs(msg)
			reply := checker.reply(msg, 7, source)
			require.True(t, jar.consumeReply(reply[:]))
			jar.addMACs(msg)
		}
		ask()
		first := checker.secret
		time.Sleep(119 * time.Second)
		ask() // a young cookie of an old secret
		require.Equal(t, first, checker.secret)
		require.True(t, checker.checkMAC2(msg, source))

		time.Sleep(2 * time.Second)
		jar.addMACs(msg)
		require.False(t, checker.checkMAC2(msg, source), "the cookie is of a secret too old")
		ask()
		require.NotEqual(t, first, checker.secret)
		require.True(t, checker.checkMAC2(msg, source))
	})
}

func TestWipedCookiesAreWorthNothing(t *testing.T) {
	checker, jar := newMACPair(randomKey())
	msg := newInitiation(7)
	jar.addMACs(msg)
	reply := checker.reply(msg, 7, source)
	require.True(t, jar.consumeReply(reply[:]))
	jar.addMACs(msg)
	checker.wipe()
	require.Zero(t, checker.secret)
	require.False(t, checker.checkMAC2(msg, source))

	again := checker.reply(msg, 7, source)
	jar.wipe()
	require.Zero(t, jar.cookie)
	require.False(t, jar.consumeReply(again[:]))
	jar.addMACs(msg)
	require.Zero(t, [sizeMAC]byte(msg[sizeInitiation-sizeMAC:]))
}

// The other direction, our jar and wireguard-go's checker, is in the vectors.
func TestWireGuardGoTakesOurCookie(t *testing.T) {
	public := randomKey()
	checker := newCookieChecker(public)
	var jar device.CookieGenerator
	jar.Init(public)
	msg := newInitiation(7)
	jar.AddMacs(msg)
	require.True(t, checker.checkMAC1(msg))

	reply := checker.reply(msg, 7, source)
	var theirs device.MessageCookieReply
	require.NoError(t, binary.Read(bytes.NewReader(reply[:]), binary.LittleEndian, &theirs))
	require.True(t, jar.ConsumeReply(&theirs))
	jar.AddMacs(msg)
	require.True(t, checker.checkMAC2(msg, source))
	require.False(t, checker.checkMAC2(msg, source6))
}

func FuzzCookie(f *testing.F) {
	checker, jar := newMACPair([sizeKey]byte{1})
	sent := newInitiation(7)
	jar.addMACs(sent)
	reply := checker.reply(sent, 7, source)
	f.Add(reply[:], sent)
	f.Add(reply[:sizeCookie-1], sent[:sizeMACs])
	f.Add(make([]byte, sizeCookie), []byte{})
	f.Fuzz(func(t *testing.T, cookie, msg []byte) {
		jar := newCookieJar([sizeKey]byte{1})
		jar.addMACs(bytes.Clone(sent))
		if jar.consumeReply(cookie) {
			require.EqualValues(t, typeCookie, messageType(cookie))
			require.False(t, jar.consumeReply(cookie), "a replay")
		}
		require.False(t, checker.checkMAC2(msg, source), "no message had its MAC2")
		if checker.checkMAC1(msg) {
			reply := checker.reply(msg, 7, source)
			require.EqualValues(t, typeCookie, messageType(reply[:]))
		}
		if len(msg) >= sizeMACs {
			signed := bytes.Clone(msg)
			jar.addMACs(signed)
			require.True(t, checker.checkMAC1(signed))
			answer := checker.reply(signed, 7, source)
			require.True(t, jar.consumeReply(answer[:]))
			jar.addMACs(signed)
			require.True(t, checker.checkMAC2(signed, source))
			require.False(t, checker.checkMAC2(signed, source6))
			require.Equal(t, msg[:len(msg)-sizeMACs], signed[:len(msg)-sizeMACs])
		}
	})
}
