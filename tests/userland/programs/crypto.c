/* SHA-1, SHA-256, SHA-512, AES, GHASH's product and CRC-32: the instructions against plain C. */
#include <arm_neon.h>
#include <stdbool.h>

#include "check.h"

#define TARGET(features) __attribute__((target(features)))

static uint32_t rotate_left(uint32_t value, unsigned by) {
    return value << by | value >> (32 - by);
}

static void show_bytes(const char *name, const void *data, size_t size) {
    printf("%-8s ", name);
    for (size_t k = 0; k < size; k++) {
        printf("%02x", ((const uint8_t *)data)[k]);
    }
    putchar('\n');
}

static void load_words(uint32_t *words, const uint8_t *block) {
    for (unsigned k = 0; k < 16; k++) {
        memcpy(&words[k], block + 4 * k, 4);
        words[k] = __builtin_bswap32(words[k]);
    }
}

/* ---- SHA-1 ---- */

static void sha1_plain(uint32_t state[5], const uint8_t *block) {
    uint32_t w[80], v[5];
    load_words(w, block);
    for (unsigned k = 16; k < 80; k++) {
        w[k] = rotate_left(w[k - 3] ^ w[k - 8] ^ w[k - 14] ^ w[k - 16], 1);
    }
    memcpy(v, state, sizeof v);
    for (unsigned k = 0; k < 80; k++) {
        uint32_t b = v[1], c = v[2], d = v[3];
        uint32_t f = k < 20 ? (b & c) | (~b & d) : k < 40 || k >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
        uint32_t t = rotate_left(v[0], 5) + f + v[4] + w[k] + constants[k / 20];
        v[4] = v[3], v[3] = v[2], v[2] = rotate_left(v[1], 30), v[1] = v[0], v[0] = t;
    }
    for (unsigned k = 0; k < 5; k++) {
        state[k] += v[k];
    }
}

TARGET("sha2") static void sha1_instructions(uint32_t state[5], const uint8_t *block) {
    static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32x4_t w[20], abcd = vld1q_u32(state);
    uint32_t e = state[4];
    for (unsigned k = 0; k < 4; k++) {
        w[k] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * k)));
    }
    for (unsigned k = 4; k < 20; k++) {
        w[k] = vsha1su1q_u32(vsha1su0q_u32(w[k - 4], w[k - 3], w[k - 2]), w[k - 1]);
    }
    for (unsigned k = 0; k < 20; k++) {
        uint32x4_t input = vaddq_u32(w[k], vdupq_n_u32(constants[k / 5]));
        uint32_t next = vsha1h_u32(vgetq_lane_u32(abcd, 0));
        abcd = k < 5 ? vsha1cq_u32(abcd, e, input) : k / 5 == 2 ? vsha1mq_u32(abcd, e, input) : vsha1pq_u32(abcd, e, input);
        e = next;
    }
    vst1q_u32(state, vaddq_u32(abcd, vld1q_u32(state)));
    state[4] += e;
}

/* ---- SHA-256 and SHA-512: constants are the fractional parts of cube roots of primes ---- */

static uint64_t cube_root_fraction(unsigned prime) {
    __extension__ typedef unsigned __int128 Wide;
    uint64_t low = 0; /* the largest 64-bit fraction f with (root + f)^3 <= prime */
    unsigned root = 1;
    while ((root + 1) * (root + 1) * (root + 1) <= prime) {
        root++;
    }
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t f = low | 1ull << bit;
        Wide square = (Wide)f * f;                                 /* f^2, 128 fraction bits */
        Wide mixed = (Wide)root * root * 3 * f;                    /* 3 r^2 f, 64 fraction bits */
        Wide cube = ((square >> 64) * f >> 64) + 3 * root * (square >> 64); /* f^3 + 3 r f^2 */
        Wide whole = mixed + cube + ((Wide)(root * root * root) << 64);
        low = whole < (Wide)prime << 64 ? f : low;
    }
    return low;
}

static uint64_t round_constants[80];

static void make_constants(void) {
    unsigned count = 0;
    for (unsigned n = 2; count < 80; n++) {
        bool prime = true;
        for (unsigned d = 2; d * d <= n; d++) {
            prime &= n % d != 0;
        }
        if (prime) {
            round_constants[count++] = cube_root_fraction(n);
        }
    }
}

