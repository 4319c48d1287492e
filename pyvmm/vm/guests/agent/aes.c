/*
 * AES-256: key wrap and GCM, for decryption.
 *
 * A table of the S-box would show to the host, by its cache, which entries are used. So the S-box is computed: eight
 * bytes at a time, as eight elements of GF(2^8) in a word. Spec: FIPS 197; RFC 3394; SP 800-38D.
 */
#include "crypto.h"

enum { NUM_ROUNDS = 14, BLOCK_SIZE = 16 };

struct schedule {
    uint32_t words[4 * (NUM_ROUNDS + 1)]; /* a word is a column, its first byte the lowest */
};

/* ---- GF(2^8), eight times ---- */

#define EACH 0x0101010101010101ull

static uint64_t twice(uint64_t a) {
    uint64_t high = a >> 7 & EACH;
    return (a & 0x7f * EACH) << 1 ^ high * 0x1b;
}

static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product = 0;
    for (unsigned bit = 0; bit < 8; bit++, a = twice(a))
        product ^= a & (b >> bit & EACH) * 0xff;
    return product;
}

/* The power 254 = 2 + 4 + ... + 128, which is the inverse. */
static uint64_t invert(uint64_t a) {
    uint64_t square = times(a, a), power = square;
    for (unsigned n = 2; n < 8; n++) {
        square = times(square, square);
        power = times(power, square);
    }
    return power;
}

static uint64_t rotate_each(uint64_t a, unsigned n) {
    uint64_t low = (0xffu >> n) * EACH; /* the bits that stay in their byte */
    return (a & low) << n | (a & ~low) >> (8 - n);
}

static uint64_t substitute(uint64_t a) {
    a = invert(a);
    return a ^ rotate_each(a, 1) ^ rotate_each(a, 2) ^ rotate_each(a, 3) ^ rotate_each(a, 4) ^ 0x63 * EACH;
}

static uint64_t substitute_back(uint64_t a) {
    return invert(rotate_each(a, 1) ^ rotate_each(a, 3) ^ rotate_each(a, 6) ^ 0x05 * EACH);
}

/* ---- the cipher ---- */

