/* Printing, parsing, rounding modes and exception flags of float and double. */
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"

static const double VALUES[] = {
    0.0,       -0.0,    1.0,      -1.5,     0.1,        1.0 / 3.0,  2.5,         3.5,      123456789.0, 1e15,
    1e16,      1e21,    1e22,     1e23,     1e100,      1e-5,       9.999999e-5, 0.5,      99.995,      DBL_MAX,
    DBL_MIN,   DBL_TRUE_MIN,      DBL_EPSILON,          2.2250738585072009e-308, 4.9e-324, 1.7e-308,    -1e-310,
    INFINITY,  -INFINITY,         NAN,      9007199254740993.0,     0x1.fffffffffffffp-1,
};
enum { NUM_VALUES = sizeof VALUES / sizeof VALUES[0] };

static void print_values(void) {
    static const char *const formats[] = {"%g", "%.17g", "%e", "%.0f", "%.3f", "%a", "%.2a", "%+012.4f", "%-12.3e|", "%#.0e", "% G"};
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        printf("%s:\n", formats[f]);
        for (size_t k = 0; k < NUM_VALUES; k++) {
            if (f == 3 && fabs(VALUES[k]) > 1e25) {
                continue;
            }
            printf(formats[f], VALUES[k]);
            putchar(k % 8 == 7 ? '\n' : ' ');
        }
        putchar('\n');
    }
}

static void parse(void) {
    static const char *const texts[] = {
        "0.1", "1e-400", "1e400", "-4.9406564584124654e-324", "2.4703282292062327e-324", "2.4703282292062328e-324",
        "9007199254740993", "0x1.8p-1074", "0x1p-1075", "inf", "nan", "179769313486231580793e289", "1.00000005960464477539", "3.4028235677973366e38",
    };
    for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
        printf("%s: %a %a\n", texts[k], strtod(texts[k], NULL), (double)strtof(texts[k], NULL));
    }
}

static unsigned flags(void) {
    int raised = fetestexcept(FE_ALL_EXCEPT);
    return (raised & FE_INVALID ? 16 : 0) | (raised & FE_DIVBYZERO ? 8 : 0) | (raised & FE_OVERFLOW ? 4 : 0) |
           (raised & FE_UNDERFLOW ? 2 : 0) | (raised & FE_INEXACT ? 1 : 0);
}

static double operate(unsigned op, volatile double a, volatile double b) {
    switch (op) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return sqrt(a);
    case 5: return fma(a, b, a);
    case 6: return rint(a);
    case 7: return nearbyint(a / 7);
    case 8: return (double)(float)a;
    case 9: return (double)llrint(a);
    case 10: return (double)(int32_t)a;
    default: return (double)(uint64_t)fabs(a);
    }
}

static double from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

/* Every operation on random bits and on pairs of the values above, in every mode. */
static void arithmetic(int mode, const char *name) {
    for (unsigned op = 0; op < 12; op++) {
        uint64_t sum = SUM_START, seed = 77;
        unsigned seen = 0;
        fesetround(mode);
        for (unsigned k = 0; k < NUM_VALUES * NUM_VALUES + 2000; k++) {
            double a = k < NUM_VALUES * NUM_VALUES ? VALUES[k / NUM_VALUES] : from_bits(next_random(&seed));
            double b = k < NUM_VALUES * NUM_VALUES ? VALUES[k % NUM_VALUES] : from_bits(next_random(&seed));
            feclearexcept(FE_ALL_EXCEPT);
            double result = operate(op, a, b);
            sum = add_word(add_double(sum, result), flags());
            seen |= flags();
        }
        fesetround(FE_TONEAREST);
        printf("%s op %2u flags %02x sum %016" PRIx64 "\n", name, op, seen, sum);
    }
}

static void single_precision(void) {
    uint64_t seed = 5, sum = SUM_START;
    for (unsigned k = 0; k < 5000; k++) {
        uint64_t bits = next_random(&seed);
        float pair[2];
        memcpy(pair, &bits, 8);
        volatile float a = pair[0], b = pair[1];
        sum = add_float(sum, a + b);
        sum = add_float(sum, a * b);
        sum = add_float(sum, a / b);
        sum = add_float(sum, sqrtf(fabsf(a)));
        sum = add_float(sum, fmaf(a, b, 1.0f));
        sum = add_word(sum, (uint64_t)(a < b) | (uint64_t)(a == b) << 1 | (uint64_t)!!isnan(a) << 2);
        sum = add_word(sum, (uint64_t)(int64_t)a ^ (uint32_t)b);
        sum = add_double(sum, a);
    }
    show_sum("float", sum);
}

static void half_precision(void) {
    uint64_t sum = SUM_START, seed = 9;
    for (unsigned k = 0; k < 65536; k++) {
        uint16_t bits = (uint16_t)k;
        __fp16 half;
        memcpy(&half, &bits, 2);
        sum = add_float(sum, (float)half);
    }
    for (unsigned k = 0; k < 20000; k++) {
        uint32_t bits = (uint32_t)next_random(&seed);
        bits = (bits & 0x8fffffff) | (0x30000000 + (k % 32 << 23));
        float value;
        memcpy(&value, &bits, 4);
        __fp16 half = (__fp16)value;
        sum = add_bytes(sum, &half, 2);
    }
    show_sum("half", sum);
}

int main(void) {
    print_values();
    parse();
    arithmetic(FE_TONEAREST, "nearest");
    arithmetic(FE_UPWARD, "up");
    arithmetic(FE_DOWNWARD, "down");
    arithmetic(FE_TOWARDZERO, "zero");
    single_precision();
    half_precision();
    fesetround(FE_UPWARD);
    printf("printf up:   %.3f %.3f %.0f %.2e\n", 1.0005, -1.0005, 2.5, 12345.0);
    fesetround(FE_DOWNWARD);
    printf("printf down: %.3f %.3f %.0f %.2e\n", 1.0005, -1.0005, 2.5, 12345.0);
    return 0;
}
