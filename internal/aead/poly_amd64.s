#include "textflag.h"

// Poly1305 (RFC 8439 section 2.5) of eight blocks at once in AVX-512 with IFMA.
//
// A number modulo 2^130-5 is three limbs of 44, 44 and 42 bits, and a register holds
// one limb of eight numbers. The lanes sum every eighth block by Horner's rule in
// r^8; in the end each is multiplied by the power of r that its block is due and
// they are added up. Loading interleaves the blocks, so that the lanes stand for
// blocks 0 4 1 5 2 6 3 7 and are due r to the power of 8 4 7 3 6 2 5 1.

DATA mask44<>+0(SB)/8, $0x00000fffffffffff
GLOBL mask44<>(SB), NOPTR|RODATA, $8
DATA mask42<>+0(SB)/8, $0x000003ffffffffff
GLOBL mask42<>(SB), NOPTR|RODATA, $8
DATA bit40<>+0(SB)/8, $0x0000010000000000
GLOBL bit40<>(SB), NOPTR|RODATA, $8

// A product's halves have the weights 1 and 2^52, so that the upper one goes into
// the next limb times 2^8, or from the last limb, of 42 bits, times 2^10.

// CLEAR makes the sums of products zero.
#define CLEAR \
	VPXORQ Z3, Z3, Z3; VPXORQ Z4, Z4, Z4; VPXORQ Z5, Z5, Z5; \
	VPXORQ Z6, Z6, Z6; VPXORQ Z7, Z7, Z7; VPXORQ Z8, Z8, Z8

// TIMES adds (a0, a1, a2) times (r0, r1, r2) to the sums, where s1 and s2 are 20
// times r1 and r2: what goes past bit 132 comes back times 4 times 5.
#define TIMES(a0, a1, a2, r0, r1, r2, s1, s2) \
	VPMADD52LUQ s1, a2, Z3; VPMADD52HUQ s1, a2, Z4; \
	VPMADD52LUQ s2, a2, Z5; VPMADD52HUQ s2, a2, Z6; \
	VPMADD52LUQ r0, a2, Z7; VPMADD52HUQ r0, a2, Z8; \
	VPMADD52LUQ s2, a1, Z3; VPMADD52HUQ s2, a1, Z4; \
	VPMADD52LUQ r0, a1, Z5; VPMADD52HUQ r0, a1, Z6; \
	VPMADD52LUQ r1, a1, Z7; VPMADD52HUQ r1, a1, Z8; \
	VPMADD52LUQ r0, a0, Z3; VPMADD52HUQ r0, a0, Z4; \
	VPMADD52LUQ r1, a0, Z5; VPMADD52HUQ r1, a0, Z6; \
	VPMADD52LUQ r2, a0, Z7; VPMADD52HUQ r2, a0, Z8

// CARRY makes the sums a number again, Z0 to Z2. With sums of two products of
// numbers below 2^45, 2^45 and 2^43 it ends below 2^44, 2^45 and 2^42.
#define CARRY \
	VPSRLQ $44, Z3, Z1; VPSLLQ $8, Z4, Z4; VPANDQ Z29, Z3, Z0; \
	VPADDQ Z4, Z5, Z5; VPADDQ Z1, Z5, Z5; \
	VPSRLQ $44, Z5, Z2; VPSLLQ $8, Z6, Z6; VPANDQ Z29, Z5, Z1; \
	VPADDQ Z6, Z7, Z7; VPADDQ Z2, Z7, Z7; \
	VPSRLQ $42, Z7, Z3; VPSLLQ $10, Z8, Z8; VPANDQ Z30, Z7, Z2; \
	VPADDQ Z8, Z3, Z3; VPSLLQ $2, Z3, Z4; VPADDQ Z3, Z0, Z0; VPADDQ Z4, Z0, Z0; \
	VPSRLQ $44, Z0, Z3; VPANDQ Z29, Z0, Z0; VPADDQ Z3, Z1, Z1

// PRODUCT is (Z0, Z1, Z2) times (r0, r1, r2).
#define PRODUCT(r0, r1, r2, s1, s2) \
	CLEAR; TIMES(Z0, Z1, Z2, r0, r1, r2, s1, s2); CARRY

// TIMES20 is s = 20 r.
#define TIMES20(r, s) \
	VPSLLQ $2, r, s; VPADDQ r, s, s; VPSLLQ $2, s, s

