/*
 * Floating-point primitives on raw bits, with the exact results and FPSR flags of the Arm ARM's FP pseudocode.
 *
 * Each has a fast path on the host's FPU and falls back on integer arithmetic in fp.c.  The fast path never reads the
 * host's exception flags.  It is used if FPCR selects round to nearest without flush to zero, if the host's result
 * shows that only Inexact can have occurred ("settled"), and if FPSR.IXC is already set or the result is known to be
 * exact.  NaNs, infinities from finite operands and subnormal results are never settled.  It requires the host's MXCSR
 * in its default state: round to nearest, no FTZ, no DAZ.
 *
 * sz: 0 single, 1 double, the encoding of most instructions; single-precision bits are in the low half of a uint64_t,
 * and the upper half of an operand is ignored.
 */
#ifndef PYVMM_CORE_FP_H
#define PYVMM_CORE_FP_H

#include <float.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "pstate.h"

/* sz, op etc. are constants at every call, so that the handler of an op is a few instructions and one cold call. */
#define FP_INLINE static inline __attribute__((always_inline))

enum fp_type { FP_SINGLE = 0, FP_DOUBLE = 1, FP_HALF = 3 }; /* encoded as in ptype; sz has the first two */

/* FPCR.RMode's encoding, and roundings that only instructions specify. */
enum fp_rounding { ROUND_TIEEVEN, ROUND_POSINF, ROUND_NEGINF, ROUND_ZERO, ROUND_TIEAWAY, ROUND_ODD, ROUND_FPCR };

enum fp_arith { FP_ADD, FP_SUB, FP_MUL, FP_DIV };

/* The parameters of a conversion to an integral value; packed into insn.aux at decode. */
struct fp_conversion {
    uint8_t rounding; /* enum fp_rounding */
    uint8_t fbits; /* fraction bits of the fixed-point operand */
    bool is_unsigned;
    bool exact; /* FRINTX: raises Inexact */
};

/* ---- fp.c: exact, any FPCR ---- */

uint64_t fp_soft_arith(struct cpu *cpu, enum fp_arith op, enum fp_type type, uint64_t a, uint64_t b);
uint64_t fp_soft_sqrt(struct cpu *cpu, enum fp_type type, uint64_t a);
uint64_t fp_soft_minmax(struct cpu *cpu, enum fp_type type, uint64_t a, uint64_t b, bool is_min);
uint64_t fp_soft_convert(struct cpu *cpu, enum fp_type to, enum fp_type from, uint64_t a, enum fp_rounding rounding);
uint64_t fp_soft_to_fixed(struct cpu *cpu, enum fp_type type, uint64_t a, struct fp_conversion how, unsigned width);
uint64_t fp_soft_from_fixed(struct cpu *cpu, enum fp_type type, uint64_t magnitude, bool negative, unsigned fbits);
uint64_t fp_soft_round_int(struct cpu *cpu, enum fp_type type, uint64_t a, struct fp_conversion how);
/* The operand of a comparison under FPCR.FZ: subnormals become zero and set IDC. */
uint64_t fp_flush_input(struct cpu *cpu, enum fp_type type, uint64_t a);
void fp_signal_unordered(struct cpu *cpu, enum fp_type type, uint64_t a, uint64_t b, bool signal_all);

/* addend + a * b, rounded once. */
uint64_t fp_muladd(struct cpu *cpu, unsigned sz, uint64_t addend, uint64_t a, uint64_t b);
uint64_t fp_mulx(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b);
uint64_t fp_maxnm(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b);
uint64_t fp_minnm(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b);
uint64_t fp_recip_estimate(struct cpu *cpu, unsigned sz, uint64_t a);
uint64_t fp_rsqrt_estimate(struct cpu *cpu, unsigned sz, uint64_t a);
uint64_t fp_recip_step(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b);
uint64_t fp_rsqrt_step(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b);
uint64_t fp_recip_exponent(struct cpu *cpu, unsigned sz, uint64_t a);
uint32_t unsigned_recip_estimate(uint32_t a);
uint32_t unsigned_rsqrt_estimate(uint32_t a);

/* ---- bits and host values ---- */

static inline double as_f64(uint64_t bits) {
    double value;
    memcpy(&value, &bits, 8);
    return value;
}
static inline float as_f32(uint64_t bits) {
    uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, 4);
    return value;
}
static inline uint64_t f64_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}
static inline uint64_t f32_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline uint64_t fp_sign_bit(unsigned sz) {
    return sz ? 1ull << 63 : 1u << 31;
}
static inline uint64_t fp_neg(unsigned sz, uint64_t a) {
    return a ^ fp_sign_bit(sz);
}
static inline uint64_t fp_abs(unsigned sz, uint64_t a) {
    return a & (fp_sign_bit(sz) - 1);
}
static inline bool fp_is_nan(unsigned sz, uint64_t a) {
    return sz ? __builtin_isnan(as_f64(a)) : __builtin_isnan(as_f32(a));
}
static inline bool fp_is_snan(unsigned sz, uint64_t a) {
    return fp_is_nan(sz, a) && !(a >> (sz ? 51 : 22) & 1);
}

