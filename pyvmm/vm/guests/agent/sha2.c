/*
 * SHA-256 and SHA-384 of a text in memory.
 *
 * Both are the same algorithm on words of 32 and of 64 bits. Spec: FIPS 180-4.
 */
#include "crypto.h"

struct sha2 {
    unsigned word_size, num_rounds, digest_size; /* sizes in bytes */
    uint8_t big0[3], big1[3];                    /* rotations */
    uint8_t small0[3], small1[3];                /* two rotations and a shift */
    uint64_t start[8];
};

/* The cube roots' fractions of the first 80 primes; SHA-256 uses the upper halves of the first 64. */
static const uint64_t round_constants[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
    0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
    0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
    0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
    0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
    0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
    0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
    0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
    0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
    0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
    0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
    0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

static const struct sha2 sha256_numbers = {
    .word_size = 4,
    .num_rounds = 64,
    .digest_size = SHA256_SIZE,
    .big0 = {2, 13, 22},
    .big1 = {6, 11, 25},
    .small0 = {7, 18, 3},
    .small1 = {17, 19, 10},
    .start = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
};

static const struct sha2 sha384_numbers = {
    .word_size = 8,
    .num_rounds = 80,
    .digest_size = SHA384_SIZE,
    .big0 = {28, 34, 39},
    .big1 = {14, 18, 41},
    .small0 = {1, 8, 7},
    .small1 = {19, 61, 6},
    .start = {0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939, 0x67332667ffc00b31,
              0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4},
};

static uint64_t truncate(const struct sha2 *sha, uint64_t x) { return sha->word_size == 8 ? x : (uint32_t)x; }

static uint64_t rotate(const struct sha2 *sha, uint64_t x, unsigned n) {
    return truncate(sha, x >> n | x << (8 * sha->word_size - n));
}

static uint64_t big(const struct sha2 *sha, uint64_t x, const uint8_t *n) {
    return rotate(sha, x, n[0]) ^ rotate(sha, x, n[1]) ^ rotate(sha, x, n[2]);
}

static uint64_t small(const struct sha2 *sha, uint64_t x, const uint8_t *n) {
    return rotate(sha, x, n[0]) ^ rotate(sha, x, n[1]) ^ x >> n[2];
}

static void compress(const struct sha2 *sha, uint64_t *state, const uint64_t *block) {
    uint64_t w[80], s[8];
    __builtin_memcpy(s, state, sizeof s);
    for (unsigned t = 0; t < sha->num_rounds; t++) {
        w[t] = t < 16 ? block[t]
                      : truncate(sha, small(sha, w[t - 2], sha->small1) + w[t - 7] +
                                          small(sha, w[t - 15], sha->small0) + w[t - 16]);
        uint64_t constant = round_constants[t] >> (64 - 8 * sha->word_size);
        uint64_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]), majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        uint64_t t1 = s[7] + big(sha, s[4], sha->big1) + choice + constant + w[t];
        uint64_t t2 = big(sha, s[0], sha->big0) + majority;
        for (unsigned n = 7; n > 0; n--)
            s[n] = s[n - 1];
        s[4] = truncate(sha, s[4] + t1);
        s[0] = truncate(sha, t1 + t2);
    }
    for (unsigned n = 0; n < 8; n++)
        state[n] = truncate(sha, state[n] + s[n]);
}

/* returns a byte of the padded text of `total` bytes: the text, a one bit, zeros, the number of bits. */
static uint8_t padded(const uint8_t *data, size_t size, size_t total, size_t at) {
    if (at < size)
        return data[at];
    if (at == size)
        return 0x80;
    return total - at <= 8 ? (uint8_t)((uint64_t)size * 8 >> 8 * (total - at - 1)) : 0;
}

static void digest(const struct sha2 *sha, const uint8_t *data, size_t size, uint8_t *out) {
    unsigned word = sha->word_size;
    size_t block_size = 16 * word, total = (size + 1 + 2 * word + block_size - 1) / block_size * block_size;
    uint64_t state[8], block[16];
    __builtin_memcpy(state, sha->start, sizeof state);
    for (size_t start = 0; start < total; start += block_size) {
        for (unsigned n = 0; n < 16; n++) {
            block[n] = 0;
            for (unsigned m = 0; m < word; m++)
                block[n] = block[n] << 8 | padded(data, size, total, start + n * word + m);
        }
        compress(sha, state, block);
    }
    for (unsigned n = 0; n < sha->digest_size; n++)
        out[n] = (uint8_t)(state[n / word] >> 8 * (word - 1 - n % word));
}

void sha256(const uint8_t *data, size_t size, uint8_t *out) { digest(&sha256_numbers, data, size, out); }
void sha384(const uint8_t *data, size_t size, uint8_t *out) { digest(&sha384_numbers, data, size, out); }
