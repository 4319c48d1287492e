/*
 * Floating point: the exact primitives behind fp.h, and the ops of a64_fp.decode.
 *
 * Arm ARM, "Shared pseudocode", functions FP*: comments name the one that a function implements.  Half-precision
 * values are only converted.  Trapped exceptions (FPCR.IOE and so on) are not implemented, as the architecture allows.
 */
#include "fp.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "emit.h"
#include "host.h"

#include "gen/calls.h"
#include "gen/ops.h"

#include "fp_round.c.inc"

#include "fp_arith.c.inc"
#include "fp_convert.c.inc"
#include "fp_estimate.c.inc"

#include "a64_fp_scalar.c.inc"
#include "a64_fp_vector.c.inc"

#include "a64_fp_imm.c.inc"
#include "a64_fp_lanes.c.inc"

#include "gen/stubs_fp.h"
