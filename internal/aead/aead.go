// Package aead is the cipher of WireGuard's data, ChaCha20-Poly1305 (RFC 8439).
//
// On processors with AVX-512 and IFMA it is code of our own, which takes half the
// time of golang.org/x/crypto/chacha20poly1305; on all others it is that package.
package aead

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math/bits"
	"reflect"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes in bytes.
const (
	KeySize   = chacha20poly1305.KeySize
	NonceSize = chacha20poly1305.NonceSize
	Overhead  = chacha20poly1305.Overhead // of a sealed message over a plain one
)

// ErrOpen is returned for a message that was not sealed with this key and nonce.
var ErrOpen = errors.New("aead: message authentication failed")

// A Cipher is a key. It is a cipher.AEAD whose methods may be used by several
// goroutines, but for Wipe.
type Cipher struct {
	key     [KeySize]byte
	general cipher.AEAD // for what vectors are not there for
}

// New returns a cipher with a copy of key.
func New(key *[KeySize]byte) (*Cipher, error) {
	general, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	return &Cipher{*key, general}, nil
}

// Wipe zeroes the key. The cipher must not be in use, nor used again. A nil Cipher
// has no key.
func (c *Cipher) Wipe() {
	if c == nil {
		return
	}
	clear(c.key[:])
	// x/crypto keeps its copy in an unexported array and offers no way to clear it.
	clear(reflect.ValueOf(c.general).Elem().FieldByName("key").Bytes())
}

// NonceSize implements cipher.AEAD.
func (c *Cipher) NonceSize() int { return NonceSize }

// Overhead implements cipher.AEAD.
func (c *Cipher) Overhead() int { return Overhead }

// vectorMin is the size of message from which on vectors are faster. It is at least
// that of 15 blocks of Poly1305, which sum wants.
const vectorMin = 512

// Seal implements cipher.AEAD. dst must have room, or it is allocated. That message
// and result overlap in part is not always found out.
func (c *Cipher) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	if !vector || len(plaintext) < vectorMin || len(additionalData) > 0 {
		return c.general.Seal(dst, nonce, plaintext, additionalData)
	}
	whole, out := extend(dst, len(plaintext)+Overhead)
	text := out[:len(plaintext)]
	var s stream
	s.begin(c, nonce)
	key := [32]byte(s.bytes[:])
	s.xor(text, plaintext)
	tag := sum(text, &key)
	copy(out[len(text):], tag[:])
	return whole
}

// Open implements cipher.AEAD. The error is ErrOpen, and the room of dst may be zeroed
// then, but has nothing of what was sealed.
func (c *Cipher) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if !vector || len(ciphertext) < vectorMin+Overhead || len(additionalData) > 0 {
		plain, err := c.general.Open(dst, nonce, ciphertext, additionalData)
		if err != nil {
			return nil, ErrOpen
		}
		return plain, nil
	}
	text, tag := ciphertext[:len(ciphertext)-Overhead], ciphertext[len(ciphertext)-Overhead:]
	var s stream
	s.begin(c, nonce)
	if want := sum(text, (*[32]byte)(s.bytes[:])); subtle.ConstantTimeCompare(want[:], tag) == 0 {
		return nil, ErrOpen
	}
	whole, out := extend(dst, len(text))
	s.xor(out, text)
	return whole, nil
}

// A stream is what ChaCha20 makes of a key and a nonce, some blocks at a time. The
// first block is for Poly1305 (section 2.6), and the message is xored with what
// follows.
type stream struct {
	cipher *Cipher
	nonce  [16]byte // the number of the next block, and the nonce
	bytes  [streamSize]byte
}

const (
	blockSize  = 64
	streamSize = 24 * blockSize // all of a packet of 1,472 bytes
)

func (s *stream) begin(c *Cipher, nonce []byte) {
	if len(nonce) != NonceSize { // two could come to the same
		panic("aead: bad nonce length")
	}
	s.cipher = c
	copy(s.nonce[4:], nonce)
	s.next()
}

func (s *stream) next() {
	keyStream(&s.bytes, &s.cipher.key, &s.nonce)
	block := binary.LittleEndian.Uint32(s.nonce[:])
	binary.LittleEndian.PutUint32(s.nonce[:], block+streamSize/blockSize)
}

// xor turns a message into its other form.
func (s *stream) xor(dst, src []byte) {
	done := subtle.XORBytes(dst, src, s.bytes[blockSize:])
	for done < len(src) {
		s.next()
		done += subtle.XORBytes(dst[done:], src[done:], s.bytes[:])
	}
}

// sum is Poly1305 of what section 2.8 makes of a message without additional data:
// the message, zeros up to a multiple of 16 bytes, and the two lengths. It is at
// least vectorMin bytes long.
func sum(msg []byte, key *[32]byte) (tag [16]byte) {
	blocks := (len(msg)+15)/16 + 1
	vectors := (blocks + 7) / 8
	skip := 8*vectors - blocks
	var last [128]byte
	copy(last[:], msg[16*(8*(vectors-1)-skip):])
	binary.LittleEndian.PutUint64(last[120:], uint64(len(msg)))
	var h [3]uint64
	polySum(&h, key, &msg[0], vectors, skip, &last)

	// Carry twice: after the second time nothing is left to come back.
	const mask44, mask42 = 1<<44 - 1, 1<<42 - 1
	for range 2 {
		h[1] += h[0] >> 44
		h[2] += h[1] >> 44
		h[0] = h[0]&mask44 + 5*(h[2]>>42)
		h[1] &= mask44
		h[2] &= mask42
	}
	h[1] += h[0] >> 44
	low, high, top := h[0]&mask44|h[1]<<44, h[1]>>20|h[2]<<24, h[2]>>40

	// Less 2^130-5, if it is that much or more.
	low5, carry := bits.Add64(low, 5, 0)
	high5, carry := bits.Add64(high, 0, carry)
	keep := (top+carry)>>2 - 1 // all ones if it is not
	low, high = low&keep|low5&^keep, high&keep|high5&^keep

	low, carry = bits.Add64(low, binary.LittleEndian.Uint64(key[16:]), 0)
	high, _ = bits.Add64(high, binary.LittleEndian.Uint64(key[24:]), carry)
	binary.LittleEndian.PutUint64(tag[:], low)
	binary.LittleEndian.PutUint64(tag[8:], high)
	return tag
}

// extend appends n bytes, whatever they are, to b, and returns them as well.
func extend(b []byte, n int) (whole, added []byte) {
	whole = slices.Grow(b, n)[:len(b)+n]
	return whole, whole[len(b):]
}