/* ---- when the host's result is Arm's ---- */

static inline bool fp_is_plain(const struct cpu *cpu) {
    return !(cpu->fpcr & (FPCR_RMODE | FPCR_FZ));
}
static inline bool fp_inexact_seen(const struct cpu *cpu) {
    return cpu->fpsr & FPSR_IXC;
}

/* Tininess is detected before rounding: a result equal to the
 * smallest normal may have been tiny, so it is not settled. */
FP_INLINE bool fp_settled64(enum fp_arith op, double x, double y, double result) {
    double magnitude = __builtin_fabs(result);
    if (!(magnitude <= DBL_MAX)) {
        return false;
    }
    switch (op) {
    case FP_ADD:
    case FP_SUB: return true; /* a tiny sum is exact */
    case FP_MUL: return magnitude > DBL_MIN || x == 0 || y == 0;
    default: return magnitude > DBL_MIN || x == 0;
    }
}
FP_INLINE bool fp_settled32(enum fp_arith op, float x, float y, float result) {
    float magnitude = __builtin_fabsf(result);
    if (!(magnitude <= FLT_MAX)) {
        return false;
    }
    switch (op) {
    case FP_ADD:
    case FP_SUB: return true;
    case FP_MUL: return magnitude > FLT_MIN || x == 0 || y == 0;
    default: return magnitude > FLT_MIN || x == 0;
    }
}

/* Knuth's two-sum: its error term is zero if and only if the
 * sum is exact, and a NaN if an intermediate result overflows. */
static inline bool fp_sum_is_exact64(double x, double y, double sum) {
    double part = sum - x;
    return (x - (sum - part)) + (y - part) == 0;
}
static inline bool fp_sum_is_exact32(float x, float y, float sum) {
    float part = sum - x;
    return (x - (sum - part)) + (y - part) == 0;
}

bool fp_product_is_exact64(double x, double y); /* has at most 53 significant bits */

/* For a settled result.  A product of two singles is exact in double. */
FP_INLINE bool fp_exact64(enum fp_arith op, double x, double y, double result) {
    switch (op) {
    case FP_ADD: return fp_sum_is_exact64(x, y, result);
    case FP_SUB: return fp_sum_is_exact64(x, -y, result);
    case FP_MUL: return fp_product_is_exact64(x, y);
    default: return x == 0 || (__builtin_fabs(x) >= DBL_MIN && fp_product_is_exact64(result, y) && result * y == x);
    }
}
FP_INLINE bool fp_exact32(enum fp_arith op, float x, float y, float result) {
    switch (op) {
    case FP_ADD: return fp_sum_is_exact32(x, y, result);
    case FP_SUB: return fp_sum_is_exact32(x, -y, result);
    case FP_MUL: return (double)x * y == result;
    default: return (double)result * y == x;
    }
}

/* ---- arithmetic ---- */

FP_INLINE double fp_host64(enum fp_arith op, double x, double y) {
    switch (op) {
    case FP_ADD: return x + y;
    case FP_SUB: return x - y;
    case FP_MUL: return x * y;
    default: return x / y;
    }
}
FP_INLINE float fp_host32(enum fp_arith op, float x, float y) {
    switch (op) {
    case FP_ADD: return x + y;
    case FP_SUB: return x - y;
    case FP_MUL: return x * y;
    default: return x / y;
    }
}

FP_INLINE uint64_t fp_arith(struct cpu *cpu, enum fp_arith op, unsigned sz, uint64_t a, uint64_t b) {
    if (likely(fp_is_plain(cpu))) {
        if (sz) {
            double x = as_f64(a), y = as_f64(b), result = fp_host64(op, x, y);
            bool settled = fp_settled64(op, x, y, result);
            if (likely(settled) && (likely(fp_inexact_seen(cpu)) || fp_exact64(op, x, y, result))) {
                return f64_bits(result);
            }
        } else {
            float x = as_f32(a), y = as_f32(b), result = fp_host32(op, x, y);
            bool settled = fp_settled32(op, x, y, result);
            if (likely(settled) && (likely(fp_inexact_seen(cpu)) || fp_exact32(op, x, y, result))) {
                return f32_bits(result);
            }
        }
    }
    return fp_soft_arith(cpu, op, sz, a, b);
}

