package wireguard

import (
	"crypto/ecdh"
	"reflect"

	"github.com/flynn/noise"
)

// What Go lets a program wipe is what it can still reach. Here that is every
// private key, shared secret, preshared key, chaining key and cipher key a
// handshake holds when it ends. What noise, crypto/hmac and the AEADs made on the
// way and dropped is not reachable: it stays in freed memory until that is used
// again, as do copies the compiler made on the stack.
//
// noise and crypto/ecdh have no method to wipe, so their fields are reached by
// name. A name that is no longer there is passed over; a test says so.

// undo wipes the agreements a refused response has led to.
func (c *curve) undo() {
	for _, a := range c.agreed {
		clear(a.secret)
	}
	c.agreed = c.agreed[:0]
}

// wipe wipes a handshake's secrets and returns nil for its owner to keep.
func (c *curve) wipe(state *noise.HandshakeState) *noise.HandshakeState {
	c.undo()
	wipePrivateKey(c.ephemeral)
	c.ephemeral = nil
	if state != nil {
		wipeState(state)
	}
	return nil
}

// take moves the keys out of what noise returned.
func (k *transportKeys) take(send, receive *noise.CipherState) {
	k.send, k.receive = send.UnsafeKey(), receive.UnsafeKey()
	wipeCipherState(reflect.ValueOf(send).Elem())
	wipeCipherState(reflect.ValueOf(receive).Elem())
}

func wipePrivateKey(key *ecdh.PrivateKey) {
	if key != nil {
		wipeFields(reflect.ValueOf(key).Elem(), "privateKey")
	}
}

func wipeState(state *noise.HandshakeState) {
	v := reflect.ValueOf(state).Elem()
	wipeFields(v, "psk")
	if ss := v.FieldByName("ss"); ss.IsValid() {
		wipeFields(ss, "ck", "h", "prevCK", "prevH")
		wipeCipherState(ss)
	}
}

// wipeCipherState wipes the key of a noise.CipherState, or of a struct that
// embeds one, and the copy its AEAD has.
func wipeCipherState(v reflect.Value) {
	wipeFields(v, "k")
	// c is an interface holding a struct, which embeds an interface holding a
	// pointer to chacha20poly1305's struct.
	c := v.FieldByName("c")
	for range 4 {
		switch c.Kind() {
		case reflect.Interface, reflect.Pointer:
			c = c.Elem()
		case reflect.Struct:
			if aead := c.FieldByName("AEAD"); aead.IsValid() {
				c = aead
			}
		}
	}
	if c.Kind() == reflect.Struct {
		wipeFields(c, "key")
	}
}

func wipeFields(v reflect.Value, names ...string) {
	for _, name := range names {
		f := v.FieldByName(name)
		switch f.Kind() {
		case reflect.Slice:
			clear(f.Bytes())
		case reflect.Array:
			if f.CanAddr() {
				clear(f.Bytes())
			}
		}
	}
}
