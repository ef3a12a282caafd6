#include "textflag.h"

// func sumVector(b []byte) uint64
//
// Four accumulators of four 64-bit lanes each take the 32-bit halves of two
// vectors a turn. A lane gains less than 2^32 a turn, so none overflows before
// 2^32 turns, nor does their sum at any length a packet has.
TEXT ·sumVector(SB), NOSPLIT, $0-32
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPCMPEQD Y7, Y7, Y7
	VPSRLQ $32, Y7, Y7

loop:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VPSRLQ $32, Y4, Y6
	VPAND Y7, Y4, Y4
	VPADDQ Y6, Y0, Y0
	VPADDQ Y4, Y1, Y1
	VPSRLQ $32, Y5, Y6
	VPAND Y7, Y5, Y5
	VPADDQ Y6, Y2, Y2
	VPADDQ Y5, Y3, Y3
	ADDQ $64, SI
	SUBQ $64, CX
	JNZ loop

	VPADDQ Y1, Y0, Y0
	VPADDQ Y3, Y2, Y2
	VPADDQ Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ X1, X0, X0
	VPSRLDQ $8, X0, X1
	VPADDQ X1, X0, X0
	VMOVQ X0, AX
	VZEROUPPER
	MOVQ AX, ret+24(FP)
	RET
