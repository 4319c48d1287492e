/* Multiple-precision arithmetic: long carry chains, wide products, divisions. */
#include <stdlib.h>

#include "check.h"

enum { LIMBS = 64 };
typedef struct {
    uint64_t limb[LIMBS];
} Number;
__extension__ typedef unsigned __int128 Wide;

static void multiply(uint64_t *out, const uint64_t *a, const uint64_t *b, unsigned limbs) {
    memset(out, 0, 2 * limbs * sizeof *out);
    for (unsigned i = 0; i < limbs; i++) {
        uint64_t carry = 0;
        for (unsigned j = 0; j < limbs; j++) {
            Wide t = (Wide)a[i] * b[j] + out[i + j] + carry;
            out[i + j] = (uint64_t)t;
            carry = (uint64_t)(t >> 64);
        }
        out[i + limbs] = carry;
    }
}

static uint64_t add(uint64_t *out, const uint64_t *a, const uint64_t *b, unsigned limbs) {
    uint64_t carry = 0;
    for (unsigned k = 0; k < limbs; k++) {
        Wide t = (Wide)a[k] + b[k] + carry;
        out[k] = (uint64_t)t;
        carry = (uint64_t)(t >> 64);
    }
    return carry;
}

static uint64_t subtract(uint64_t *out, const uint64_t *a, const uint64_t *b, unsigned limbs) {
    uint64_t borrow = 0;
    for (unsigned k = 0; k < limbs; k++) {
        Wide t = (Wide)a[k] - b[k] - borrow;
        out[k] = (uint64_t)t;
        borrow = (uint64_t)(t >> 64) & 1;
    }
    return borrow;
}

/* The same with the carry flag. */
static void add_with_flags(uint64_t *out, const uint64_t *a, const uint64_t *b) {
    uint64_t x, y;
    __asm__ volatile("cmn xzr, xzr\n mov x9, #0\n"
                     "1: ldr %0, [%3, x9, lsl #3]\n ldr %1, [%4, x9, lsl #3]\n adcs %0, %0, %1\n str %0, [%2, x9, lsl #3]\n"
                     "add x9, x9, #1\n eor x10, x9, %5\n cbnz x10, 1b"
                     : "=&r"(x), "=&r"(y)
                     : "r"(out), "r"(a), "r"(b), "r"((uint64_t)LIMBS)
                     : "x9", "x10", "cc", "memory");
}

static void factorial(unsigned n) {
    uint32_t digits[600] = {1}; /* base 1e9 */
    unsigned used = 1;
    for (unsigned k = 2; k <= n; k++) {
        uint64_t carry = 0;
        for (unsigned d = 0; d < used; d++) {
            carry += (uint64_t)digits[d] * k;
            digits[d] = (uint32_t)(carry % 1000000000);
            carry /= 1000000000;
        }
        if (carry) {
            digits[used++] = (uint32_t)carry;
        }
    }
    printf("%u! = %u", n, digits[used - 1]);
    for (unsigned d = used - 1; d-- > used - 6;) {
        printf("%09u", digits[d]);
    }
    printf("... (%u groups)\n", used);
}

static void spigot(unsigned digits) {
    unsigned length = digits * 10 / 3 + 2, *a = malloc(length * sizeof *a);
    for (unsigned k = 0; k < length; k++) {
        a[k] = 2;
    }
    unsigned held = 0, nines = 0;
    for (unsigned d = 0; d < digits; d++) {
        uint64_t carry = 0;
        for (unsigned k = length; k-- > 0;) {
            uint64_t value = 10ull * a[k] + carry * (k + 1);
            a[k] = (unsigned)(k ? value % (2 * k + 1) : value % 10);
            carry = k ? value / (2 * k + 1) : value / 10;
        }
        unsigned digit = (unsigned)carry;
        if (digit == 9) {
            nines++;
            continue;
        }
        if (d) {
            printf("%u", held + digit / 10);
        }
        for (; nines; nines--) {
            putchar(digit == 10 ? '0' : '9');
        }
        held = digit % 10;
    }
    putchar('\n');
    free(a);
}

/* Montgomery exponentiation modulo an odd number: 2^e in a group of 1024 bits. */
static void power(void) {
    enum { N = 16 };
    uint64_t seed = 41, m[N], base[N], result[N], product[2 * N];
    for (unsigned k = 0; k < N; k++) {
        m[k] = next_random(&seed);
        base[k] = next_random(&seed);
        result[k] = next_random(&seed);
    }
    m[0] |= 1, m[N - 1] |= 1ull << 63, base[N - 1] = 0, result[N - 1] = 0;
    uint64_t inverse = 1;
    for (unsigned k = 0; k < 6; k++) {
        inverse *= 2 - m[0] * inverse;
    }
    for (unsigned step = 0; step < 64; step++) {
        multiply(product, result, step % 3 ? result : base, N);
        for (unsigned i = 0; i < N; i++) {
            uint64_t factor = product[i] * -inverse, carry = 0;
            for (unsigned j = 0; j < N; j++) {
                Wide t = (Wide)factor * m[j] + product[i + j] + carry;
                product[i + j] = (uint64_t)t;
                carry = (uint64_t)(t >> 64);
            }
            for (unsigned k = i + N; carry && k < 2 * N; k++) {
                Wide t = (Wide)product[k] + carry;
                product[k] = (uint64_t)t;
                carry = (uint64_t)(t >> 64);
            }
        }
        memcpy(result, product + N, sizeof result);
        if (subtract(base, result, m, N) == 0) {
            memcpy(result, base, sizeof result);
        }
    }
    show_sum("power", add_bytes(SUM_START, result, sizeof result));
}

int main(void) {
    uint64_t seed = 40, sum = SUM_START, product[2 * LIMBS];
    Number a, b, c;
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned k = 0; k < LIMBS; k++) {
            a.limb[k] = round == 0 ? ~0ull : next_random(&seed);
            b.limb[k] = round == 1 ? ~0ull : next_random(&seed);
        }
        multiply(product, a.limb, b.limb, LIMBS);
        sum = add_bytes(sum, product, sizeof product);
        sum = add_word(sum, add(c.limb, a.limb, b.limb, LIMBS));
        sum = add_word(sum, subtract(c.limb, c.limb, b.limb, LIMBS));
        sum = add_bytes(sum, &c, sizeof c);
        add_with_flags(c.limb, a.limb, b.limb);
        sum = add_bytes(sum, &c, sizeof c);
    }
    show_sum("limbs", sum);
    power();
    factorial(300);
    factorial(1000);
    spigot(200);
    return 0;
}
