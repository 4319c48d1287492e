/* Which branches may land on which instructions of a guarded page (BTI), from a guarded page and from another. */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"

#ifndef PROT_BTI
#define PROT_BTI 0x10
#endif

enum { PAGE = 4096, LOOPS = 2 };
static sigjmp_buf recover;
static uint32_t *source, *target;

static void on_signal(int number) {
    siglongjmp(recover, number);
}

/* A stub begins with BTI C, keeps LR in X9 and puts the target, its argument, where its branch wants it. */
static const struct {
    const char *name;
    uint32_t words[5];
} branches[] = {
    {"br x0", {0xd503245f, 0xaa1e03e9, 0xd503201f, 0xd61f0000}},
    {"br x16", {0xd503245f, 0xaa1e03e9, 0xaa0003f0, 0xd61f0200}},
    {"br x17", {0xd503245f, 0xaa1e03e9, 0xaa0003f1, 0xd61f0220}},
    {"blr x0", {0xd503245f, 0xaa1e03e9, 0xd503201f, 0xd63f0000, 0xd65f0120}},
    {"blr x16", {0xd503245f, 0xaa1e03e9, 0xaa0003f0, 0xd63f0200, 0xd65f0120}},
    {"ret x0", {0xd503245f, 0xaa1e03e9, 0xd503201f, 0xd65f0000}},
    {"braaz x0", {0xd503245f, 0xaa1e03e9, 0xdac123e0, 0xd61f081f}},
    {"blraaz x0", {0xd503245f, 0xaa1e03e9, 0xdac123e0, 0xd63f081f, 0xd65f0120}},
};

static const struct {
    const char *name;
    uint32_t word;
} landings[] = {
    {"bti", 0xd503241f}, {"bti c", 0xd503245f},   {"bti j", 0xd503249f},   {"bti jc", 0xd50324df}, {"nop", 0xd503201f},
    {"brk", 0xd4200000}, {"paciasp", 0xd503233f}, {"pacibsp", 0xd503237f}, {"paciaz", 0xd503231f}, {"add", 0x8b010000},
};

static void protect(void *page, bool is_guarded) {
    if (mprotect(page, PAGE, PROT_READ | PROT_EXEC | (is_guarded ? PROT_BTI : 0))) {
        perror("mprotect");
        exit(1);
    }
}

static void write_code(uint32_t *page, const uint32_t *words, size_t size) {
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    memcpy(page, words, size);
    __builtin___clear_cache((char *)page, (char *)page + size);
}

/* @return the signal that a branch brought, 0 for none */
static int try(void) {
    int number = sigsetjmp(recover, 1);
    if (number == 0) {
        ((void (*)(uint32_t *))source)(target);
    }
    return number;
}

static void show(unsigned branch, bool from_guarded, bool to_guarded) {
    write_code(source, branches[branch].words, sizeof branches[branch].words);
    protect(source, from_guarded);
    printf("%-10s %d->%d", branches[branch].name, from_guarded, to_guarded);
    for (unsigned k = 0; k < sizeof landings / sizeof *landings; k++) {
        const uint32_t code[] = {landings[k].word, 0xaa0903fe, 0xd65f03c0}; /* mov x30, x9; ret */
        bool is_call = branches[branch].words[4];
        const uint32_t called[] = {landings[k].word, 0xd50320ff, 0xd65f03c0}; /* xpaclri; ret */
        write_code(target, is_call ? called : code, sizeof code);
        protect(target, to_guarded);
        int number = try();
        for (int again = 0; again < LOOPS; again++) {
            number = try() == number ? number : -1;
        }
        printf("  %s %d", landings[k].name, number);
    }
    putchar('\n');
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGILL, &action, NULL);
    sigaction(SIGTRAP, &action, NULL);
    source = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    target = source + PAGE / 4;
    for (unsigned branch = 0; branch < sizeof branches / sizeof *branches; branch++) {
        for (int guarded = 0; guarded < 4; guarded++) {
            show(branch, guarded >> 1, guarded & 1);
        }
    }
    return 0;
}
