/* The C library's mathematics: many small checksums, so that a difference names its function. */
#include <complex.h>
#include <math.h>

#include "check.h"

typedef double (*Unary)(double);
typedef double (*Binary)(double, double);
typedef float (*UnaryFloat)(float);

#define FUNCTION(name) {#name, name}

static const struct {
    const char *name;
    Unary call;
} UNARY[] = {
    FUNCTION(sin),   FUNCTION(cos),   FUNCTION(tan),  FUNCTION(asin),  FUNCTION(acos),  FUNCTION(atan),  FUNCTION(sinh),
    FUNCTION(cosh),  FUNCTION(tanh),  FUNCTION(exp),  FUNCTION(exp2),  FUNCTION(expm1), FUNCTION(log),   FUNCTION(log2),
    FUNCTION(log10), FUNCTION(log1p), FUNCTION(cbrt), FUNCTION(sqrt),  FUNCTION(floor), FUNCTION(ceil),  FUNCTION(trunc),
    FUNCTION(round), FUNCTION(rint),  FUNCTION(erf),  FUNCTION(tgamma), FUNCTION(lgamma), FUNCTION(j0),
};
static const struct {
    const char *name;
    Binary call;
} BINARY[] = {
    FUNCTION(pow),  FUNCTION(atan2), FUNCTION(fmod), FUNCTION(remainder), FUNCTION(hypot),
    FUNCTION(fmin), FUNCTION(fmax),  FUNCTION(fdim), FUNCTION(nextafter), FUNCTION(copysign),
};
static const struct {
    const char *name;
    UnaryFloat call;
} SINGLE[] = {
    FUNCTION(sinf), FUNCTION(cosf), FUNCTION(expf), FUNCTION(logf), FUNCTION(sqrtf), FUNCTION(roundf), FUNCTION(atanf),
};

static double argument(uint64_t *seed, unsigned k) {
    static const double scales[] = {1, 1e-3, 100, 1e6, 1e-300, 1e300};
    return ((double)(int64_t)next_random(seed) / 0x1p63) * scales[k % 6];
}

static void exact_parts(void) {
    uint64_t sum = SUM_START, seed = 3;
    for (unsigned k = 0; k < 2000; k++) {
        double x = argument(&seed, k), whole;
        int exponent;
        sum = add_double(sum, frexp(x, &exponent));
        sum = add_word(sum, (uint64_t)exponent);
        sum = add_double(sum, modf(x * 1000, &whole));
        sum = add_double(sum, whole);
        sum = add_double(sum, ldexp(x, (int)(k % 300) - 150));
        sum = add_word(sum, (uint64_t)ilogb(x));
        sum = add_word(sum, (uint64_t)lround(fmod(x, 1e9)));
    }
    show_sum("parts", sum);
}

int main(void) {
    for (unsigned f = 0; f < sizeof UNARY / sizeof UNARY[0]; f++) {
        uint64_t sum = SUM_START, seed = 1;
        for (unsigned k = 0; k < 1000; k++) {
            sum = add_double(sum, UNARY[f].call(argument(&seed, k)));
        }
        show_sum(UNARY[f].name, sum);
    }
    for (unsigned f = 0; f < sizeof BINARY / sizeof BINARY[0]; f++) {
        uint64_t sum = SUM_START, seed = 2;
        for (unsigned k = 0; k < 1000; k++) {
            double x = argument(&seed, k);
            sum = add_double(sum, BINARY[f].call(x, argument(&seed, k / 6)));
        }
        show_sum(BINARY[f].name, sum);
    }
    for (unsigned f = 0; f < sizeof SINGLE / sizeof SINGLE[0]; f++) {
        uint64_t sum = SUM_START, seed = 4;
        for (unsigned k = 0; k < 1000; k++) {
            sum = add_float(sum, SINGLE[f].call((float)argument(&seed, k % 4)));
        }
        show_sum(SINGLE[f].name, sum);
    }
    exact_parts();
    double complex z = csqrt(OPAQUE(-3.0) + 4.0 * I) * cexp(0.5 * I);
    printf("complex %a %a\n", creal(z), cimag(z));
    return 0;
}
