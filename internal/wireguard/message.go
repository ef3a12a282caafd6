package wireguard

import (
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tai64n"
)

// The messages of whitepaper section 5.4. Every field is little-endian and
// every message begins with its type, a byte followed by three zero bytes that
// are read and written together with it as one 32-bit number.
//
//	initiation  type sender          ephemeral static+tag timestamp+tag mac1 mac2
//	response    type sender receiver ephemeral            empty+tag     mac1 mac2
//	cookie      type receiver        nonce cookie+tag
//	transport   type receiver counter content+tag
const (
	typeInitiation = 1
	typeResponse   = 2
	typeCookie     = 3
	typeTransport  = 4
)

const (
	sizeKey       = 32 // of public, private, preshared and transport keys
	sizeTag       = 16 // of ChaCha20-Poly1305
	sizeMAC       = 16
	sizeMACs      = 2 * sizeMAC
	sizeNonce     = 24 // of XChaCha20-Poly1305
	sizeTimestamp = tai64n.TimestampSize

	sizeInitiationHeader = 8
	sizeInitiationNoise  = sizeKey + sizeKey + sizeTag + sizeTimestamp + sizeTag
	sizeInitiation       = sizeInitiationHeader + sizeInitiationNoise + sizeMACs // 148

	sizeResponseHeader = 12
	sizeResponseNoise  = sizeKey + sizeTag
	sizeResponse       = sizeResponseHeader + sizeResponseNoise + sizeMACs // 92

	sizeCookieHeader = 8
	sizeCookie       = sizeCookieHeader + sizeNonce + sizeMAC + sizeTag // 64

	sizeTransportHeader = 16
	sizeTransportMin    = sizeTransportHeader + sizeTag // a keepalive
)

// messageType returns the type of a datagram whose length fits that type, and
// 0 for anything else. Where it is not 0, the accessors below may be used.
func messageType(msg []byte) uint32 {
	if len(msg) < sizeTransportMin {
		return 0
	}
	t := binary.LittleEndian.Uint32(msg)
	switch {
	case t == typeTransport,
		t == typeInitiation && len(msg) == sizeInitiation,
		t == typeResponse && len(msg) == sizeResponse,
		t == typeCookie && len(msg) == sizeCookie:
		return t
	}
	return 0
}

// senderIndex is the sender's name for the session an initiation or a response
// is about.
func senderIndex(msg []byte) uint32 { return binary.LittleEndian.Uint32(msg[4:]) }

// receiverIndex is the receiver's name for the session a response, cookie or
// transport message is about.
func receiverIndex(msg []byte) uint32 {
	if msg[0] == typeResponse {
		return binary.LittleEndian.Uint32(msg[8:])
	}
	return binary.LittleEndian.Uint32(msg[4:])
}

// transportCounter is the nonce a transport message was sealed with.
func transportCounter(msg []byte) uint64 { return binary.LittleEndian.Uint64(msg[8:]) }

func putTransportHeader(msg []byte, receiver uint32, counter uint64) {
	binary.LittleEndian.PutUint32(msg, typeTransport)
	binary.LittleEndian.PutUint32(msg[4:], receiver)
	binary.LittleEndian.PutUint64(msg[8:sizeTransportHeader], counter)
}

func putInitiationHeader(msg []byte, sender uint32) {
	binary.LittleEndian.PutUint32(msg, typeInitiation)
	binary.LittleEndian.PutUint32(msg[4:], sender)
}

// initiationNoise is the part of an initiation that Noise writes and reads.
func initiationNoise(msg []byte) []byte {
	return msg[sizeInitiationHeader:][:sizeInitiationNoise]
}

func putResponseHeader(msg []byte, sender, receiver uint32) {
	binary.LittleEndian.PutUint32(msg, typeResponse)
	binary.LittleEndian.PutUint32(msg[4:], sender)
	binary.LittleEndian.PutUint32(msg[8:], receiver)
}

// responseNoise is the part of a response that Noise writes and reads.
func responseNoise(msg []byte) []byte {
	return msg[sizeResponseHeader:][:sizeResponseNoise]
}

func putCookieHeader(msg []byte, receiver uint32) {
	binary.LittleEndian.PutUint32(msg, typeCookie)
	binary.LittleEndian.PutUint32(msg[4:], receiver)
}

// cookieParts are the nonce and the sealed cookie of a cookie message.
func cookieParts(msg []byte) (nonce, sealed []byte) {
	body := msg[sizeCookieHeader:sizeCookie]
	return body[:sizeNonce:sizeNonce], body[sizeNonce:]
}

// macParts cuts an initiation or a response at its MACs: mac1 covers body, and
// mac2 covers body and mac1, which is withMAC1.
func macParts(msg []byte) (body, mac1, withMAC1, mac2 []byte) {
	end1 := len(msg) - sizeMAC
	start1 := end1 - sizeMAC
	return msg[:start1], msg[start1:end1], msg[:end1], msg[end1:]
}
