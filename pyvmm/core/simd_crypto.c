/*
 * Cryptographic primitives: AES, the SHA-1 and SHA-256 rounds, the carry-less product.
 *
 * The AES state is in the register as in FIPS 197: byte r + 4c is row r, column c.
 */
#include "simd_crypto.h"

#ifdef __x86_64__
#include <immintrin.h>
#define ON_HOST(feature) __attribute__((target(feature)))
#define HOST_HAS(feature) likely(__builtin_cpu_supports(feature))

static inline __m128i load(const union v128 *v) {
    return _mm_load_si128((const __m128i *)v);
}
static inline void store(union v128 *v, __m128i value) {
    _mm_store_si128((__m128i *)v, value);
}
#endif

/* ---- AES -------------------------------------------------------------------------------------------------------- */

/* clang-format off: sixteen in a line */
static const uint8_t sbox[256] = {
    0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5, 0x30, 0x01, 0x67, 0x2b, 0xfe, 0xd7, 0xab, 0x76, 0xca, 0x82, 0xc9,
    0x7d, 0xfa, 0x59, 0x47, 0xf0, 0xad, 0xd4, 0xa2, 0xaf, 0x9c, 0xa4, 0x72, 0xc0, 0xb7, 0xfd, 0x93, 0x26, 0x36, 0x3f,
    0xf7, 0xcc, 0x34, 0xa5, 0xe5, 0xf1, 0x71, 0xd8, 0x31, 0x15, 0x04, 0xc7, 0x23, 0xc3, 0x18, 0x96, 0x05, 0x9a, 0x07,
    0x12, 0x80, 0xe2, 0xeb, 0x27, 0xb2, 0x75, 0x09, 0x83, 0x2c, 0x1a, 0x1b, 0x6e, 0x5a, 0xa0, 0x52, 0x3b, 0xd6, 0xb3,
    0x29, 0xe3, 0x2f, 0x84, 0x53, 0xd1, 0x00, 0xed, 0x20, 0xfc, 0xb1, 0x5b, 0x6a, 0xcb, 0xbe, 0x39, 0x4a, 0x4c, 0x58,
    0xcf, 0xd0, 0xef, 0xaa, 0xfb, 0x43, 0x4d, 0x33, 0x85, 0x45, 0xf9, 0x02, 0x7f, 0x50, 0x3c, 0x9f, 0xa8, 0x51, 0xa3,
    0x40, 0x8f, 0x92, 0x9d, 0x38, 0xf5, 0xbc, 0xb6, 0xda, 0x21, 0x10, 0xff, 0xf3, 0xd2, 0xcd, 0x0c, 0x13, 0xec, 0x5f,
    0x97, 0x44, 0x17, 0xc4, 0xa7, 0x7e, 0x3d, 0x64, 0x5d, 0x19, 0x73, 0x60, 0x81, 0x4f, 0xdc, 0x22, 0x2a, 0x90, 0x88,
    0x46, 0xee, 0xb8, 0x14, 0xde, 0x5e, 0x0b, 0xdb, 0xe0, 0x32, 0x3a, 0x0a, 0x49, 0x06, 0x24, 0x5c, 0xc2, 0xd3, 0xac,
    0x62, 0x91, 0x95, 0xe4, 0x79, 0xe7, 0xc8, 0x37, 0x6d, 0x8d, 0xd5, 0x4e, 0xa9, 0x6c, 0x56, 0xf4, 0xea, 0x65, 0x7a,
    0xae, 0x08, 0xba, 0x78, 0x25, 0x2e, 0x1c, 0xa6, 0xb4, 0xc6, 0xe8, 0xdd, 0x74, 0x1f, 0x4b, 0xbd, 0x8b, 0x8a, 0x70,
    0x3e, 0xb5, 0x66, 0x48, 0x03, 0xf6, 0x0e, 0x61, 0x35, 0x57, 0xb9, 0x86, 0xc1, 0x1d, 0x9e, 0xe1, 0xf8, 0x98, 0x11,
    0x69, 0xd9, 0x8e, 0x94, 0x9b, 0x1e, 0x87, 0xe9, 0xce, 0x55, 0x28, 0xdf, 0x8c, 0xa1, 0x89, 0x0d, 0xbf, 0xe6, 0x42,
    0x68, 0x41, 0x99, 0x2d, 0x0f, 0xb0, 0x54, 0xbb, 0x16,
};