// LOAD is the lower halves of eight blocks, and the upper ones.
#define LOAD(from, low, high) \
	VMOVDQU64 (from), low; VMOVDQU64 64(from), Z28; \
	VPUNPCKHQDQ Z28, low, high; VPUNPCKLQDQ Z28, low, low

// LIMBS turns the lower and upper halves of blocks into limbs. It uses Z28.
#define LIMBS(low, high, a0, a1, a2) \
	VPSRLQ $44, low, a1; VPSLLQ $20, high, Z28; VPORQ Z28, a1, a1; \
	VPANDQ Z29, low, a0; VPANDQ Z29, a1, a1; VPSRLQ $24, high, a2

// ADD adds eight whole blocks, from their halves in Z3 and Z4.
#define ADD \
	LIMBS(Z3, Z4, Z5, Z6, Z7); VPADDQ Z31, Z7, Z7; \
	VPADDQ Z5, Z0, Z0; VPADDQ Z6, Z1, Z1; VPADDQ Z7, Z2, Z2

// func polySum(sum *[3]uint64, key *[32]byte, msg *byte, vectors int, skip int, last *[128]byte)
TEXT ·polySum(SB), NOSPLIT, $0-48
	MOVQ sum+0(FP), DI
	MOVQ key+8(FP), SI
	MOVQ msg+16(FP), R8
	MOVQ vectors+24(FP), R9
	MOVQ skip+32(FP), CX
	MOVQ last+40(FP), R10

	VPBROADCASTQ mask44<>(SB), Z29
	VPBROADCASTQ mask42<>(SB), Z30
	VPBROADCASTQ bit40<>(SB), Z31

	// r, clamped, in limbs and in every lane: Z9 to Z11; r^1 is in all lanes.
	MOVQ (SI), AX
	MOVQ 8(SI), BX
	MOVQ $0x0ffffffc0fffffff, DX
	ANDQ DX, AX
	MOVQ $0x0ffffffc0ffffffc, DX
	ANDQ DX, BX
	VPBROADCASTQ AX, Z3
	VPBROADCASTQ BX, Z4
	LIMBS(Z3, Z4, Z0, Z1, Z2)
	VMOVDQA64 Z0, Z9
	VMOVDQA64 Z1, Z10
	VMOVDQA64 Z2, Z11
	TIMES20(Z10, Z12)
	TIMES20(Z11, Z13)

	// Z14 to Z16: r^2, and with r in the lanes of odd powers Z9 to Z11.
	PRODUCT(Z9, Z10, Z11, Z12, Z13)
	VMOVDQA64 Z0, Z14
	VMOVDQA64 Z1, Z15
	VMOVDQA64 Z2, Z16
	MOVQ $0x33, AX // lanes of 8, 4, 6, 2
	KMOVQ AX, K1
	VPBLENDMQ Z14, Z9, K1, Z9
	VPBLENDMQ Z15, Z10, K1, Z10
	VPBLENDMQ Z16, Z11, K1, Z11
	TIMES20(Z15, Z17)
	TIMES20(Z16, Z18)

	// Times r^2 in the lanes of 8, 4, 7, 3; r^4 in Z14 to Z16.
	VMOVDQA64 Z9, Z0
	VMOVDQA64 Z10, Z1
	VMOVDQA64 Z11, Z2
	PRODUCT(Z14, Z15, Z16, Z17, Z18)
	MOVQ $0x0F, AX
	KMOVQ AX, K1
	VPBLENDMQ Z0, Z9, K1, Z9
	VPBLENDMQ Z1, Z10, K1, Z10
	VPBLENDMQ Z2, Z11, K1, Z11
	VPBROADCASTQ X0, Z14
	VPBROADCASTQ X1, Z15
	VPBROADCASTQ X2, Z16
	TIMES20(Z15, Z17)
	TIMES20(Z16, Z18)

	// Times r^4 in the lanes of 8, 7, 6, 5: then Z9 to Z11 are the powers each lane
	// is due, and Z14 to Z16 r^8.
	VMOVDQA64 Z9, Z0
	VMOVDQA64 Z10, Z1
	VMOVDQA64 Z11, Z2
	PRODUCT(Z14, Z15, Z16, Z17, Z18)
	MOVQ $0x55, AX
	KMOVQ AX, K1
	VPBLENDMQ Z0, Z9, K1, Z9
	VPBLENDMQ Z1, Z10, K1, Z10
	VPBLENDMQ Z2, Z11, K1, Z11
	TIMES20(Z10, Z12)
	TIMES20(Z11, Z13)
	VPBROADCASTQ X0, Z14
	VPBROADCASTQ X1, Z15
	VPBROADCASTQ X2, Z16
	TIMES20(Z15, Z17)
	TIMES20(Z16, Z18)

	// Z19 to Z21: r^16.
	VMOVDQA64 Z14, Z0
	VMOVDQA64 Z15, Z1
	VMOVDQA64 Z16, Z2
	PRODUCT(Z14, Z15, Z16, Z17, Z18)
	VMOVDQA64 Z0, Z19
	VMOVDQA64 Z1, Z20
	VMOVDQA64 Z2, Z21
	TIMES20(Z20, Z22)
	TIMES20(Z21, Z23)

	// The first vector has nothing in its first places, and then the first blocks.
	// They are put in their places after loading, because a load with a mask is slow
	// where what is masked out happens to lie in a page that is not there.
	SHLQ $1, CX // quadwords
	MOVQ $0xFFFF, AX
	SHLQ CX, AX
	KMOVQ AX, K1 // which there are of blocks 0 to 3
	SHRQ $8, AX
	KMOVQ AX, K2 // and of 4 to 7
	MOVQ $8, AX
	XORQ DX, DX
	SUBQ CX, AX
	CMOVQLT DX, AX // how many of blocks 0 to 3
	VMOVDQU64 (R8), Z5
	VMOVDQU64 (R8)(AX*8), Z6
	NEGQ CX
	ADDQ $16, CX
	LEAQ (R8)(CX*8), R8
	VPEXPANDQ.Z Z5, K1, Z5
	VPEXPANDQ.Z Z6, K2, Z6
	VPUNPCKLQDQ Z6, Z5, Z3
	VPUNPCKHQDQ Z6, Z5, Z4
	LIMBS(Z3, Z4, Z0, Z1, Z2)
	VPTERNLOGQ $0xFF, Z7, Z7, Z7
	VMOVDQA64.Z Z7, K1, Z5
	VMOVDQA64.Z Z7, K2, Z6
	VPUNPCKLQDQ Z6, Z5, Z5
	VPANDQ Z31, Z5, Z5 // bit 128, of those there are
	VPADDQ Z5, Z2, Z2

	// If the others are of an odd number, one of them alone.
	DECQ R9
	TESTQ $1, R9
	JZ    even
	MOVQ  R8, R11
	CMPQ  R9, $1
	CMOVQEQ R10, R11
	PRODUCT(Z14, Z15, Z16, Z17, Z18)
	LOAD(R11, Z3, Z4)
	ADD
	ADDQ $128, R8

