//go:build !amd64

package aead

const vector = false

func keyStream(*[streamSize]byte, *[KeySize]byte, *[16]byte)     { panic("aead: no vectors") }
func polySum(*[3]uint64, *[32]byte, *byte, int, int, *[128]byte) { panic("aead: no vectors") }