static const uint8_t inverse_sbox[256] = {
    0x52, 0x09, 0x6a, 0xd5, 0x30, 0x36, 0xa5, 0x38, 0xbf, 0x40, 0xa3, 0x9e, 0x81, 0xf3, 0xd7, 0xfb, 0x7c, 0xe3, 0x39,
    0x82, 0x9b, 0x2f, 0xff, 0x87, 0x34, 0x8e, 0x43, 0x44, 0xc4, 0xde, 0xe9, 0xcb, 0x54, 0x7b, 0x94, 0x32, 0xa6, 0xc2,
    0x23, 0x3d, 0xee, 0x4c, 0x95, 0x0b, 0x42, 0xfa, 0xc3, 0x4e, 0x08, 0x2e, 0xa1, 0x66, 0x28, 0xd9, 0x24, 0xb2, 0x76,
    0x5b, 0xa2, 0x49, 0x6d, 0x8b, 0xd1, 0x25, 0x72, 0xf8, 0xf6, 0x64, 0x86, 0x68, 0x98, 0x16, 0xd4, 0xa4, 0x5c, 0xcc,
    0x5d, 0x65, 0xb6, 0x92, 0x6c, 0x70, 0x48, 0x50, 0xfd, 0xed, 0xb9, 0xda, 0x5e, 0x15, 0x46, 0x57, 0xa7, 0x8d, 0x9d,
    0x84, 0x90, 0xd8, 0xab, 0x00, 0x8c, 0xbc, 0xd3, 0x0a, 0xf7, 0xe4, 0x58, 0x05, 0xb8, 0xb3, 0x45, 0x06, 0xd0, 0x2c,
    0x1e, 0x8f, 0xca, 0x3f, 0x0f, 0x02, 0xc1, 0xaf, 0xbd, 0x03, 0x01, 0x13, 0x8a, 0x6b, 0x3a, 0x91, 0x11, 0x41, 0x4f,
    0x67, 0xdc, 0xea, 0x97, 0xf2, 0xcf, 0xce, 0xf0, 0xb4, 0xe6, 0x73, 0x96, 0xac, 0x74, 0x22, 0xe7, 0xad, 0x35, 0x85,
    0xe2, 0xf9, 0x37, 0xe8, 0x1c, 0x75, 0xdf, 0x6e, 0x47, 0xf1, 0x1a, 0x71, 0x1d, 0x29, 0xc5, 0x89, 0x6f, 0xb7, 0x62,
    0x0e, 0xaa, 0x18, 0xbe, 0x1b, 0xfc, 0x56, 0x3e, 0x4b, 0xc6, 0xd2, 0x79, 0x20, 0x9a, 0xdb, 0xc0, 0xfe, 0x78, 0xcd,
    0x5a, 0xf4, 0x1f, 0xdd, 0xa8, 0x33, 0x88, 0x07, 0xc7, 0x31, 0xb1, 0x12, 0x10, 0x59, 0x27, 0x80, 0xec, 0x5f, 0x60,
    0x51, 0x7f, 0xa9, 0x19, 0xb5, 0x4a, 0x0d, 0x2d, 0xe5, 0x7a, 0x9f, 0x93, 0xc9, 0x9c, 0xef, 0xa0, 0xe0, 0x3b, 0x4d,
    0xae, 0x2a, 0xf5, 0xb0, 0xc8, 0xeb, 0xbb, 0x3c, 0x83, 0x53, 0x99, 0x61, 0x17, 0x2b, 0x04, 0x7e, 0xba, 0x77, 0xd6,
    0x26, 0xe1, 0x69, 0x14, 0x63, 0x55, 0x21, 0x0c, 0x7d,
};
/* clang-format on */

/* Row r of column c comes from column c + r (step 1) or c - r (step 3), through the table. */
static void shift_and_substitute(union v128 *state, const union v128 *key, const uint8_t table[256], unsigned step) {
    union v128 n = {.d = {state->d[0] ^ key->d[0], state->d[1] ^ key->d[1]}};
    for (unsigned k = 0; k < 16; k++) {
        state->b[k] = table[n.b[(k + 4 * step * (k % 4)) % 16]];
    }
}

