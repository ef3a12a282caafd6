#include "textflag.h"

// ChaCha20 (RFC 8439 section 2.3) of 24 blocks at once in AVX-512.
//
// Six states of four registers each fill 24 of the 32 there are. Register 4s+r
// holds row r of blocks 4s to 4s+3, a block in each 128-bit lane: what the columns
// of a block do to each other is then a rotation within lanes.

DATA sigma<>+0(SB)/4, $0x61707865
DATA sigma<>+4(SB)/4, $0x3320646e
DATA sigma<>+8(SB)/4, $0x79622d32
DATA sigma<>+12(SB)/4, $0x6b206574
GLOBL sigma<>(SB), NOPTR|RODATA, $16

// What the counter of each lane is ahead of the first, and each state of the last.
DATA lanes<>+0(SB)/8, $0
DATA lanes<>+8(SB)/8, $0
DATA lanes<>+16(SB)/8, $1
DATA lanes<>+24(SB)/8, $0
DATA lanes<>+32(SB)/8, $2
DATA lanes<>+40(SB)/8, $0
DATA lanes<>+48(SB)/8, $3
DATA lanes<>+56(SB)/8, $0
GLOBL lanes<>(SB), NOPTR|RODATA, $64

DATA four<>+0(SB)/8, $4
DATA four<>+8(SB)/8, $0
GLOBL four<>(SB), NOPTR|RODATA, $16

// MIX adds, xors and rotates in all six states: x += y, z ^= x, z <<<= n.
#define MIX(n, x0, x1, x2, x3, x4, x5, y0, y1, y2, y3, y4, y5, z0, z1, z2, z3, z4, z5) \
	VPADDD y0, x0, x0; VPADDD y1, x1, x1; VPADDD y2, x2, x2; VPADDD y3, x3, x3; VPADDD y4, x4, x4; VPADDD y5, x5, x5; \
	VPXORD x0, z0, z0; VPXORD x1, z1, z1; VPXORD x2, z2, z2; VPXORD x3, z3, z3; VPXORD x4, z4, z4; VPXORD x5, z5, z5; \
	VPROLD $n, z0, z0; VPROLD $n, z1, z1; VPROLD $n, z2, z2; VPROLD $n, z3, z3; VPROLD $n, z4, z4; VPROLD $n, z5, z5

// QUARTERS is four quarter rounds, one to a column, in all 24 blocks.
#define QUARTERS \
	MIX(16, Z0, Z4, Z8, Z12, Z16, Z20, Z1, Z5, Z9, Z13, Z17, Z21, Z3, Z7, Z11, Z15, Z19, Z23); \
	MIX(12, Z2, Z6, Z10, Z14, Z18, Z22, Z3, Z7, Z11, Z15, Z19, Z23, Z1, Z5, Z9, Z13, Z17, Z21); \
	MIX(8, Z0, Z4, Z8, Z12, Z16, Z20, Z1, Z5, Z9, Z13, Z17, Z21, Z3, Z7, Z11, Z15, Z19, Z23); \
	MIX(7, Z2, Z6, Z10, Z14, Z18, Z22, Z3, Z7, Z11, Z15, Z19, Z23, Z1, Z5, Z9, Z13, Z17, Z21)

// TURN rotates rows 1, 2 and 3 by so many columns.
#define TURN(b, c, d) \
	VPSHUFD $b, Z1, Z1; VPSHUFD $b, Z5, Z5; VPSHUFD $b, Z9, Z9; VPSHUFD $b, Z13, Z13; VPSHUFD $b, Z17, Z17; VPSHUFD $b, Z21, Z21; \
	VPSHUFD $c, Z2, Z2; VPSHUFD $c, Z6, Z6; VPSHUFD $c, Z10, Z10; VPSHUFD $c, Z14, Z14; VPSHUFD $c, Z18, Z18; VPSHUFD $c, Z22, Z22; \
	VPSHUFD $d, Z3, Z3; VPSHUFD $d, Z7, Z7; VPSHUFD $d, Z11, Z11; VPSHUFD $d, Z15, Z15; VPSHUFD $d, Z19, Z19; VPSHUFD $d, Z23, Z23

// OUT adds what the state began with, turns rows into blocks and stores four.
#define OUT(at, a, b, c, d) \
	VPADDD Z24, a, a; VPADDD Z25, b, b; VPADDD Z26, c, c; VPADDD Z27, d, d; \
	VPADDD Z28, Z27, Z27; \
	VSHUFI32X4 $0x44, b, a, Z29; VSHUFI32X4 $0x44, d, c, Z30; \
	VSHUFI32X4 $0xEE, b, a, Z31; VSHUFI32X4 $0xEE, d, c, a; \
	VSHUFI32X4 $0x88, Z30, Z29, b; VSHUFI32X4 $0xDD, Z30, Z29, c; \
	VSHUFI32X4 $0x88, a, Z31, d; VSHUFI32X4 $0xDD, a, Z31, Z29; \
	VMOVDQU64 b, (at+0)(DI); VMOVDQU64 c, (at+64)(DI); VMOVDQU64 d, (at+128)(DI); VMOVDQU64 Z29, (at+192)(DI)

// func keyStream(dst *[streamSize]byte, key *[32]byte, nonce *[16]byte)
TEXT ·keyStream(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ key+8(FP), SI
	MOVQ nonce+16(FP), DX

	VBROADCASTI32X4 sigma<>(SB), Z24
	VBROADCASTI32X4 (SI), Z25
	VBROADCASTI32X4 16(SI), Z26
	VBROADCASTI32X4 (DX), Z27
	VPADDD lanes<>(SB), Z27, Z27
	VBROADCASTI32X4 four<>(SB), Z28

	VMOVDQA64 Z24, Z0
	VMOVDQA64 Z24, Z4
	VMOVDQA64 Z24, Z8
	VMOVDQA64 Z24, Z12
	VMOVDQA64 Z24, Z16
	VMOVDQA64 Z24, Z20
	VMOVDQA64 Z25, Z1
	VMOVDQA64 Z25, Z5
	VMOVDQA64 Z25, Z9
	VMOVDQA64 Z25, Z13
	VMOVDQA64 Z25, Z17
	VMOVDQA64 Z25, Z21
	VMOVDQA64 Z26, Z2
	VMOVDQA64 Z26, Z6
	VMOVDQA64 Z26, Z10
	VMOVDQA64 Z26, Z14
	VMOVDQA64 Z26, Z18
	VMOVDQA64 Z26, Z22
	VMOVDQA64 Z27, Z3
	VPADDD Z28, Z3, Z7
	VPADDD Z28, Z7, Z11
	VPADDD Z28, Z11, Z15
	VPADDD Z28, Z15, Z19
	VPADDD Z28, Z19, Z23

	MOVQ $10, CX
rounds:
	QUARTERS
	TURN(0x39, 0x4E, 0x93)
	QUARTERS
	TURN(0x93, 0x4E, 0x39)
	DECQ CX
	JNZ rounds

	OUT(0, Z0, Z1, Z2, Z3)
	OUT(256, Z4, Z5, Z6, Z7)
	OUT(512, Z8, Z9, Z10, Z11)
	OUT(768, Z12, Z13, Z14, Z15)
	OUT(1024, Z16, Z17, Z18, Z19)
	OUT(1280, Z20, Z21, Z22, Z23)
	VZEROUPPER
	RET