static void sha256_plain(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], v[8];
    load_words(w, block);
    for (unsigned k = 16; k < 64; k++) {
        uint32_t a = w[k - 15], b = w[k - 2];
        w[k] = w[k - 16] + w[k - 7] + (rotate_left(a, 25) ^ rotate_left(a, 14) ^ a >> 3) +
               (rotate_left(b, 15) ^ rotate_left(b, 13) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (unsigned k = 0; k < 64; k++) {
        uint32_t s1 = rotate_left(v[4], 26) ^ rotate_left(v[4], 21) ^ rotate_left(v[4], 7);
        uint32_t s0 = rotate_left(v[0], 30) ^ rotate_left(v[0], 19) ^ rotate_left(v[0], 10);
        uint32_t t = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + (uint32_t)(round_constants[k] >> 32) + w[k];
        uint32_t u = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 28);
        v[4] += t, v[0] = t + u;
    }
    for (unsigned k = 0; k < 8; k++) {
        state[k] += v[k];
    }
}

TARGET("sha2") static void sha256_instructions(uint32_t state[8], const uint8_t *block) {
    uint32x4_t w[16], abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4), first = abcd, second = efgh;
    for (unsigned k = 0; k < 16; k++) {
        w[k] = k < 4 ? vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * k)))
                     : vsha256su1q_u32(vsha256su0q_u32(w[k - 4], w[k - 3]), w[k - 2], w[k - 1]);
        const uint64_t *c = &round_constants[4 * k];
        uint32x4_t constants = {(uint32_t)(c[0] >> 32), (uint32_t)(c[1] >> 32), (uint32_t)(c[2] >> 32), (uint32_t)(c[3] >> 32)};
        uint32x4_t input = vaddq_u32(w[k], constants), held = abcd;
        abcd = vsha256hq_u32(abcd, efgh, input);
        efgh = vsha256h2q_u32(efgh, held, input);
    }
    vst1q_u32(state, vaddq_u32(abcd, first));
    vst1q_u32(state + 4, vaddq_u32(efgh, second));
}

static uint64_t rotate_right(uint64_t value, unsigned by) {
    return value >> by | value << (64 - by);
}

static void sha512_schedule(uint64_t w[80], const uint8_t *block) {
    for (unsigned k = 0; k < 80; k++) {
        if (k < 16) {
            memcpy(&w[k], block + 8 * k, 8);
            w[k] = __builtin_bswap64(w[k]);
            continue;
        }
        uint64_t a = w[k - 15], b = w[k - 2];
        w[k] = w[k - 16] + w[k - 7] + (rotate_right(a, 1) ^ rotate_right(a, 8) ^ a >> 7) +
               (rotate_right(b, 19) ^ rotate_right(b, 61) ^ b >> 6);
    }
}

static void sha512_plain(uint64_t state[8], const uint8_t *block) {
    uint64_t w[80], v[8];
    sha512_schedule(w, block);
    memcpy(v, state, sizeof v);
    for (unsigned k = 0; k < 80; k++) {
        uint64_t s1 = rotate_right(v[4], 14) ^ rotate_right(v[4], 18) ^ rotate_right(v[4], 41);
        uint64_t s0 = rotate_right(v[0], 28) ^ rotate_right(v[0], 34) ^ rotate_right(v[0], 39);
        uint64_t t = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constants[k] + w[k];
        uint64_t u = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 56);
        v[4] += t, v[0] = t + u;
    }
    for (unsigned k = 0; k < 8; k++) {
        state[k] += v[k];
    }
}

TARGET("sha3") static void sha512_instructions(uint64_t state[8], const uint8_t *block) {
    uint64x2_t w[40], v[4], saved[4];
    for (unsigned k = 0; k < 4; k++) {
        v[k] = saved[k] = vld1q_u64(state + 2 * k);
    }
    for (unsigned k = 0; k < 40; k++) {
        w[k] = k < 8 ? vreinterpretq_u64_u8(vrev64q_u8(vld1q_u8(block + 16 * k)))
                     : vsha512su1q_u64(vsha512su0q_u64(w[k - 8], w[k - 7]), w[k - 1], vextq_u64(w[k - 4], w[k - 3], 1));
        uint64x2_t input = vaddq_u64(w[k], vld1q_u64(&round_constants[2 * k]));
        input = vaddq_u64(vextq_u64(input, input, 1), v[3]);
        uint64x2_t de = vextq_u64(v[1], v[2], 1), fg = vextq_u64(v[2], v[3], 1);
        uint64x2_t t = vsha512hq_u64(input, fg, de);
        uint64x2_t e = vaddq_u64(v[1], t);
        t = vsha512h2q_u64(t, v[1], v[0]);
        v[3] = v[2], v[2] = e, v[1] = v[0], v[0] = t;
    }
    for (unsigned k = 0; k < 4; k++) {
        vst1q_u64(state + 2 * k, vaddq_u64(v[k], saved[k]));
    }
}