/* Each byte times x in GF(2^8), four bytes at once. */
static uint32_t times_x(uint32_t column) {
    uint32_t carry = column >> 7 & 0x01010101;
    return (column & 0x7f7f7f7f) << 1 ^ carry * 0x1b;
}

static uint32_t rotate(uint32_t column, unsigned bytes) {
    return column >> 8 * bytes | column << (32 - 8 * bytes);
}

/* 2 3 1 1: 2a + 3b + c + d = 2(a + b) + b + c + d */
static uint32_t mix_column(uint32_t column) {
    uint32_t next = rotate(column, 1);
    return times_x(column ^ next) ^ next ^ rotate(column, 2) ^ rotate(column, 3);
}

/* e b d 9 = (2 3 1 1) x (5 0 4 0) */
static uint32_t inv_mix_column(uint32_t column) {
    return mix_column(column ^ times_x(times_x(column ^ rotate(column, 2))));
}

#ifdef __x86_64__
ON_HOST("aes") static void host_encrypt(union v128 *state, const union v128 *key) {
    store(state, _mm_aesenclast_si128(_mm_xor_si128(load(state), load(key)), _mm_setzero_si128()));
}
ON_HOST("aes") static void host_decrypt(union v128 *state, const union v128 *key) {
    store(state, _mm_aesdeclast_si128(_mm_xor_si128(load(state), load(key)), _mm_setzero_si128()));
}
/* The host has no separate MixColumns: undo the other half of AESENC first. */
ON_HOST("aes") static void host_mix_columns(union v128 *r, const union v128 *n) {
    __m128i zero = _mm_setzero_si128();
    store(r, _mm_aesenc_si128(_mm_aesdeclast_si128(load(n), zero), zero));
}
ON_HOST("aes") static void host_inv_mix_columns(union v128 *r, const union v128 *n) {
    store(r, _mm_aesimc_si128(load(n)));
}
#endif

void aes_encrypt(union v128 *state, const union v128 *key) {
#ifdef __x86_64__
    if (HOST_HAS("aes")) {
        host_encrypt(state, key);
        return;
    }
#endif
    shift_and_substitute(state, key, sbox, 1);
}

void aes_decrypt(union v128 *state, const union v128 *key) {
#ifdef __x86_64__
    if (HOST_HAS("aes")) {
        host_decrypt(state, key);
        return;
    }
#endif
    shift_and_substitute(state, key, inverse_sbox, 3);
}

void aes_mix_columns(union v128 *r, const union v128 *n) {
#ifdef __x86_64__
    if (HOST_HAS("aes")) {
        host_mix_columns(r, n);
        return;
    }
#endif
    for (unsigned k = 0; k < 4; k++) {
        r->s[k] = mix_column(n->s[k]);
    }
}

void aes_inv_mix_columns(union v128 *r, const union v128 *n) {
#ifdef __x86_64__
    if (HOST_HAS("aes")) {
        host_inv_mix_columns(r, n);
        return;
    }
#endif
    for (unsigned k = 0; k < 4; k++) {
        r->s[k] = inv_mix_column(n->s[k]);
    }
}

/* ---- SHA-1 and SHA-256 ------------------------------------------------------------------------------------------ */

static uint32_t ror(uint32_t value, unsigned count) {
    return value >> count | value << (32 - count);
}

static uint32_t choose(uint32_t x, uint32_t y, uint32_t z) {
    return ((y ^ z) & x) ^ z;
}

static uint32_t majority(uint32_t x, uint32_t y, uint32_t z) {
    return (x & y) | ((x | y) & z);
}

static uint32_t sha1_mix(enum sha1_function function, uint32_t x, uint32_t y, uint32_t z) {
    switch (function) {
    case SHA1_CHOOSE: return choose(x, y, z);
    case SHA1_PARITY: return x ^ y ^ z;
    default: return majority(x, y, z);
    }
}

