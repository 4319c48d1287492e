/* long double: 128-bit floating point that the compiler's runtime library does with integers. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"

static uint64_t add_quad(uint64_t sum, long double value) {
    return add_bytes(sum, &value, sizeof value);
}

static long double quad(uint64_t *seed) {
    uint64_t words[2] = {next_random(seed), next_random(seed)};
    long double value;
    words[1] = (words[1] & 0x800fffffffffffffull) | (0x3ff0ull + (words[1] >> 52 & 31)) << 48;
    memcpy(&value, words, sizeof value);
    return value;
}

static long double pi(void) { /* Machin */
    long double sum = 0;
    for (int k = 40; k >= 0; k--) {
        sum += (k % 2 ? -1 : 1) * (16 / powl(5, 2 * k + 1) - 4 / powl(239, 2 * k + 1)) / (2 * k + 1);
    }
    return sum;
}

int main(void) {
    uint64_t seed = 11, sums[6] = {SUM_START, SUM_START, SUM_START, SUM_START, SUM_START, SUM_START};
    for (unsigned k = 0; k < 3000; k++) {
        long double a = quad(&seed), b = quad(&seed);
        sums[0] = add_quad(sums[0], a + b);
        sums[1] = add_quad(sums[1], a - b);
        sums[2] = add_quad(sums[2], a * b);
        sums[3] = add_quad(sums[3], a / b);
        sums[4] = add_word(add_double(sums[4], (double)a), (uint64_t)(a < b));
        sums[5] = add_word(add_quad(sums[5], (long double)(int64_t)(a * 1e9L)), (uint64_t)(int64_t)b);
    }
    static const char *const names[] = {"add", "subtract", "multiply", "divide", "narrow, compare", "integers"};
    for (unsigned k = 0; k < 6; k++) {
        show_sum(names[k], sums[k]);
    }
    printf("pi    %.33Lf\n", pi());
    printf("e     %.33Lf\n", expl((long double)OPAQUE(1.0)));
    printf("root  %.33Lf %La\n", sqrtl(2.0L), sqrtl(3.0L));
    printf("third %.40Lg %La\n", 1.0L / OPAQUE(3), strtold("0.3333333333333333333333333333333333333", NULL));
    printf("edges %Lg %Lg %La\n", LDBL_MAX, LDBL_MIN, LDBL_EPSILON);
    return 0;
}
