/* Integer arithmetic at its edges: division, shifts, bit fields, wide products, conditions. */
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

static const uint64_t EDGES[] = {
    0, 1, 2, 3, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
    0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffffffe, 0xffffffffffffffff, 0x5555555555555555, 0x123456789abcdef0,
};
enum { NUM_EDGES = sizeof EDGES / sizeof EDGES[0] };

/* The instructions themselves: in C a division by zero is nothing. */
#define TWO_OPERANDS(name, instruction, w)                                                                            \
    static uint64_t name(uint64_t a, uint64_t b) {                                                                    \
        uint64_t r;                                                                                                   \
        __asm__(instruction " %" w "0, %" w "1, %" w "2" : "=r"(r) : "r"(a), "r"(b));                                 \
        return r;                                                                                                     \
    }
TWO_OPERANDS(sdiv64, "sdiv", "x")
TWO_OPERANDS(sdiv32, "sdiv", "w")
TWO_OPERANDS(udiv64, "udiv", "x")
TWO_OPERANDS(udiv32, "udiv", "w")
TWO_OPERANDS(lsl64, "lsl", "x")
TWO_OPERANDS(asr32, "asr", "w")
TWO_OPERANDS(ror64, "ror", "x")
TWO_OPERANDS(ror32, "ror", "w")
TWO_OPERANDS(smulh, "smulh", "x")
TWO_OPERANDS(umulh, "umulh", "x")
TWO_OPERANDS(bic, "bic", "x")
TWO_OPERANDS(eon, "eon", "w")

static uint64_t c_operators(uint64_t a, uint64_t b) {
    uint64_t sum = SUM_START;
    int64_t sa = (int64_t)a, sb = (int64_t)b;
    bool divides = b && !(sa == INT64_MIN && sb == -1);
    sum = add_word(sum, divides ? (uint64_t)(sa / sb) : 0);
    sum = add_word(sum, divides ? (uint64_t)(sa % sb) : 0);
    sum = add_word(sum, b ? a % b : 0);
    sum = add_word(sum, (uint64_t)((int32_t)a * (int64_t)(int32_t)b));
    sum = add_word(sum, (uint64_t)(uint32_t)a * (uint32_t)b);
    sum = add_word(sum, (uint64_t)(sa < sb) | (uint64_t)(a < b) << 1 | (uint64_t)((int16_t)a <= (int8_t)b) << 2);
    __extension__ unsigned __int128 wide = (unsigned __int128)a * b + a;
    sum = add_word(add_word(sum, (uint64_t)wide), (uint64_t)(wide >> 64));
    wide = b ? (wide << 3) / b : 0;
    sum = add_word(add_word(sum, (uint64_t)wide), (uint64_t)(wide >> 64));
    int64_t result;
    sum = add_word(sum, __builtin_add_overflow(sa, sb, &result));
    sum = add_word(sum, (uint64_t)result);
    sum = add_word(sum, __builtin_sub_overflow(sa, sb, &result));
    sum = add_word(sum, __builtin_mul_overflow(sa, sb, &result));
    sum = add_word(sum, (uint64_t)result);
    int32_t narrow;
    sum = add_word(sum, __builtin_add_overflow((int32_t)a, (int32_t)b, &narrow));
    return add_word(sum, (uint64_t)narrow);
}

static uint64_t bit_counts(uint64_t a) {
    uint64_t sum = add_word(SUM_START, (uint64_t)__builtin_popcountll(a) | (uint64_t)__builtin_parityll(a) << 8);
    sum = add_word(sum, a ? (uint64_t)__builtin_clzll(a) | (uint64_t)__builtin_ctzll(a) << 8 : 64);
    sum = add_word(sum, (uint64_t)__builtin_clrsbll((int64_t)a));
    sum = add_word(sum, __builtin_bswap64(a) ^ __builtin_bswap32((uint32_t)a) ^ __builtin_bswap16((uint16_t)a));
    return add_word(sum, __builtin_bitreverse64(a) + __builtin_bitreverse32((uint32_t)a));
}

struct fields {
    int a : 3;
    unsigned b : 5;
    int64_t c : 41;
    uint64_t d : 15;
    signed char e : 7;
    unsigned f : 1;
};

static uint64_t bit_fields(uint64_t a, uint64_t b) {
    struct fields f;
    memset(&f, 0, sizeof f);
    f.a = (int)a, f.b = (unsigned)b, f.c = (int64_t)(a ^ b), f.d = a >> 9, f.e = (signed char)b, f.f = a & 1;
    f.c += f.a, f.d *= f.b, f.e = (signed char)(f.e - f.a), f.b ^= (unsigned)f.d;
    uint64_t sum = add_word(SUM_START, (uint64_t)(int64_t)f.a);
    sum = add_word(add_word(sum, f.b), (uint64_t)f.c);
    return add_word(add_word(sum, f.d), (uint64_t)(int64_t)f.e + f.f);
}

static void instructions(void) {
    static const struct {
        const char *name;
        uint64_t (*call)(uint64_t, uint64_t);
    } table[] = {
        {"sdiv x", sdiv64}, {"sdiv w", sdiv32}, {"udiv x", udiv64}, {"udiv w", udiv32}, {"lsl x", lsl64},  {"asr w", asr32},
        {"ror x", ror64},   {"ror w", ror32},   {"smulh", smulh},   {"umulh", umulh},   {"bic x", bic},    {"eon w", eon},
        {"operators", c_operators}, {"bit fields", bit_fields},
    };
    for (size_t t = 0; t < sizeof table / sizeof table[0]; t++) {
        uint64_t sum = SUM_START, seed = 21;
        for (unsigned k = 0; k < NUM_EDGES * NUM_EDGES + 4000; k++) {
            bool edge = k < NUM_EDGES * NUM_EDGES;
            uint64_t a = edge ? EDGES[k / NUM_EDGES] : next_random(&seed) >> k % 64;
            uint64_t b = edge ? EDGES[k % NUM_EDGES] : next_random(&seed) >> k % 61;
            sum = add_word(sum, table[t].call(a, b));
        }
        show_sum(table[t].name, sum);
    }
}

static int compare_words(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void primes(void) {
    enum { LIMIT = 100000 };
    static bool composite[LIMIT];
    unsigned count = 0, last = 0;
    for (unsigned k = 2; k < LIMIT; k++) {
        if (!composite[k]) {
            count++, last = k;
            for (unsigned m = 2 * k; m < LIMIT; m += k) {
                composite[m] = true;
            }
        }
    }
    printf("primes %u, the last %u\n", count, last);
}

int main(void) {
    instructions();
    uint64_t sum = SUM_START, seed = 8, words[1000];
    for (unsigned k = 0; k < NUM_EDGES; k++) {
        sum = add_word(sum, bit_counts(EDGES[k]));
    }
    for (unsigned k = 0; k < 1000; k++) {
        words[k] = next_random(&seed) >> k % 64;
        sum = add_word(sum, bit_counts(words[k]));
    }
    show_sum("bit counts", sum);
    qsort(words, 1000, sizeof words[0], compare_words);
    show_sum("sorted", add_bytes(SUM_START, words, sizeof words));
    primes();
    printf("%lld %lld %d %u\n", LLONG_MIN, LLONG_MAX, INT_MIN, UINT_MAX);
    return 0;
}
