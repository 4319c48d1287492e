/*
 * The realm that hostile.c attacks: its memory and registers are full of words with a tag, which it checks again and
 * again.  A word that is not what it was is a host call with number 3; number 1 says that the attack may begin.
 */
#include "rsi.h"
#include "secret.h"

#define SECRETS (RAM + 0x130000)
enum { NUM_WORDS = 4 * PAGE / 8, SPINS = 2000 };

static struct host_call calls[2] __attribute__((aligned(PAGE)));

static void call_host(int rec, uint64_t imm) {
    calls[rec].imm = imm;
    struct call call = {.x = {RSI_HOST_CALL, (uint64_t)&calls[rec]}};
    smc(&call);
}

static volatile uint64_t *secrets(int rec) {
    return (volatile uint64_t *)(SECRETS + (uint64_t)rec * NUM_WORDS * 8);
}

// Compute with secrets in all registers that a call preserves.
static void spin(uint64_t secret) {
    __asm__ volatile("mov x19, %0\n\tmov x20, %0\n\tmov x21, %0\n\tmov x22, %0\n\tmov x23, %0\n\tmov x24, %0\n\t"
                     "mov x25, %0\n\tmov x26, %0\n\tmov x27, %0\n\tmov x28, %0\n\tmov x9, %1\n"
                     "1:\tsub x9, x9, #1\n\tcbnz x9, 1b" ::"r"(secret),
                     "r"((uint64_t)SPINS)
                     : "x9", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28");
}

static void keep_secrets(int rec, uint64_t ready) {
    for (uint64_t n = 0; n < NUM_WORDS; n++) {
        secrets(rec)[n] = SECRET_TAG << 32 | n;
    }
    call_host(rec, ready);
    for (;;) {
        spin(secrets(rec)[0]);
        for (uint64_t n = 0; n < NUM_WORDS; n++) {
            if (secrets(rec)[n] != (SECRET_TAG << 32 | n)) {
                call_host(rec, 3);
            }
        }
        call_host(rec, 0);
    }
}

void main(void) {
    struct call on = {.x = {PSCI_CPU_ON, 1, (uint64_t)start_second}};
    smc(&on);
    keep_secrets(0, 1);
}

void second(void) {
    keep_secrets(1, 1);
}
