package aead

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/chacha20poly1305"
)

var _ cipher.AEAD = (*Cipher)(nil)

// pair is a cipher, and x/crypto's with the same key to judge it by.
func pair(t testing.TB, key [KeySize]byte) (*Cipher, cipher.AEAD) {
	c, err := New(&key)
	require.NoError(t, err)
	judge, err := chacha20poly1305.New(key[:])
	require.NoError(t, err)
	return c, judge
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), seed))).Read(b)
	return b
}

func TestEveryLengthIsSealedAsXCryptoDoes(t *testing.T) {
	c, judge := pair(t, [KeySize]byte(random(1, KeySize)))
	msg := random(2, 2*streamSize+200)
	for n := range len(msg) {
		nonce := binary.LittleEndian.AppendUint64(make([]byte, 4), uint64(n)<<40+1)
		sealed := c.Seal(nil, nonce, msg[:n], nil)
		require.True(t, bytes.Equal(judge.Seal(nil, nonce, msg[:n], nil), sealed), "%d bytes", n)
		opened, err := c.Open(nil, nonce, sealed, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(msg[:n], opened), "%d bytes", n)
	}
	nonce := make([]byte, NonceSize)
	long := random(3, 1<<20+7)
	require.True(t, bytes.Equal(judge.Seal(nil, nonce, long, nil), c.Seal(nil, nonce, long, nil)), "1 MiB and a bit")
	require.Equal(t, judge.Seal(nil, nonce, msg, []byte("more")), c.Seal(nil, nonce, msg, []byte("more")), "additional data")
}

func TestMessagesAreSealedAndOpenedWhereTheyAre(t *testing.T) {
	c, judge := pair(t, [KeySize]byte(random(4, KeySize)))
	nonce := random(5, NonceSize)
	for _, n := range []int{0, 64, vectorMin - 1, vectorMin, 1424, 1472, 1473, 4096} {
		msg := random(6, n)
		want := judge.Seal(nil, nonce, msg, nil)

		room := append([]byte("header"), msg...)
		room = slices.Grow(room, Overhead)
		sealed := c.Seal(room[:6], nonce, room[6:], nil)
		require.Equal(t, "header", string(sealed[:6]))
		require.True(t, bytes.Equal(want, sealed[6:]), "%d bytes", n)
		require.Same(t, &room[0], &sealed[0], "nothing is allocated where there is room")

		opened, err := c.Open(sealed[6:6], nonce, sealed[6:], nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(msg, opened), "%d bytes", n)
	}
}

func TestAChangeOfAnyBitIsFound(t *testing.T) {
	c, _ := pair(t, [KeySize]byte(random(7, KeySize)))
	nonce := random(8, NonceSize)
	for _, n := range []int{0, 100, vectorMin, 1424} {
		sealed := c.Seal(nil, nonce, random(9, n), nil)
		out := bytes.Repeat([]byte{0xAA}, n)
		for bit := range 8 * len(sealed) {
			sealed[bit/8] ^= 1 << (bit % 8)
			_, err := c.Open(out[:0], nonce, sealed, nil)
			require.ErrorIs(t, err, ErrOpen, "bit %d of %d bytes", bit, n)
			sealed[bit/8] ^= 1 << (bit % 8)
		}
		if vector && n >= vectorMin {
			require.Equal(t, bytes.Repeat([]byte{0xAA}, n), out, "nothing was written")
		}
		for short := range min(len(sealed), Overhead+1) {
			_, err := c.Open(nil, nonce, sealed[:short], nil)
			if short < len(sealed) {
				require.ErrorIs(t, err, ErrOpen, "%d bytes of %d", short, len(sealed))
			}
		}
	}
}

// The vector of RFC 8439 section 2.3.2, with its counter of 1 as the first block.
func TestKeyStreamIsTheRFCs(t *testing.T) {
	if !vector {
		t.Skip("this processor has no AVX-512 with IFMA")
	}
	var key [KeySize]byte
	for i := range key {
		key[i] = byte(i)
	}
	nonce := [16]byte{0: 1, 7: 9, 11: 0x4a}
	var out [streamSize]byte
	keyStream(&out, &key, &nonce)
	require.Equal(t, "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"+
		"d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e", hex.EncodeToString(out[:64]))
}

// polynomial is Poly1305 as RFC 8439 section 2.5 writes it down.
func polynomial(msg []byte, key *[32]byte) (tag [16]byte) {
	number := func(little []byte) *big.Int {
		b := slices.Clone(little)
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	r := number(key[:16])
	clamp, _ := new(big.Int).SetString("0ffffffc0ffffffc0ffffffc0fffffff", 16)
	r.And(r, clamp)
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 130), big.NewInt(5))

	padded := append(slices.Clone(msg), make([]byte, -len(msg)&15)...)
	padded = binary.LittleEndian.AppendUint64(padded, 0)
	padded = binary.LittleEndian.AppendUint64(padded, uint64(len(msg)))
	h := new(big.Int)
	for block := range slices.Chunk(padded, 16) {
		h.Add(h, number(block))
		h.Add(h, new(big.Int).Lsh(big.NewInt(1), 128))
		h.Mul(h, r).Mod(h, p)
	}
	h.Add(h, number(key[16:]))
	h.And(h, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)))
	h.FillBytes(tag[:])
	slices.Reverse(tag[:])
	return tag
}