FP_INLINE uint64_t fp_add(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_arith(cpu, FP_ADD, sz, a, b);
}
FP_INLINE uint64_t fp_sub(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_arith(cpu, FP_SUB, sz, a, b);
}
FP_INLINE uint64_t fp_mul(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_arith(cpu, FP_MUL, sz, a, b);
}
FP_INLINE uint64_t fp_div(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_arith(cpu, FP_DIV, sz, a, b);
}
FP_INLINE uint64_t fp_nmul(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_neg(sz, fp_mul(cpu, sz, a, b));
}
FP_INLINE uint64_t fp_abd(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_abs(sz, fp_sub(cpu, sz, a, b));
}

static inline double fp_host_sqrt64(double x) {
#ifdef __SSE2__
    return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(x))); /* sqrt() would need libm for errno */
#else
    return __builtin_sqrt(x);
#endif
}
static inline float fp_host_sqrt32(float x) {
#ifdef __SSE2__
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#else
    return __builtin_sqrtf(x);
#endif
}

FP_INLINE uint64_t fp_sqrt(struct cpu *cpu, unsigned sz, uint64_t a) {
    /* A finite root is settled, being neither tiny nor huge; it is exact if and only if a / root is. */
    if (likely(fp_is_plain(cpu))) {
        if (sz) {
            double x = as_f64(a), root = fp_host_sqrt64(x);
            if (likely(root <= DBL_MAX) && (likely(fp_inexact_seen(cpu)) || fp_exact64(FP_DIV, x, root, root))) {
                return f64_bits(root);
            }
        } else {
            float x = as_f32(a), root = fp_host_sqrt32(x);
            if (likely(root <= FLT_MAX) && (likely(fp_inexact_seen(cpu)) || fp_exact32(FP_DIV, x, root, root))) {
                return f32_bits(root);
            }
        }
    }
    return fp_soft_sqrt(cpu, sz, a);
}

/* ---- comparison ---- */

/* None of the three: unordered. */
struct fp_order {
    bool less, equal, greater;
};

static inline bool fp_is_unordered(struct fp_order order) {
    return !(order.less | order.equal | order.greater);
}

/* FPCompare: a NaN raises Invalid Operation if it is signalling or if `signal_all`. */
FP_INLINE struct fp_order fp_compare(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b, bool signal_all) {
    if (unlikely(cpu->fpcr & FPCR_FZ)) {
        a = fp_flush_input(cpu, sz, a);
        b = fp_flush_input(cpu, sz, b);
    }
    struct fp_order order = {
        .less = sz ? as_f64(a) < as_f64(b) : as_f32(a) < as_f32(b),
        .equal = sz ? as_f64(a) == as_f64(b) : as_f32(a) == as_f32(b),
        .greater = sz ? as_f64(a) > as_f64(b) : as_f32(a) > as_f32(b),
    };
    if (unlikely(fp_is_unordered(order))) {
        fp_signal_unordered(cpu, sz, a, b, signal_all);
    }
    return order;
}

/* Masks of the vector comparisons: all ones when true. */
FP_INLINE uint64_t fp_cmeq(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return -(uint64_t)fp_compare(cpu, sz, a, b, false).equal;
}
FP_INLINE uint64_t fp_cmge(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    struct fp_order order = fp_compare(cpu, sz, a, b, true);
    return -(uint64_t)(order.greater | order.equal);
}
FP_INLINE uint64_t fp_cmgt(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return -(uint64_t)fp_compare(cpu, sz, a, b, true).greater;
}
FP_INLINE uint64_t fp_acge(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_cmge(cpu, sz, fp_abs(sz, a), fp_abs(sz, b));
}
FP_INLINE uint64_t fp_acgt(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_cmgt(cpu, sz, fp_abs(sz, a), fp_abs(sz, b));
}

FP_INLINE uint64_t fp_minmax(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b, bool is_min) {
    if (likely(!(cpu->fpcr & FPCR_FZ) && !fp_is_nan(sz, a) && !fp_is_nan(sz, b))) {
        if (sz ? as_f64(a) == as_f64(b) : as_f32(a) == as_f32(b)) {
            return is_min ? a | b : a & b; /* they differ at most in the sign of zero */
        }
        bool less = sz ? as_f64(a) < as_f64(b) : as_f32(a) < as_f32(b);
        return less == is_min ? a : b;
    }
    return fp_soft_minmax(cpu, sz, a, b, is_min);
}
FP_INLINE uint64_t fp_max(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_minmax(cpu, sz, a, b, false);
}
FP_INLINE uint64_t fp_min(struct cpu *cpu, unsigned sz, uint64_t a, uint64_t b) {
    return fp_minmax(cpu, sz, a, b, true);
}

/* ---- conversion ---- */

static inline enum fp_rounding fp_rounding_mode(const struct cpu *cpu) {
    return (enum fp_rounding)((cpu->fpcr & FPCR_RMODE) >> FPCR_RMODE_SHIFT);
}

