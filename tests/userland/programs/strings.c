/* memcpy and its family at every alignment, against byte loops. */
#include <stdlib.h>
#include <wchar.h>

#include "check.h"

enum { ROOM = 1024 };
static uint8_t source[ROOM], target[ROOM], model[ROOM];
static unsigned wrong;

static void refill(uint64_t *seed) {
    for (unsigned k = 0; k < ROOM; k++) {
        source[k] = (uint8_t)next_random(seed);
        target[k] = model[k] = (uint8_t)next_random(seed);
    }
}

static const size_t SIZES[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 200, 255, 300};
enum { NUM_SIZES = sizeof SIZES / sizeof SIZES[0], ALIGNMENTS = 16 };

static void expect_model(void) {
    wrong += memcmp(target, model, ROOM) != 0;
}

static void copies(void) {
    uint64_t seed = 31, sum = SUM_START;
    for (unsigned s = 0; s < NUM_SIZES; s++) {
        refill(&seed);
        for (unsigned a = 0; a < ALIGNMENTS * ALIGNMENTS; a++) {
            unsigned from = a / ALIGNMENTS, to = a % ALIGNMENTS;
            memcpy(OPAQUE(&target[to]), &source[from], SIZES[s]);
            for (size_t k = 0; k < SIZES[s]; k++) {
                model[to + k] = source[from + k];
            }
            expect_model();
        }
        sum = add_bytes(sum, target, ROOM);
    }
    show_sum("memcpy", sum);
}

static void moves(void) {
    uint64_t seed = 32, sum = SUM_START;
    for (unsigned s = 0; s < NUM_SIZES; s++) {
        refill(&seed);
        for (unsigned a = 0; a < 64; a++) {
            unsigned from = 16 + a / 8, to = 16 + a % 8 * 5;
            uint8_t copy[ROOM];
            for (size_t k = 0; k < SIZES[s]; k++) {
                copy[k] = model[from + k];
            }
            for (size_t k = 0; k < SIZES[s]; k++) {
                model[to + k] = copy[k];
            }
            memmove(OPAQUE(&target[to]), &target[from], SIZES[s]);
            expect_model();
        }
        sum = add_bytes(sum, target, ROOM);
    }
    show_sum("memmove", sum);
}

static void sets(void) {
    uint64_t seed = 33, sum = SUM_START;
    for (unsigned s = 0; s < NUM_SIZES; s++) {
        refill(&seed);
        for (unsigned a = 0; a < 2 * ALIGNMENTS; a++) {
            uint8_t value = a < ALIGNMENTS ? 0 : (uint8_t)next_random(&seed);
            memset(OPAQUE(&target[a]), value, SIZES[s]);
            for (size_t k = 0; k < SIZES[s]; k++) {
                model[a + k] = value;
            }
            expect_model();
        }
        sum = add_bytes(sum, target, ROOM);
    }
    show_sum("memset", sum);
    uint8_t *large = malloc(1 << 20);
    memset(large, 0xa5, 1 << 20);
    memset(large + 64, 0, (1 << 20) - 129);
    show_sum("memset of 1 MiB", add_bytes(SUM_START, large, 1 << 20));
    free(large);
}

static int sign(int value) {
    return (value > 0) - (value < 0);
}

static void searches(void) {
    uint64_t sum = SUM_START;
    char text[ROOM], other[ROOM];
    for (unsigned s = 0; s < NUM_SIZES; s++) {
        for (unsigned a = 0; a < ALIGNMENTS; a++) {
            size_t size = SIZES[s];
            memset(text, 'x', sizeof text);
            memset(other, 'x', sizeof other);
            text[a + size] = 0;
            other[7 + size] = 0;
            char *t = OPAQUE(text + a), *o = OPAQUE(other + 7);
            wrong += strlen(t) != size || strnlen(t, 20) != (size < 20 ? size : 20);
            wrong += strcmp(t, o) != 0;
            wrong += memchr(t, 0, size + 1) != t + size || strchr(t, 'y') != NULL;
            if (size > 2) {
                t[size / 2] = 'y';
                sum = add_word(sum, (uint64_t)(strchr(t, 'y') - t));
                sum = add_word(sum, (uint64_t)sign(strcmp(t, o)) + (uint64_t)sign(memcmp(o, t, size)) * 3);
                sum = add_word(sum, (uint64_t)sign(strncmp(t, o, size / 2)));
                sum = add_word(sum, strspn(t, "x") + strcspn(t, "y"));
                wrong += strstr(t, "xyx") != t + size / 2 - 1 || strrchr(t, 'y') != t + size / 2;
            }
        }
    }
    show_sum("searches", sum);
}

/* Accesses that cross a page and a cache line, of every width the machine has. */
static void unaligned(void) {
    uint8_t *memory = aligned_alloc(4096, 3 * 4096);
    uint64_t seed = 34, sum = SUM_START;
    for (unsigned k = 0; k < 3 * 4096; k++) {
        memory[k] = (uint8_t)next_random(&seed);
    }
    for (unsigned offset = 4096 - 40; offset < 4096 + 8; offset++) {
        uint64_t a, b;
        __asm__ volatile("ldp %0, %1, [%2]" : "=r"(a), "=r"(b) : "r"(memory + offset) : "memory");
        __asm__ volatile("stp %0, %1, [%2]" ::"r"(b), "r"(a), "r"(memory + offset + 4096 - 13) : "memory");
        __asm__ volatile("ldr q0, [%0]\n str q0, [%1]\n ldp q1, q2, [%0]\n stp q2, q1, [%1, #16]" ::"r"(memory + offset),
                         "r"(memory + offset + 4000)
                         : "v0", "v1", "v2", "memory");
        __asm__ volatile("ldrsh %0, [%2]\n ldrsw %1, [%2, #1]" : "=&r"(a), "=r"(b) : "r"(memory + offset) : "memory");
        sum = add_word(add_word(sum, a), b);
    }
    show_sum("unaligned", add_bytes(sum, memory, 3 * 4096));
    free(memory);
}

static void text_functions(void) {
    char text[200], copy[200];
    snprintf(text, sizeof text, "%s,%d;%5.2f:%-6s|%06x %c%%", "alpha", -42, 3.14159, "ab", 0xbeef, 'z');
    puts(text);
    memcpy(copy, text, sizeof copy);
    for (char *word = strtok(copy, ",;:|"); word; word = strtok(NULL, ",;:|")) {
        printf("[%s]", word);
    }
    int number;
    unsigned hex;
    double real;
    char name[20];
    int found = sscanf("name=bob 17 0x1f 2.5e3", "name=%19s %d %x %lf", name, &number, &hex, &real);
    printf("\n%d %s %d %x %g\n", found, name, number, hex, real);
    printf("%ls %lc\n", L"wide", (wint_t)L'w');
    printf("%lld %llu %ld\n", strtoll("-9223372036854775808", NULL, 10), strtoull("ffffffffffffffff", NULL, 16), strtol("0777", NULL, 0));
}

int main(void) {
    copies();
    moves();
    sets();
    searches();
    unaligned();
    text_functions();
    printf("wrong %u\n", wrong);
    return 0;
}