func TestSumsAtTheLimitsOfTheirNumbers(t *testing.T) {
	if !vector {
		t.Skip("this processor has no AVX-512 with IFMA")
	}
	fill := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	for _, k := range []byte{0x00, 0x01, 0x7f, 0x80, 0xfc, 0xff} {
		for _, m := range []byte{0x00, 0x01, 0x7f, 0x80, 0xfb, 0xff} {
			for n := vectorMin; n < vectorMin+300; n++ {
				key, msg := [32]byte(fill(k, 32)), fill(m, n)
				require.Equal(t, polynomial(msg, &key), sum(msg, &key), "key of %#x, %d bytes of %#x", k, n, m)
			}
		}
	}
	// r = 1 adds the blocks up: the sum comes to 2^130-6 to 2^130+5, around the modulus.
	for last := range 12 {
		key := [32]byte{0: 1}
		msg := make([]byte, vectorMin)
		for i := range 2 {
			copy(msg[16*i:], fill(0xff, 16))
		}
		msg[0] -= byte(last)
		require.Equal(t, polynomial(msg, &key), sum(msg, &key))
	}
}

func TestANonceOfAnotherLengthIsRefused(t *testing.T) {
	c, _ := pair(t, [KeySize]byte{})
	for _, n := range []int{64, 1424} {
		msg := make([]byte, n)
		for _, size := range []int{0, NonceSize - 1, NonceSize + 1, chacha20poly1305.NonceSizeX} {
			nonce := make([]byte, size)
			require.Panics(t, func() { c.Seal(nil, nonce, msg, nil) })
			require.Panics(t, func() { c.Open(nil, nonce, append(msg, make([]byte, Overhead)...), nil) })
		}
	}
}

func TestWipeLeavesNothingOfTheKey(t *testing.T) {
	c, _ := pair(t, [KeySize]byte(random(10, KeySize)))
	zero, _ := pair(t, [KeySize]byte{})
	c.Wipe()
	nonce := make([]byte, NonceSize)
	for _, n := range []int{1, 1424} {
		require.Equal(t, zero.Seal(nil, nonce, make([]byte, n), nil), c.Seal(nil, nonce, make([]byte, n), nil))
	}
	(*Cipher)(nil).Wipe()
}

func TestNothingIsAllocated(t *testing.T) {
	c, _ := pair(t, [KeySize]byte{})
	nonce := make([]byte, NonceSize)
	for _, n := range []int{64, 1424} {
		msg, sealed := make([]byte, n), make([]byte, 0, n+Overhead)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			sealed = c.Seal(sealed[:0], nonce, msg, nil)
			if _, err := c.Open(msg[:0], nonce, sealed, nil); err != nil {
				panic(err)
			}
		}))
	}
}

func FuzzCipher(f *testing.F) {
	f.Add(random(11, KeySize), random(12, NonceSize), random(13, 1420))
	f.Add(random(14, KeySize), random(15, NonceSize), random(16, 3000))
	f.Fuzz(func(t *testing.T, k, n, msg []byte) {
		var key [KeySize]byte
		var nonce [NonceSize]byte
		copy(key[:], k)
		copy(nonce[:], n)
		c, judge := pair(t, key)
		sealed := c.Seal(nil, nonce[:], msg, nil)
		require.True(t, bytes.Equal(judge.Seal(nil, nonce[:], msg, nil), sealed))
		opened, err := c.Open(nil, nonce[:], sealed, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(msg, opened))
	})
}

func FuzzSum(f *testing.F) {
	if !vector {
		f.Skip("this processor has no AVX-512 with IFMA")
	}
	f.Add(random(17, 32), random(18, 1424))
	f.Add(bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0xff}, 1000))
	f.Fuzz(func(t *testing.T, k, msg []byte) {
		var key [32]byte
		copy(key[:], k)
		if len(msg) >= vectorMin {
			require.Equal(t, polynomial(msg, &key), sum(msg, &key))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"64", 64}, {"512", 512}, {"1424", 1424}, {"4096", 4096}} {
		c, judge := pair(b, [KeySize]byte{})
		nonce, msg, out := make([]byte, NonceSize), make([]byte, size.n), make([]byte, 0, size.n+Overhead)
		b.Run("own/"+size.name, func(b *testing.B) {
			b.SetBytes(int64(size.n))
			for b.Loop() {
				c.Seal(out, nonce, msg, nil)
			}
		})
		b.Run("xcrypto/"+size.name, func(b *testing.B) {
			b.SetBytes(int64(size.n))
			for b.Loop() {
				judge.Seal(out, nonce, msg, nil)
			}
		})
	}
}
