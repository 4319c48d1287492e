/* Advanced SIMD as programs use it: kernels, saturation, permutation, structure loads, conversions. */
#include <arm_neon.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"

#define TARGET(features) __attribute__((target(features)))

enum { SIZE = 256 };
static _Alignas(16) uint8_t bytes[SIZE + 64], other[SIZE + 64];
static _Alignas(16) float floats[SIZE], more_floats[SIZE];
static _Alignas(16) uint8_t out[4 * SIZE];

static void fill(uint64_t seed) {
    for (unsigned k = 0; k < SIZE + 64; k++) {
        bytes[k] = (uint8_t)(next_random(&seed) >> 33);
        other[k] = (uint8_t)(next_random(&seed) >> 33);
    }
    for (unsigned k = 0; k < SIZE; k++) {
        floats[k] = (float)(int32_t)next_random(&seed) / 65536.0f;
        more_floats[k] = (float)(int32_t)next_random(&seed) * 0x1p-31f;
    }
}

static void show_out(const char *name, size_t size) {
    show_sum(name, add_bytes(SUM_START, out, size));
}

static void matrices(void) {
    float c[16];
    for (unsigned j = 0; j < 4; j++) {
        float32x4_t column = vdupq_n_f32(0);
        for (unsigned k = 0; k < 4; k++) {
            column = vfmaq_n_f32(column, vld1q_f32(&floats[4 * k]), more_floats[4 * j + k]);
        }
        vst1q_f32(&c[4 * j], column);
    }
    printf("matrix %a %a %a\n", (double)c[0], (double)c[7], (double)c[15]);
    float64x2_t sum = vdupq_n_f64(0);
    float32x4_t least = vdupq_n_f32(INFINITY), most = vdupq_n_f32(-INFINITY);
    for (unsigned k = 0; k < SIZE; k += 4) {
        float32x4_t a = vld1q_f32(&floats[k]), b = vld1q_f32(&more_floats[k]);
        sum = vfmaq_f64(sum, vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(b));
        least = vminq_f32(least, vsubq_f32(a, b));
        most = vmaxnmq_f32(most, vdivq_f32(a, vabsq_f32(b)));
    }
    printf("reductions %a %a %a\n", vaddvq_f64(sum), (double)vminvq_f32(least), (double)vmaxvq_f32(most));
}

/* An alpha blend, as a picture library would. */
static void pixels(void) {
    for (unsigned k = 0; k < SIZE / 2; k += 32) {
        uint8x8x4_t a = vld4_u8(bytes + k), b = vld4_u8(other + k);
        for (unsigned c = 0; c < 3; c++) {
            uint16x8_t t = vmlal_u8(vmull_u8(a.val[c], a.val[3]), b.val[c], vmvn_u8(a.val[3]));
            b.val[c] = vraddhn_u16(t, vrshrq_n_u16(t, 8));
        }
        b.val[3] = vqadd_u8(a.val[3], b.val[3]);
        vst4_u8(out + k, b);
    }
    show_out("blend", SIZE / 2);
    for (unsigned k = 0; k < 192; k += 48) {
        uint8x16x3_t rgb = vld3q_u8(bytes + k);
        uint8x16_t held = rgb.val[0];
        rgb.val[0] = rgb.val[2], rgb.val[2] = held;
        vst3q_u8(out + k, rgb);
    }
    show_out("swap colours", 192);
    uint16x4x2_t pair = vld2_lane_u16((uint16_t *)(bytes + 6), vld2_u16((uint16_t *)(other + 2)), 3);
    vst2_u16((uint16_t *)out, pair);
    vst4q_lane_u32((uint32_t *)(out + 32), vld4q_dup_u32((uint32_t *)(bytes + 4)), 2);
    show_out("lanes", 48);
}

