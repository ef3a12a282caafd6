package wireguard

import (
	"crypto/ecdh"
	"reflect"

	"github.com/flynn/noise"
)

// What Go lets a program wipe is what it can still reach. Here that is every
// private key, shared secret, preshared key, chaining key and cipher key a
// handshake holds when it ends. What noise, crypto/hmac and the AEADs made on the
// way and dropped is out of reach: it stays in freed memory until that is used
// again, and so do copies the compiler left on a stack.
//
// noise and crypto/ecdh have no method to wipe, so their fields are reached by
// name. One that a later version renames is passed over; a test tells.
var (
	handshakeSecrets = [][]string{
		{"psk"}, {"ss", "ck"}, {"ss", "h"}, {"ss", "prevCK"}, {"ss", "prevH"},
		{"ss", "k"}, {"ss", "c", "AEAD", "key"},
	}
	cipherSecrets     = [][]string{{"k"}, {"c", "AEAD", "key"}}
	privateKeySecrets = [][]string{{"privateKey"}}
)

// take moves the keys out of what noise returned.
func (k *transportKeys) take(send, receive *noise.CipherState) {
	k.send, k.receive = send.UnsafeKey(), receive.UnsafeKey()
	wipeFields(send, cipherSecrets)
	wipeFields(receive, cipherSecrets)
}

// undo wipes what a handshake has agreed on since it was last undone; noise has
// mixed it in, or has taken it back.
func (c *curve) undo() {
	for _, a := range c.agreed {
		clear(a.secret)
	}
	c.agreed = c.agreed[:0]
}

// wipe wipes the secrets of a handshake, and returns nil for its owner to keep.
func (c *curve) wipe(state *noise.HandshakeState) *noise.HandshakeState {
	c.undo()
	wipePrivateKey(c.ephemeral)
	c.ephemeral = nil
	if state != nil {
		wipeFields(state, handshakeSecrets)
	}
	return nil
}

func wipePrivateKey(key *ecdh.PrivateKey) {
	if key != nil {
		wipeFields(key, privateKeySecrets)
	}
}

func wipeFields(of any, paths [][]string) {
	for _, path := range paths {
		clear(field(of, path))
	}
}

// field returns the bytes at the end of a path of fields, itself and not a copy,
// or nil when there are none.
func field(of any, path []string) []byte {
	v := reflect.ValueOf(of)
	for _, name := range path {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return nil
		}
		v = v.FieldByName(name)
	}
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8,
		v.Kind() == reflect.Array && v.Type().Elem().Kind() == reflect.Uint8 && v.CanAddr():
		return v.Bytes()
	}
	return nil
}