even:
	SHRQ $1, R9
	JZ   end

	// Then two at a time: the sum times r^16, the first times r^8, and the second.
pair:
	LEAQ 128(R8), R11
	CMPQ R9, $1
	CMOVQEQ R10, R11
	LOAD(R8, Z26, Z27)
	LIMBS(Z26, Z27, Z24, Z25, Z26)
	VPADDQ Z31, Z26, Z26
	CLEAR
	TIMES(Z24, Z25, Z26, Z14, Z15, Z16, Z17, Z18)
	TIMES(Z0, Z1, Z2, Z19, Z20, Z21, Z22, Z23)
	CARRY
	LOAD(R11, Z3, Z4)
	ADD
	ADDQ $256, R8
	DECQ R9
	JNZ  pair

end:
	PRODUCT(Z9, Z10, Z11, Z12, Z13)
	// The lanes' sum, in the lowest quadword.
	VSHUFI64X2 $0x4E, Z0, Z0, Z3
	VSHUFI64X2 $0x4E, Z1, Z1, Z4
	VSHUFI64X2 $0x4E, Z2, Z2, Z5
	VPADDQ Z3, Z0, Z0
	VPADDQ Z4, Z1, Z1
	VPADDQ Z5, Z2, Z2
	VSHUFI64X2 $0xB1, Z0, Z0, Z3
	VSHUFI64X2 $0xB1, Z1, Z1, Z4
	VSHUFI64X2 $0xB1, Z2, Z2, Z5
	VPADDQ Z3, Z0, Z0
	VPADDQ Z4, Z1, Z1
	VPADDQ Z5, Z2, Z2
	VPSRLDQ $8, X0, X3
	VPSRLDQ $8, X1, X4
	VPSRLDQ $8, X2, X5
	VPADDQ X3, X0, X0
	VPADDQ X4, X1, X1
	VPADDQ X5, X2, X2
	VMOVQ X0, (DI)
	VMOVQ X1, 8(DI)
	VMOVQ X2, 16(DI)
	VZEROUPPER
	RET