/* |x| rounded to an integer; x is below 2^52 in magnitude, so every step is exact. */
FP_INLINE uint64_t fp_integral(double x, enum fp_rounding rounding, bool *inexact) {
    double magnitude = __builtin_fabs(x);
    uint64_t whole = (uint64_t)(int64_t)magnitude;
    double rest = magnitude - (double)(int64_t)whole;
    *inexact = rest != 0;
    switch (rounding) {
    case ROUND_TIEEVEN: return whole + (rest > 0.5 || (rest == 0.5 && (whole & 1)));
    case ROUND_POSINF: return whole + (rest != 0 && x > 0);
    case ROUND_NEGINF: return whole + (rest != 0 && x < 0);
    case ROUND_TIEAWAY: return whole + (rest >= 0.5);
    default: return whole;
    }
}

/* Operands that the fast path can convert: all magnitudes below 2^52 (not NaN), none to be flushed. */
static inline bool fp_is_moderate(const struct cpu *cpu, double x) {
    return !(cpu->fpcr & FPCR_FZ) && __builtin_fabs(x) < 0x1p52;
}

/* FPToFixed to `width` bits; the result is zero-extended. */
FP_INLINE uint64_t fp_to_fixed(struct cpu *cpu, unsigned sz, uint64_t a, struct fp_conversion how, unsigned width) {
    double x = sz ? as_f64(a) : (double)as_f32(a);
    if (how.rounding == ROUND_FPCR) {
        how.rounding = (uint8_t)fp_rounding_mode(cpu);
    }
    if (likely(how.fbits == 0 && fp_is_moderate(cpu, x))) {
        bool inexact;
        uint64_t whole = fp_integral(x, (enum fp_rounding)how.rounding, &inexact);
        if (likely(whole < 1ull << 31 || width == 64) && !(how.is_unsigned && x < 0 && whole)) {
            cpu->fpsr |= inexact ? FPSR_IXC : 0;
            return (x < 0 ? -whole : whole) & ones(width);
        }
    }
    return fp_soft_to_fixed(cpu, sz, a, how, width);
}

/* FixedToFP of a `width`-bit integer, rounded by FPCR. */
FP_INLINE uint64_t fp_from_fixed(struct cpu *cpu, unsigned sz, uint64_t value, unsigned width, bool is_unsigned,
                                 unsigned fbits) {
    value = is_unsigned ? value & ones(width) : (uint64_t)sign_extend(value, width);
    bool negative = !is_unsigned && (int64_t)value < 0;
    uint64_t magnitude = negative ? -value : value;
    bool exact = magnitude <= (sz ? 1ull << 53 : 1ull << 24);
    if (likely(fbits == 0 && magnitude < 1ull << 63 && (exact || (fp_is_plain(cpu) && fp_inexact_seen(cpu))))) {
        return sz ? f64_bits((double)(int64_t)value) : f32_bits((float)(int64_t)value);
    }
    return fp_soft_from_fixed(cpu, sz, magnitude, negative, fbits);
}

/* FPRoundInt */
FP_INLINE uint64_t fp_round_int(struct cpu *cpu, unsigned sz, uint64_t a, struct fp_conversion how) {
    double x = sz ? as_f64(a) : (double)as_f32(a);
    if (how.rounding == ROUND_FPCR) {
        how.rounding = (uint8_t)fp_rounding_mode(cpu);
    }
    if (likely(fp_is_moderate(cpu, x))) {
        bool inexact;
        double whole = (double)(int64_t)fp_integral(x, (enum fp_rounding)how.rounding, &inexact);
        cpu->fpsr |= inexact && how.exact ? FPSR_IXC : 0;
        return (a & fp_sign_bit(sz)) | (sz ? f64_bits(whole) : f32_bits((float)whole));
    }
    return fp_soft_round_int(cpu, sz, a, how);
}

/* FPConvert between single and double. */
static inline uint64_t fp_widen(struct cpu *cpu, uint64_t a) {
    float x = as_f32(a);
    float magnitude = __builtin_fabsf(x);
    if (likely((magnitude >= FLT_MIN && magnitude <= FLT_MAX) || x == 0)) {
        return f64_bits((double)x);
    }
    return fp_soft_convert(cpu, FP_DOUBLE, FP_SINGLE, a, ROUND_FPCR);
}
static inline uint64_t fp_narrow(struct cpu *cpu, uint64_t a) {
    double x = as_f64(a);
    float result = (float)x;
    float magnitude = __builtin_fabsf(result);
    if (likely(fp_is_plain(cpu) && ((magnitude > FLT_MIN && magnitude <= FLT_MAX) || x == 0)) &&
        (likely(fp_inexact_seen(cpu)) || result == x)) {
        return f32_bits(result);
    }
    return fp_soft_convert(cpu, FP_SINGLE, FP_DOUBLE, a, ROUND_FPCR);
}

#endif