static void saturation(void) {
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < SIZE; k += 16) {
        int8x16_t a = vld1q_s8((int8_t *)bytes + k), b = vld1q_s8((int8_t *)other + k);
        int16x8_t h = vreinterpretq_s16_s8(a), g = vreinterpretq_s16_s8(b);
        int32x4_t s = vreinterpretq_s32_s8(a), t = vreinterpretq_s32_s8(b);
        vst1q_s8((int8_t *)out, vqaddq_s8(a, b));
        vst1q_s8((int8_t *)out + 16, vqsubq_s8(a, b));
        vst1q_s16((int16_t *)(out + 32), vqdmulhq_s16(h, g));
        vst1q_s32((int32_t *)(out + 48), vqrdmulhq_s32(s, t));
        vst1q_s32((int32_t *)(out + 64), vqdmlal_s16(s, vget_low_s16(h), vget_high_s16(g)));
        vst1_s8((int8_t *)out + 80, vqmovn_s16(h));
        vst1_u8(out + 88, vqmovun_s16(vshrq_n_s16(g, 3)));
        vst1q_s16((int16_t *)(out + 96), vqshlq_s16(h, vshrq_n_s16(g, 11)));
        vst1q_s16((int16_t *)(out + 112), vrshlq_s16(h, vshrq_n_s16(g, 11)));
        vst1_s8((int8_t *)out + 128, vqrshrn_n_s16(h, 3));
        vst1_u16((uint16_t *)(out + 136), vqshrun_n_s32(s, 9));
        vst1q_s8((int8_t *)out + 144, vqabsq_s8(vqnegq_s8(a)));
        vst1q_u8(out + 160, vsqaddq_u8(vreinterpretq_u8_s8(a), b));
        sum = add_bytes(sum, out, 176);
    }
    show_sum("saturation", sum);
}

static void integers(void) {
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < SIZE; k += 16) {
        uint8x16_t a = vld1q_u8(bytes + k + 1), b = vld1q_u8(other + k + 3);
        uint16x8_t h = vreinterpretq_u16_u8(a), g = vreinterpretq_u16_u8(b);
        vst1q_u8(out, vabdq_u8(a, b));
        vst1q_u16((uint16_t *)(out + 16), vabal_u8(h, vget_low_u8(a), vget_low_u8(b)));
        vst1q_u8(out + 32, vhaddq_u8(a, b));
        vst1q_u8(out + 48, vrhaddq_u8(a, b));
        vst1q_u8(out + 64, vcntq_u8(a));
        vst1q_u16((uint16_t *)(out + 80), vclzq_u16(h));
        vst1q_u16((uint16_t *)(out + 96), vpaddq_u16(h, g));
        vst1q_u16((uint16_t *)(out + 112), vpadalq_u8(g, a));
        vst1q_u8(out + 128, vbslq_u8(a, b, vrbitq_u8(b)));
        vst1q_u8(out + 144, vsliq_n_u8(a, b, 3));
        vst1q_u16((uint16_t *)(out + 160), vsriq_n_u16(h, g, 5));
        vst1q_u8(out + 176, vorrq_u8(vcgtq_u8(a, b), vtstq_u8(a, b)));
        vst1q_u16((uint16_t *)(out + 192), vmlsq_u16(h, g, g));
        vst1q_u16((uint16_t *)(out + 208), vreinterpretq_u16_p16(vmull_p8(vreinterpret_p8_u8(vget_low_u8(a)), vreinterpret_p8_u8(vget_high_u8(b)))));
        vst1q_u8(out + 224, vmulq_u8(a, b));
        sum = add_bytes(sum, out, 240);
        sum = add_word(sum, vaddvq_u8(a) + (uint64_t)vaddlvq_u16(h) * 257 + vmaxvq_u8(b) * 65537u + vminvq_u16(g));
    }
    show_sum("integers", sum);
}

