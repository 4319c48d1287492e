/* setjmp, variable arguments, stack alignment, structures by value, deep recursion, jumps by table. */
#include <alloca.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "check.h"

static jmp_buf outer;

static void descend(unsigned depth, double kept) {
    volatile double held = kept + depth;
    if (depth == 40) {
        longjmp(outer, (int)depth);
    }
    descend(depth + 1, held);
    printf("unreachable %g\n", held);
}

static void jumps(void) {
    volatile unsigned count = 0;
    register double pinned __asm__("d8") = OPAQUE(1) * 2.25;
    __asm__ volatile("" : "+w"(pinned));
    int code = setjmp(outer);
    if (count++ < 5) {
        descend(code ? 39 - count : 0, 1.5);
    }
    printf("jumps %u code %d\n", count, code);
}

/* Every kind of argument that AAPCS64 passes: general and vector registers, then the stack. */
static uint64_t sum_arguments(const char *kinds, ...) {
    va_list list, again;
    va_start(list, kinds);
    va_copy(again, list);
    uint64_t sum = SUM_START;
    for (const char *kind = kinds; *kind; kind++) {
        switch (*kind) {
        case 'i': sum = add_word(sum, (uint64_t)va_arg(list, int)); break;
        case 'l': sum = add_word(sum, va_arg(list, uint64_t)); break;
        case 'd': sum = add_double(sum, va_arg(list, double)); break;
        case 'q': sum = add_double(sum, (double)va_arg(list, long double)); break;
        default: sum = add_bytes(sum, va_arg(list, const char *), 3);
        }
    }
    sum = add_word(sum, (uint64_t)va_arg(again, int));
    va_end(list);
    va_end(again);
    return sum;
}

struct small { float x, y, z; };
struct large { uint64_t words[5]; char tail; };

__attribute__((noinline)) static struct small scale(struct small v, float by) {
    return (struct small){v.x * by, v.y * by, v.z * by};
}

__attribute__((noinline)) static struct large rotate(struct large v, unsigned by) {
    struct large out = v;
    for (unsigned k = 0; k < 5; k++) {
        out.words[k] = v.words[(k + by) % 5] + (uint8_t)v.tail;
    }
    return out;
}

__attribute__((noinline)) static unsigned alignment_of_stack(size_t size) {
    char *room = alloca(size);
    memset(room, 1, size);
    _Alignas(64) char line[64] = {0};
    uintptr_t sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return (unsigned)(sp % 16) | (unsigned)((uintptr_t)OPAQUE(&line[0]) % 64) << 8;
}

__attribute__((noinline)) static uint64_t ackermann(uint64_t m, uint64_t n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static uint64_t interpret(const uint8_t *code, unsigned steps) {
    static const void *const labels[] = {&&op_add, &&op_xor, &&op_shift, &&op_loop, &&op_multiply};
    uint64_t a = 1, b = 0x9e3779b97f4a7c15ull;
    const uint8_t *at = code;
#define NEXT                                                                                                          \
    if (!steps--) {                                                                                                   \
        return a;                                                                                                     \
    }                                                                                                                 \
    goto *labels[*at++ % 5]
    NEXT;
op_add: a += b; NEXT;
op_xor: a ^= b >> 7; NEXT;
op_shift: b = b << 13 | b >> 51; NEXT;
op_loop: at = code; NEXT;
op_multiply: a *= 0x100000001b3ull; NEXT;
}

static uint64_t dense_switch(uint64_t value) {
    switch (value % 12) {
    case 0: return value / 3;
    case 1: return value ^ 0xff;
    case 2: return value * 7;
    case 3: return ~value;
    case 4: return value >> 5;
    case 5: return value << 3;
    case 6: return value - 1000;
    case 7: return value | 0xf0f0;
    case 8: return value & 0xffff0000ffffull;
    case 9: return -value;
    case 10: return value % 1001;
    default: return 12;
    }
}

int main(void) {
    jumps();
    show_sum("arguments", sum_arguments("ildqsidlqdiidddddddddllllsq", 1, (uint64_t)2, 3.0, 4.0L, "five", -6, 7.5, ~(uint64_t)8,
                                        9.25L, 10.0, 11, 12, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, (uint64_t)1,
                                        (uint64_t)2, (uint64_t)3, (uint64_t)4, "abc", 0.5L));
    struct small v = scale((struct small){1, 2, 3}, (float)OPAQUE(3) / 2);
    struct large w = rotate((struct large){{1, 2, 3, 4, 5}, 'x'}, OPAQUE(2u));
    printf("structures %g %g %g %" PRIu64 " %c\n", (double)v.x, (double)v.y, (double)v.z, w.words[1], w.tail);
    for (size_t size = 1; size < 100; size += 24) {
        printf("stack %x ", alignment_of_stack(size));
    }
    printf("\nackermann %" PRIu64 "\n", ackermann(2, OPAQUE(300ull)));
    uint8_t code[64];
    uint64_t seed = 12, sum = SUM_START;
    for (unsigned k = 0; k < sizeof code; k++) {
        code[k] = (uint8_t)(next_random(&seed) >> 32);
    }
    code[63] = 3;
    show_sum("labels", interpret(code, 20000));
    for (unsigned k = 0; k < 2000; k++) {
        sum = add_word(sum, dense_switch(next_random(&seed)));
    }
    show_sum("switch", sum);
    return 0;
}
