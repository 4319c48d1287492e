/*
 * Pointer authentication, seen so that neither the algorithm nor the keys matter: what a code leaves alone, and that a
 * pointer that was signed is good.
 */
#include "check.h"

__asm__(".arch_extension pauth");

enum { COUNT = 4000 };
#define ADDRESS ((1ull << 48) - 1)
#define TAG (0xffull << 56)

#define SIGN_AND_CHECK(name, pac, aut, xpac)                                                                          \
    static void name(uint64_t seed) {                                                                                 \
        uint64_t sum = SUM_START, changed = 0;                                                                        \
        for (int k = 0; k < COUNT; k++) {                                                                             \
            uint64_t pointer = next_random(&seed) & (k & 1 ? ADDRESS : ADDRESS | TAG), modifier = next_random(&seed); \
            uint64_t code = pointer, stripped, good;                                                                  \
            modifier = k % 3 ? modifier : 0;                                                                          \
            __asm__(pac " %0, %1" : "+r"(code) : "r"(modifier));                                                      \
            stripped = good = code;                                                                                   \
            __asm__(xpac " %0" : "+r"(stripped));                                                                     \
            __asm__(aut " %0, %1" : "+r"(good) : "r"(modifier));                                                      \
            sum = add_word(add_word(add_word(sum, code & ~(0x7full << 48)), stripped), good);                         \
            changed += code != pointer;                                                                               \
        }                                                                                                             \
        show_sum(#name, sum);                                                                                         \
        printf("%-24s %s\n", "", changed > COUNT * 9 / 10 ? "has codes" : "has no codes");                            \
    }

SIGN_AND_CHECK(ia, "pacia", "autia", "xpaci")
SIGN_AND_CHECK(ib, "pacib", "autib", "xpaci")
SIGN_AND_CHECK(da, "pacda", "autda", "xpacd")
SIGN_AND_CHECK(db, "pacdb", "autdb", "xpacd")

#define SIGN_AND_CHECK_ZERO(name, pac, aut)                                                                           \
    static void name(uint64_t seed) {                                                                                 \
        uint64_t sum = SUM_START;                                                                                     \
        for (int k = 0; k < COUNT; k++) {                                                                             \
            uint64_t pointer = next_random(&seed) & ADDRESS;                                                          \
            __asm__(pac " %0\n" aut " %0" : "+r"(pointer));                                                           \
            sum = add_word(sum, pointer);                                                                             \
        }                                                                                                             \
        show_sum(#name, sum);                                                                                         \
    }

SIGN_AND_CHECK_ZERO(iza, "paciza", "autiza")
SIGN_AND_CHECK_ZERO(izb, "pacizb", "autizb")
SIGN_AND_CHECK_ZERO(dza, "pacdza", "autdza")
SIGN_AND_CHECK_ZERO(dzb, "pacdzb", "autdzb")

static void strip(uint64_t seed) {
    uint64_t sum = SUM_START;
    for (int k = 0; k < COUNT; k++) {
        uint64_t code = next_random(&seed) & ~(1ull << 55); /* of the program's half: a kernel chooses for its own */
        uint64_t data = code, lr = code;
        __asm__("xpaci %0" : "+r"(code));
        __asm__("xpacd %0" : "+r"(data));
        __asm__("mov x30, %0; hint #7; mov %0, x30" : "+r"(lr)::"x30");
        sum = add_word(add_word(add_word(sum, code), data), lr);
    }
    show_sum("strip", sum);
}

static void generic(uint64_t seed) {
    uint64_t sum = SUM_START, same = 0, zeros = 0;
    for (int k = 0; k < COUNT; k++) {
        uint64_t one, again, value = next_random(&seed), modifier = next_random(&seed);
        __asm__("pacga %0, %1, %2" : "=r"(one) : "r"(value), "r"(modifier));
        __asm__("pacga %0, %1, %2" : "=r"(again) : "r"(value), "r"(modifier));
        sum = add_word(sum, (uint32_t)one);
        same += one == again;
        zeros += one == 0;
    }
    show_sum("generic", sum);
    printf("%-24s %s, %s\n", "", same == COUNT ? "repeats" : "does not repeat", zeros > 2 ? "is zero" : "is not zero");
}

/* The forms on fixed registers, each with its other half. */
#define FIXED(sign, check)                                                                                            \
    do {                                                                                                              \
        uint64_t x17 = OPAQUE((uint64_t)(uintptr_t)fixed), x30 = x17;                                                 \
        __asm__("mov x16, #77; mov x17, %0; mov x30, %1; hint #" #sign "; hint #" #check                              \
                "; mov %0, x17; mov %1, x30"                                                                          \
                : "+r"(x17), "+r"(x30)::"x16", "x17", "x30");                                                         \
        printf("hint %s, %s: %d %d\n", #sign, #check, x17 == (uintptr_t)fixed, x30 == (uintptr_t)fixed);              \
    } while (0)

static void fixed(void) {
    FIXED(8, 12);
    FIXED(10, 14);
    FIXED(24, 28);
    FIXED(25, 29);
    FIXED(26, 30);
    FIXED(27, 31);
}

/* Functions that return by RETAA and RETAB, called by each branch. */
__asm__(".text\n"
        "twice_a: paciasp; add x0, x0, x0; retaa\n"
        "twice_b: pacibsp; add x0, x0, x0; retab\n"
        "through: stp x29, x30, [sp, #-16]!\n mov x9, x1\n mov x10, #5\n mov x11, sp\n"
        "  paciza x9; blraaz x9\n  mov x9, x1; pacizb x9; blrabz x9\n"
        "  mov x9, x1; pacia x9, x10; blraa x9, x10\n  mov x9, x1; pacib x9, x11; blrab x9, sp\n"
        "  ldp x29, x30, [sp], #16\n"
        "  mov x9, x1; paciza x9; braaz x9\n"
        "jump: mov x9, x1; pacib x9, x1; brab x9, x1\n");
extern uint64_t twice_a(uint64_t), twice_b(uint64_t), through(uint64_t, uint64_t (*)(uint64_t)),
    jump(uint64_t, uint64_t (*)(uint64_t));

static void branches(void) {
    printf("returns %" PRIu64 " %" PRIu64 "\n", twice_a(21), twice_b(22));
    printf("branches %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", through(1, twice_a), through(3, twice_b), jump(5, twice_a));
}

static void loads(void) {
    static uint64_t words[1024];
    for (int k = 0; k < 1024; k++) {
        words[k] = (uint64_t)k * 3;
    }
    uint64_t *base = &words[512], *a = base, *b = base, one, two, three, four;
    __asm__("pacdza %0; pacdzb %1" : "+r"(a), "+r"(b));
    __asm__ volatile("ldraa %0, [%2]; ldraa %1, [%2, #4088 - 2048]" : "=&r"(one), "=&r"(two) : "r"(a) : "memory");
    __asm__ volatile("ldrab %0, [%2, #-4096]!; ldr %1, [%2, #8]" : "=&r"(three), "=&r"(four), "+r"(b)::"memory");
    printf("loads %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %td\n", one, two, three, four, b - base);
}

int main(void) {
    ia(1), ib(2), da(3), db(4);
    iza(5), izb(6), dza(7), dzb(8);
    strip(9);
    generic(10);
    fixed();
    branches();
    loads();
    return 0;
}