/* ---- AES-128 ---- */

static uint8_t sbox[256];

static uint8_t double_byte(uint8_t value) {
    return (uint8_t)(value << 1 ^ (value >> 7) * 0x1b);
}

static void make_sbox(void) {
    uint8_t p = 1, q = 1; /* p runs through the field by 3, q through the inverses */
    do {
        p = (uint8_t)(p ^ double_byte(p));
        q ^= (uint8_t)(q << 1), q ^= (uint8_t)(q << 2), q ^= (uint8_t)(q << 4);
        q ^= q & 0x80 ? 0x09 : 0;
        uint8_t x = q;
        for (unsigned k = 1; k < 5; k++) {
            x ^= (uint8_t)(q << k | q >> (8 - k));
        }
        sbox[p] = x ^ 0x63;
    } while (p != 1);
    sbox[0] = 0x63;
}

static void expand_key(uint8_t keys[176], const uint8_t key[16]) {
    uint8_t constant = 1;
    memcpy(keys, key, 16);
    for (unsigned k = 16; k < 176; k += 4) {
        uint8_t t[4];
        memcpy(t, keys + k - 4, 4);
        if (k % 16 == 0) {
            uint8_t first = t[0];
            t[0] = sbox[t[1]] ^ constant, t[1] = sbox[t[2]], t[2] = sbox[t[3]], t[3] = sbox[first];
            constant = double_byte(constant);
        }
        for (unsigned j = 0; j < 4; j++) {
            keys[k + j] = keys[k + j - 16] ^ t[j];
        }
    }
}

static void encrypt_plain(uint8_t block[16], const uint8_t keys[176]) {
    for (unsigned round = 0;; round++) {
        uint8_t s[16];
        for (unsigned k = 0; k < 16; k++) {
            block[k] ^= keys[16 * round + k];
        }
        if (round == 10) {
            return;
        }
        for (unsigned k = 0; k < 16; k++) {
            s[k] = sbox[block[(k + 4 * (k % 4)) % 16]];
        }
        for (unsigned k = 0; k < 16; k++) {
            const uint8_t *c = s + (k & 12);
            unsigned r = k % 4;
            block[k] = round == 9 ? s[k]
                                  : (uint8_t)(double_byte(c[r] ^ c[(r + 1) % 4]) ^ c[(r + 1) % 4] ^ c[(r + 2) % 4] ^ c[(r + 3) % 4]);
        }
    }
}

TARGET("aes") static void encrypt_instructions(uint8_t block[16], const uint8_t keys[176]) {
    uint8x16_t b = vld1q_u8(block);
    for (unsigned round = 0; round < 9; round++) {
        b = vaesmcq_u8(vaeseq_u8(b, vld1q_u8(keys + 16 * round)));
    }
    b = vaeseq_u8(b, vld1q_u8(keys + 144));
    vst1q_u8(block, veorq_u8(b, vld1q_u8(keys + 160)));
}

TARGET("aes") static void decrypt_instructions(uint8_t block[16], const uint8_t keys[176]) {
    uint8x16_t b = vld1q_u8(block);
    b = vaesdq_u8(b, vld1q_u8(keys + 160));
    for (unsigned round = 9; round > 0; round--) {
        b = vaesdq_u8(vaesimcq_u8(b), vaesimcq_u8(vld1q_u8(keys + 16 * round)));
    }
    vst1q_u8(block, veorq_u8(b, vld1q_u8(keys)));
}

/* ---- carry-less product, CRC ---- */

static void product_plain(uint64_t out[2], uint64_t a, uint64_t b) {
    out[0] = out[1] = 0;
    for (unsigned k = 0; k < 64; k++) {
        if (b >> k & 1) {
            out[0] ^= a << k;
            out[1] ^= k ? a >> (64 - k) : 0;
        }
    }
}

TARGET("aes") static void product_instruction(uint64_t out[2], uint64_t a, uint64_t b) {
    uint64x2_t low = vreinterpretq_u64_p128(vmull_p64(a, b));
    poly64x2_t x = {0, a}, y = {0, b};
    uint64x2_t high = vreinterpretq_u64_p128(vmull_high_p64(x, y));
    vst1q_u64(out, low);
    out[0] ^= vgetq_lane_u64(veorq_u64(low, high), 0); /* 0: both halves multiply alike */
}

static uint32_t crc_plain(uint32_t crc, uint8_t byte, uint32_t polynomial) {
    crc ^= byte;
    for (unsigned k = 0; k < 8; k++) {
        crc = crc >> 1 ^ (crc & 1) * polynomial;
    }
    return crc;
}

