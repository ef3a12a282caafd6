package packet

import "golang.org/x/sys/cpu"

var vector = cpu.X86.HasAVX2

// sumVector is sumWords of b by AVX2, three times as fast at 1,400 bytes. The
// length of b is a multiple of 64, and not zero.
//
//go:noescape
func sumVector(b []byte) uint64