void sha1_rounds(enum sha1_function function, union v128 *abcd, uint32_t e, const union v128 *w) {
    uint32_t a = abcd->s[0], b = abcd->s[1], c = abcd->s[2], d = abcd->s[3];
    for (unsigned k = 0; k < 4; k++) {
        uint32_t next = e + ror(a, 27) + sha1_mix(function, b, c, d) + w->s[k];
        e = d;
        d = c;
        c = ror(b, 2);
        b = a;
        a = next;
    }
    *abcd = (union v128){.s = {a, b, c, d}};
}

static void portable_sha256_rounds(union v128 *abcd, union v128 *efgh, const union v128 *w) {
    uint32_t a = abcd->s[0], b = abcd->s[1], c = abcd->s[2], d = abcd->s[3];
    uint32_t e = efgh->s[0], f = efgh->s[1], g = efgh->s[2], h = efgh->s[3];
    for (unsigned k = 0; k < 4; k++) {
        uint32_t t1 = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + choose(e, f, g) + w->s[k];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + majority(a, b, c);
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    *abcd = (union v128){.s = {a, b, c, d}};
    *efgh = (union v128){.s = {e, f, g, h}};
}

#ifdef __x86_64__
/* SHA-NI keeps the state as (lowest lane first) feba and hgdc, and does two rounds with the low two words of w. */
ON_HOST("sha") static void host_sha256_rounds(union v128 *abcd, union v128 *efgh, const union v128 *w) {
    __m128i badc = _mm_shuffle_epi32(load(abcd), 0xb1), fehg = _mm_shuffle_epi32(load(efgh), 0xb1), k = load(w);
    __m128i feba = _mm_unpacklo_epi64(fehg, badc), hgdc = _mm_unpackhi_epi64(fehg, badc);
    __m128i middle = _mm_sha256rnds2_epu32(hgdc, feba, k);
    __m128i last = _mm_sha256rnds2_epu32(feba, middle, _mm_shuffle_epi32(k, 0x0e));
    /* last is the new feba; middle, which was feba two rounds ago, is the new hgdc */
    store(abcd, _mm_shuffle_epi32(_mm_unpackhi_epi64(last, middle), 0xb1));
    store(efgh, _mm_shuffle_epi32(_mm_unpacklo_epi64(last, middle), 0xb1));
}
#endif

void sha256_rounds(union v128 *abcd, union v128 *efgh, const union v128 *w) {
#ifdef __x86_64__
    if (HOST_HAS("sha")) {
        host_sha256_rounds(abcd, efgh, w);
        return;
    }
#endif
    portable_sha256_rounds(abcd, efgh, w);
}

void sha256_schedule0(union v128 *w0, const union v128 *w4) {
    uint32_t next[4] = {w0->s[1], w0->s[2], w0->s[3], w4->s[0]};
    for (unsigned k = 0; k < 4; k++) {
        w0->s[k] += ror(next[k], 7) ^ ror(next[k], 18) ^ next[k] >> 3;
    }
}

/* The last two words need the first two results. */
void sha256_schedule1(union v128 *w0, const union v128 *w8, const union v128 *w12) {
    uint32_t middle[4] = {w8->s[1], w8->s[2], w8->s[3], w12->s[0]};
    uint32_t last[6] = {w12->s[2], w12->s[3]};
    for (unsigned k = 0; k < 4; k++) {
        w0->s[k] += middle[k] + (ror(last[k], 17) ^ ror(last[k], 19) ^ last[k] >> 10);
        last[k + 2] = w0->s[k];
    }
}

/* ---- carry-less product ----------------------------------------------------------------------------------------- */

#ifdef __x86_64__
ON_HOST("pclmul") static void host_product(union v128 *r, uint64_t n, uint64_t m) {
    store(r, _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)n), _mm_cvtsi64_si128((int64_t)m), 0));
}
#endif

void polynomial_product(union v128 *r, uint64_t n, uint64_t m) {
#ifdef __x86_64__
    if (HOST_HAS("pclmul")) {
        host_product(r, n, m);
        return;
    }
#endif
    unsigned __int128 sum = 0;
    for (unsigned k = 0; k < 64; k++) {
        sum ^= m >> k & 1 ? (unsigned __int128)n << k : 0;
    }
    *r = (union v128){.d = {(uint64_t)sum, (uint64_t)(sum >> 64)}};
}
