/*
 * Advanced SIMD without floating point: the handlers of a64_simd.decode.
 *
 * An instruction is a composition of a few whole-vector operations (simd_lanes.c.inc): "UMLAL2" is widen, widen,
 * multiply, add.  If Q, size or U are split fields, they are constants, the operations become loops of known length,
 * and the compiler vectorises them; otherwise the same code runs as plain loops.
 *
 * A write of a vector register always writes all of it: set_vec(), set_half() and set_scalar() clear what must be
 * zero.
 */
#include <string.h>
#ifdef __x86_64__
#include <tmmintrin.h>
#endif

#include "emit.h"
#include "host.h"
#include "mem.h"
#include "pstate.h"
#include "raise.h"
#include "simd_crypto.h"

#include "gen/calls.h"
#include "gen/ops.h"

#include "simd_lanes.c.inc"
#include "simd_saturate.c.inc"

#include "simd_decode.c.inc"

#include "simd_same.c.inc"
#include "simd_long.c.inc"
#include "simd_shift.c.inc"
#include "simd_misc.c.inc"
#include "simd_permute.c.inc"
#include "simd_crypto.c.inc"
#include "simd_memory.c.inc"

#include "gen/stubs_simd.h"
