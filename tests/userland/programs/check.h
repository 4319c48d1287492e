/*
 * What every program here uses: a generator of repeatable numbers, and a checksum, so that a lot of work prints one line.
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* xorshift64*: never 0 if the seed is not. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* FNV-1a over 64-bit words, started from SUM_START. */
#define SUM_START 0xcbf29ce484222325ull
static inline uint64_t add_word(uint64_t sum, uint64_t word) {
    return (sum ^ word) * 0x100000001b3ull;
}

static inline uint64_t add_bytes(uint64_t sum, const void *data, size_t size) {
    const uint8_t *bytes = data;
    for (size_t k = 0; k < size; k++) {
        sum = add_word(sum, bytes[k]);
    }
    return sum;
}

static inline uint64_t add_double(uint64_t sum, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return add_word(sum, value != value ? 0x7ff8000000000000ull : bits);
}

static inline uint64_t add_float(uint64_t sum, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return add_word(sum, value != value ? 0x7fc00000u : bits);
}

static inline void show_sum(const char *name, uint64_t sum) {
    printf("%-24s %016" PRIx64 "\n", name, sum);
}

/* Hides a value from the optimiser. */
#define OPAQUE(x)                                                                                                     \
    __extension__({                                                                                                   \
        __typeof__(x) opaque_ = (x);                                                                                  \
        __asm__ volatile("" : "+r"(opaque_));                                                                         \
        opaque_;                                                                                                      \
    })

#endif