static uint32_t rotate_right(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

static void load(uint32_t *columns, const uint8_t *block) {
    for (unsigned n = 0; n < 4; n++)
        columns[n] = (uint32_t)block[4 * n] | (uint32_t)block[4 * n + 1] << 8 | (uint32_t)block[4 * n + 2] << 16 |
                     (uint32_t)block[4 * n + 3] << 24;
}

static void store(uint8_t *block, const uint32_t *columns) {
    for (unsigned n = 0; n < BLOCK_SIZE; n++)
        block[n] = (uint8_t)(columns[n / 4] >> 8 * (n % 4));
}

static void expand(struct schedule *schedule, const uint8_t *key) {
    uint32_t *words = schedule->words, constant = 1;
    load(words, key);
    load(words + 4, key + BLOCK_SIZE);
    for (unsigned n = 8; n < 4 * (NUM_ROUNDS + 1); n++) {
        uint32_t word = words[n - 1];
        if (n % 8 == 0) {
            word = (uint32_t)substitute(rotate_right(word, 8)) ^ constant;
            constant <<= 1;
        } else if (n % 8 == 4) {
            word = (uint32_t)substitute(word);
        }
        words[n] = words[n - 8] ^ word;
    }
}

static void add_key(uint32_t *columns, const struct schedule *schedule, unsigned round) {
    for (unsigned n = 0; n < 4; n++)
        columns[n] ^= schedule->words[4 * round + n];
}

static void substitute_all(uint32_t *columns, uint64_t (*box)(uint64_t)) {
    for (unsigned n = 0; n < 4; n += 2) {
        uint64_t bytes = box(columns[n] | (uint64_t)columns[n + 1] << 32);
        columns[n] = (uint32_t)bytes;
        columns[n + 1] = (uint32_t)(bytes >> 32);
    }
}

/* Rotates each row by `step` times its number; 3 undoes 1. */
static void shift_rows(uint32_t *columns, unsigned step) {
    uint32_t old[4];
    __builtin_memcpy(old, columns, sizeof old);
    for (unsigned n = 0; n < 4; n++) {
        columns[n] = 0;
        for (unsigned row = 0; row < 4; row++)
            columns[n] |= old[(n + step * row) % 4] & 0xffu << 8 * row;
    }
}

static uint32_t mix(uint32_t column) {
    uint32_t doubled = (uint32_t)twice(column);
    return doubled ^ rotate_right(doubled ^ column, 8) ^ rotate_right(column, 16) ^ rotate_right(column, 24);
}

static uint32_t mix_back(uint32_t column) {
    uint32_t fourfold = (uint32_t)twice(twice(column ^ rotate_right(column, 16)));
    return mix(column ^ fourfold);
}

static void encrypt(const struct schedule *schedule, const uint8_t *in, uint8_t *out) {
    uint32_t columns[4];
    load(columns, in);
    add_key(columns, schedule, 0);
    for (unsigned round = 1; round <= NUM_ROUNDS; round++) {
        substitute_all(columns, substitute);
        shift_rows(columns, 1);
        for (unsigned n = 0; n < 4 && round < NUM_ROUNDS; n++)
            columns[n] = mix(columns[n]);
        add_key(columns, schedule, round);
    }
    store(out, columns);
}

static void decrypt(const struct schedule *schedule, const uint8_t *in, uint8_t *out) {
    uint32_t columns[4];
    load(columns, in);
    for (unsigned round = NUM_ROUNDS; round > 0; round--) {
        add_key(columns, schedule, round);
        for (unsigned n = 0; n < 4 && round < NUM_ROUNDS; n++)
            columns[n] = mix_back(columns[n]);
        shift_rows(columns, 3);
        substitute_all(columns, substitute_back);
    }
    add_key(columns, schedule, 0);
    store(out, columns);
}

static bool is_equal(const uint8_t *a, const uint8_t *b, size_t size) {
    uint8_t difference = 0;
    for (size_t n = 0; n < size; n++)
        difference |= a[n] ^ b[n];
    return difference == 0;
}

/* ---- key wrap ---- */

bool aes_unwrap(const uint8_t *key, const uint8_t *wrapped, uint8_t *out) {
    enum { HALF = 8, COUNT = AES_KEY_SIZE / HALF };
    static const uint8_t expected[HALF] = {0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6};
    struct schedule schedule;
    uint8_t block[BLOCK_SIZE];
    expand(&schedule, key);
    __builtin_memcpy(block, wrapped, HALF);
    __builtin_memcpy(out, wrapped + HALF, AES_KEY_SIZE);
    for (unsigned step = 6 * COUNT; step > 0; step--) {
        uint8_t *part = out + (step - 1) % COUNT * HALF;
        block[HALF - 1] ^= (uint8_t)step;
        __builtin_memcpy(block + HALF, part, HALF);
        decrypt(&schedule, block, block);
        __builtin_memcpy(part, block + HALF, HALF);
    }
    return is_equal(block, expected, HALF);
}

/* ---- GCM ---- */

struct element { /* of GF(2^128), its first bit the highest */
    uint64_t high, low;
};

static uint64_t load_64(const uint8_t *data) {
    uint64_t value = 0;
    for (unsigned n = 0; n < 8; n++)
        value = value << 8 | data[n];
    return value;
}

static struct element product(struct element a, struct element b) {
    struct element sum = {0, 0};
    for (unsigned bit = 0; bit < 128; bit++) {
        uint64_t chosen = -((bit < 64 ? a.high : a.low) >> (63 - bit % 64) & 1), carry = -(b.low & 1);
        sum.high ^= b.high & chosen;
        sum.low ^= b.low & chosen;
        b.low = b.low >> 1 | b.high << 63;
        b.high = b.high >> 1 ^ (carry & 0xe1ull << 56);
    }
    return sum;
}

/* Adds data to the hash, filled up with zeros to whole blocks. */
static struct element hash(struct element sum, struct element key, const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size; at += BLOCK_SIZE) {
        uint8_t block[BLOCK_SIZE] = {0};
        __builtin_memcpy(block, data + at, size - at < BLOCK_SIZE ? size - at : BLOCK_SIZE);
        sum.high ^= load_64(block);
        sum.low ^= load_64(block + 8);
        sum = product(sum, key);
    }
    return sum;
}

/* Encrypts the counter block of a number. */
static void encrypt_counter(const struct schedule *schedule, const uint8_t *iv, uint32_t number, uint8_t *out) {
    uint8_t counter[BLOCK_SIZE];
    __builtin_memcpy(counter, iv, GCM_IV_SIZE);
    for (unsigned n = 0; n < 4; n++)
        counter[GCM_IV_SIZE + n] = (uint8_t)(number >> 8 * (3 - n));
    encrypt(schedule, counter, out);
}

bool aes_gcm_open(const uint8_t *key, const uint8_t *iv, const uint8_t *aad, size_t aad_size, uint8_t *data,
                  size_t size, const uint8_t *tag) {
    struct schedule schedule;
    uint8_t block[BLOCK_SIZE] = {0};
    expand(&schedule, key);
    encrypt(&schedule, block, block);
    struct element hash_key = {load_64(block), load_64(block + 8)};
    struct element sum = hash((struct element){0, 0}, hash_key, aad, aad_size);
    sum = hash(sum, hash_key, data, size);
    sum.high ^= 8 * (uint64_t)aad_size;
    sum.low ^= 8 * (uint64_t)size;
    sum = product(sum, hash_key);
    encrypt_counter(&schedule, iv, 1, block);
    for (unsigned n = 0; n < GCM_TAG_SIZE; n++)
        block[n] ^= (uint8_t)((n < 8 ? sum.high : sum.low) >> 8 * (7 - n % 8));
    bool is_theirs = is_equal(block, tag, GCM_TAG_SIZE);
    for (size_t at = 0; at < size; at++) {
        if (at % BLOCK_SIZE == 0)
            encrypt_counter(&schedule, iv, 2 + (uint32_t)(at / BLOCK_SIZE), block);
        data[at] = is_theirs ? data[at] ^ block[at % BLOCK_SIZE] : 0;
    }
    return is_theirs;
}