static void permutations(void) {
    uint8x16_t a = vld1q_u8(bytes), b = vld1q_u8(other), index = vandq_u8(b, vdupq_n_u8(0x47));
    uint8x16x4_t table = {{a, b, vrev64q_u8(a), vrev32q_u8(b)}};
    vst1q_u8(out, vqtbl4q_u8(table, index));
    vst1q_u8(out + 16, vqtbx1q_u8(a, b, vandq_u8(index, vdupq_n_u8(0x1f))));
    vst1q_u8(out + 32, vextq_u8(a, b, 5));
    vst1q_u8(out + 48, vzip1q_u8(a, b));
    vst1q_u8(out + 64, vuzp2q_u8(a, b));
    vst1q_u16((uint16_t *)(out + 80), vtrn1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
    vst1q_u64((uint64_t *)(out + 96), vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
    vst1q_u8(out + 112, vrev16q_u8(vcopyq_laneq_u8(a, 3, b, 12)));
    show_out("permutations", 128);
}

static void conversions(void) {
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < SIZE; k += 4) {
        float32x4_t a = vld1q_f32(&floats[k]), b = vld1q_f32(&more_floats[k]);
        vst1q_s32((int32_t *)out, vcvtq_s32_f32(a));
        vst1q_u32((uint32_t *)(out + 16), vcvtnq_u32_f32(a));
        vst1q_s32((int32_t *)(out + 32), vcvtmq_s32_f32(b));
        vst1q_s32((int32_t *)(out + 48), vcvtq_n_s32_f32(b, 12));
        vst1q_f32((float *)(out + 64), vcvtq_n_f32_u32(vreinterpretq_u32_f32(a), 7));
        vst1q_f32((float *)(out + 80), vrndaq_f32(a));
        vst1q_f32((float *)(out + 96), vrecpeq_f32(a));
        vst1q_f32((float *)(out + 112), vrsqrteq_f32(vabsq_f32(b)));
        vst1q_f32((float *)(out + 128), vrecpsq_f32(a, b));
        vst1q_f32((float *)(out + 144), vrsqrtsq_f32(a, b));
        vst1_f16((float16_t *)(out + 160), vcvt_f16_f32(a));
        vst1q_f32((float *)(out + 168), vsqrtq_f32(vabdq_f32(a, b)));
        vst1q_u32((uint32_t *)(out + 184), vcagtq_f32(a, b));
        vst1q_f32((float *)(out + 200), vmulxq_f32(a, b));
        vst1q_f64((double *)(out + 216), vcvtq_f64_s64(vreinterpretq_s64_f32(a)));
        sum = add_bytes(sum, out, 232);
    }
    show_sum("conversions", sum);
}

TARGET("arch=armv8.1-a+dotprod") static void later_extensions(void) {
    int32x4_t dot = vdupq_n_s32(0);
    uint32x4_t unsigned_dot = vdupq_n_u32(0);
    int16x8_t rounded = vdupq_n_s16(3);
    for (unsigned k = 0; k < SIZE; k += 16) {
        int8x16_t a = vld1q_s8((int8_t *)bytes + k), b = vld1q_s8((int8_t *)other + k);
        dot = vdotq_s32(dot, a, b);
        dot = vdotq_laneq_s32(dot, a, b, 2);
        unsigned_dot = vdotq_u32(unsigned_dot, vreinterpretq_u8_s8(a), vreinterpretq_u8_s8(b));
        rounded = vqrdmlahq_s16(rounded, vreinterpretq_s16_s8(a), vreinterpretq_s16_s8(b));
        rounded = vqrdmlshq_laneq_s16(rounded, vreinterpretq_s16_s8(b), vreinterpretq_s16_s8(a), 5);
    }
    printf("dot %d %u rounded %d %d\n", vaddvq_s32(dot), vaddvq_u32(unsigned_dot), rounded[0], rounded[7]);
}

/* Loops that the compiler vectorises itself. */
static void vectorised(void) {
    int32_t *a = malloc(4096 * sizeof *a), total = 0;
    double product = 0;
    for (int k = 0; k < 4096; k++) {
        a[k] = k * k - 77 * k;
    }
    for (int round = 0; round < 20; round++) {
        for (int k = 0; k < 4096; k++) {
            a[k] = (a[k] >> 3) ^ (a[k] * 5 + round);
        }
        for (int k = 0; k < 4096; k++) {
            total += a[k] > 0 ? a[k] & 0xff : -1;
            product += (double)(a[k] % 7) * 0.5;
        }
    }
    printf("vectorised %d %a\n", total, product);
    free(a);
}

int main(void) {
    fill(71);
    matrices();
    pixels();
    saturation();
    integers();
    permutations();
    conversions();
    later_extensions();
    vectorised();
    return 0;
}