TARGET("crc") static uint32_t crc_instructions(uint32_t crc, const uint8_t *data, bool castagnoli) {
    uint64_t x;
    uint32_t w;
    uint16_t h;
    memcpy(&x, data, 8), memcpy(&w, data + 8, 4), memcpy(&h, data + 12, 2);
    if (castagnoli) {
        crc = __builtin_arm_crc32cw(__builtin_arm_crc32cd(crc, x), w);
        return __builtin_arm_crc32cb(__builtin_arm_crc32ch(crc, h), data[14]);
    }
    crc = __builtin_arm_crc32w(__builtin_arm_crc32d(crc, x), w);
    return __builtin_arm_crc32b(__builtin_arm_crc32h(crc, h), data[14]);
}

/* ---- all of it ---- */

static uint8_t data[128 * 64];

static void hashes(void) {
    uint32_t a[2][5], b[2][8];
    uint64_t c[2][8];
    for (unsigned way = 0; way < 2; way++) {
        for (unsigned k = 0; k < 8; k++) {
            c[way][k] = round_constants[k] * 3, b[way][k] = (uint32_t)c[way][k];
        }
        memcpy(a[way], b[way], sizeof a[way]);
        for (unsigned k = 0; k < sizeof data; k += 128) {
            (way ? sha1_instructions : sha1_plain)(a[way], data + k);
            (way ? sha256_instructions : sha256_plain)(b[way], data + k);
            (way ? sha512_instructions : sha512_plain)(c[way], data + k);
        }
    }
    show_bytes("sha1", a[1], sizeof a[1]);
    show_bytes("sha256", b[1], sizeof b[1]);
    show_bytes("sha512", c[1], sizeof c[1]);
    printf("as in plain C: %d %d %d\n", !memcmp(a[0], a[1], sizeof a[0]), !memcmp(b[0], b[1], sizeof b[0]),
           !memcmp(c[0], c[1], sizeof c[0]));
}

static void known_answer(void) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t state[8];
    uint8_t block[64] = {'a', 'b', 'c', 0x80, [63] = 24};
    memcpy(state, start, sizeof state);
    sha256_instructions(state, block);
    printf("sha256(abc) %08x...%08x\n", state[0], state[7]);
}

static void ciphers(void) {
    uint8_t keys[176], a[16], b[16], key[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    unsigned wrong = 0;
    uint64_t sum = SUM_START;
    expand_key(keys, key);
    for (unsigned k = 0; k < sizeof data; k += 16) {
        memcpy(a, data + k, 16);
        memcpy(b, data + k, 16);
        encrypt_plain(a, keys);
        encrypt_instructions(b, keys);
        wrong += memcmp(a, b, 16) != 0;
        sum = add_bytes(sum, b, 16);
        decrypt_instructions(b, keys);
        wrong += memcmp(b, data + k, 16) != 0;
    }
    for (unsigned k = 0; k < 16; k++) {
        a[k] = (uint8_t)(k * 0x11);
    }
    encrypt_instructions(a, keys);
    show_bytes("fips197", a, 16);
    printf("aes wrong %u ", wrong);
    show_sum("", sum);
}

static void products(void) {
    uint64_t seed = 61, sum = SUM_START, a[2], b[2];
    unsigned wrong = 0;
    uint32_t crc[2] = {~0u, ~0u}, castagnoli[2] = {~0u, ~0u};
    for (unsigned k = 0; k + 15 < sizeof data; k += 15) {
        uint64_t x = next_random(&seed), y = next_random(&seed);
        product_plain(a, x, y);
        product_instruction(b, x, y);
        wrong += memcmp(a, b, 16) != 0;
        sum = add_bytes(sum, b, 16);
        for (unsigned j = 0; j < 15; j++) {
            crc[0] = crc_plain(crc[0], data[k + j], 0xedb88320);
            castagnoli[0] = crc_plain(castagnoli[0], data[k + j], 0x82f63b78);
        }
        crc[1] = crc_instructions(crc[1], data + k, false);
        castagnoli[1] = crc_instructions(castagnoli[1], data + k, true);
    }
    show_sum("products", sum);
    printf("wrong %u crc %08x %08x crc32c %08x %08x\n", wrong, crc[0], crc[1], castagnoli[0], castagnoli[1]);
}

int main(void) {
    uint64_t seed = 60;
    for (unsigned k = 0; k < sizeof data; k++) {
        data[k] = (uint8_t)(next_random(&seed) >> 40);
    }
    make_constants();
    make_sbox();
    hashes();
    known_answer();
    ciphers();
    products();
    return 0;
}
