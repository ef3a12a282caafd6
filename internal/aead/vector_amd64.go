package aead

import "golang.org/x/sys/cpu"

// vector is whether the functions below can run. A processor's AVX-512 counts only
// if the system saves its registers (XCR0).
var vector = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512IFMA

// keyStream writes blocks of ChaCha20. The first four bytes of nonce are the number
// of the first one.
//
//go:noescape
func keyStream(dst *[streamSize]byte, key *[KeySize]byte, nonce *[16]byte)

// polySum is Poly1305 before its end: the sum of blocks times powers of r, as limbs
// of 44, 44 and 42 bits, each of which may be 2^50 and so has something to carry.
// There are so many vectors of eight blocks, two at least: the first has none in its
// first skip places, and the last vector is last.
//
//go:noescape
func polySum(sum *[3]uint64, key *[32]byte, msg *byte, vectors, skip int, last *[128]byte)
