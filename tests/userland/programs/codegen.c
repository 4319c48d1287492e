/* Code that a program writes: just-in-time compiled, patched, moved, and patched under another thread. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"

enum { PAGE = 4096 };
#define MOVZ(rd, value) (0xd2800000u | (uint32_t)(value) << 5 | (rd))
#define ADD(rd, rn, value) (0x91000000u | (uint32_t)(value) << 10 | (rn) << 5 | (rd))
#define BRANCH(words) (0x14000000u | ((uint32_t)(words) & 0x3ffffffu))
#define RET 0xd65f03c0u

typedef uint64_t (*Function)(uint64_t);

static uint32_t *code_pages(unsigned count) {
    return mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void publish(uint32_t *at, size_t words) {
    __builtin___clear_cache((char *)at, (char *)(at + words));
}

static uint64_t call(uint32_t *at, uint64_t argument) {
    return ((Function)(void *)at)(argument);
}

static void patched_in_place(void) {
    uint32_t *code = code_pages(1);
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < 1000; k++) {
        code[k % 7] = MOVZ(0, k);
        code[k % 7 + 1] = RET;
        publish(&code[k % 7], 2);
        sum = add_word(sum, call(&code[k % 7], 0));
    }
    show_sum("patched in place", sum);
}

/* A chain of additions over a page boundary; each call changes one link. */
static void chain(void) {
    uint32_t *code = code_pages(2), *start = code + PAGE / 4 - 8;
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < 16; k++) {
        start[k] = ADD(0, 0, k);
    }
    start[16] = RET;
    publish(start, 17);
    for (unsigned k = 0; k < 500; k++) {
        start[k % 16] = ADD(0, 0, k);
        publish(&start[k % 16], 1);
        sum = add_word(sum, call(start, k));
    }
    show_sum("chain over two pages", sum);
}

/* The code changes what it is about to execute. */
static void self_patching(void) {
    uint64_t sum = SUM_START;
    uint32_t *code = code_pages(1);
    for (unsigned k = 0; k < 200; k++) {
        uint64_t result;
        uint32_t word = MOVZ(0, k);
        code[0] = 0xb9001c01u; /* str w1, [x0, #28]: code[7] */
        code[1] = 0xd50b7b20u; /* dc cvau, x0 */
        code[2] = 0xd5033b9fu; /* dsb ish */
        code[3] = 0xd50b7520u; /* ic ivau, x0 */
        code[4] = 0xd5033b9fu; /* dsb ish */
        code[5] = 0xd5033fdfu; /* isb */
        code[6] = BRANCH(1);
        code[7] = MOVZ(0, 9999);
        code[8] = RET;
        publish(code, 9);
        register uint64_t x0 __asm__("x0") = (uint64_t)code;
        register uint64_t x1 __asm__("x1") = word;
        __asm__ volatile("blr %2" : "+r"(x0) : "r"(x1), "r"(code) : "x30", "memory");
        result = x0;
        sum = add_word(sum, result);
    }
    show_sum("self-patching", sum);
}

/* Write, then execute: the same page is never both. */
static void protection_changes(void) {
    uint32_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = SUM_START;
    for (unsigned k = 0; k < 50; k++) {
        mprotect(code, PAGE, PROT_READ | PROT_WRITE);
        code[0] = ADD(0, 0, 3 * k);
        code[1] = RET;
        publish(code, 2);
        mprotect(code, PAGE, PROT_READ | PROT_EXEC);
        sum = add_word(sum, call(code, k));
    }
    show_sum("protection changes", sum);
}

/* Another page at the same address. */
static void remapped(void) {
    uint64_t sum = SUM_START;
    uint32_t *code = code_pages(1);
    for (unsigned k = 0; k < 50; k++) {
        mmap(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        code[0] = MOVZ(0, 5 * k);
        code[1] = RET;
        publish(code, 2);
        sum = add_word(sum, call(code, 0));
    }
    show_sum("remapped", sum);
}

/* One thread executes while another one patches: it sees old or new, and new after the acknowledgement. */
static uint32_t *shared_code;
static atomic_uint published, stop;
static unsigned went_back;

static void *executor(void *argument) {
    uint64_t last = 0;
    while (!atomic_load(&stop)) {
        uint64_t least = atomic_load(&published);
        __asm__ volatile("isb");
        uint64_t now = call(shared_code, 0);
        went_back += now < last || now < least;
        last = now;
        sched_yield();
    }
    return argument;
}

static void patched_under_a_thread(void) {
    pthread_t thread;
    shared_code = code_pages(1);
    shared_code[0] = MOVZ(0, 0);
    shared_code[1] = RET;
    publish(shared_code, 2);
    pthread_create(&thread, NULL, executor, NULL);
    for (unsigned k = 1; k < 500; k++) {
        __atomic_store_n(&shared_code[0], MOVZ(0, k), __ATOMIC_RELAXED);
        publish(shared_code, 1);
        atomic_store(&published, k);
        sched_yield();
    }
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("patched under a thread: went back %u, last %" PRIu64 "\n", went_back, call(shared_code, 0));
}

int main(void) {
    patched_in_place();
    chain();
    self_patching();
    protection_changes();
    remapped();
    patched_under_a_thread();
    return 0;
}
