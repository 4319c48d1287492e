/* Synchronous faults as a program sees them, and signals between its parts. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"

enum { PAGE = 4096 };
static sigjmp_buf recover;
static char *region; /* three pages: read-write, read-only, none */
static volatile int seen_signal, seen_code;
static volatile uintptr_t seen_address, seen_pc;

static void on_fault(int number, siginfo_t *info, void *context) {
    seen_signal = number;
    seen_code = info->si_code;
    seen_address = (uintptr_t)info->si_addr;
    seen_pc = ((ucontext_t *)context)->uc_mcontext.pc;
    siglongjmp(recover, 1);
}

static void report(const char *what) {
    uintptr_t base = (uintptr_t)region;
    printf("%-28s signal %2d ", what, seen_signal);
    if (seen_signal != SIGILL) { /* QEMU says ILL_ILLOPN, Linux ILL_ILLOPC */
        printf("code %2d ", seen_code);
    }
    if (seen_code <= 0) { /* from a process: no address */
        putchar('\n');
    } else if (seen_address - base < 4 * PAGE) {
        printf("address region+%#lx\n", (unsigned long)(seen_address - base));
    } else if (seen_address == seen_pc) {
        printf("address is the pc\n");
    } else {
        printf("address %#lx\n", (unsigned long)seen_address);
    }
}

#define FAULT(what, statement)                                                                                        \
    do {                                                                                                              \
        if (sigsetjmp(recover, 1) == 0) {                                                                             \
            statement;                                                                                                \
            printf("%-28s no signal\n", what);                                                                        \
        } else {                                                                                                      \
            report(what);                                                                                             \
        }                                                                                                             \
    } while (0)

static void faults(void) {
    FAULT("read at 0x10", OPAQUE(*(volatile char *)0x10ull));
    FAULT("write to read-only", ((volatile char *)region)[PAGE + 5] = 1);
    FAULT("read of no access", OPAQUE(((volatile char *)region)[2 * PAGE + 7]));
    FAULT("read across the end", OPAQUE(*(volatile uint64_t *)(region + 2 * PAGE - 3)));
    FAULT("write across the end", *(volatile uint64_t *)(region + PAGE - 3) = ~0ull);
    printf("nothing of it was written: %d %d %d\n", region[PAGE - 3], region[PAGE - 2], region[PAGE - 1]);
    FAULT("pair across the end", __asm__ volatile("stp xzr, xzr, [%0]" ::"r"(region + PAGE - 8) : "memory"));
    FAULT("vector across the end", __asm__ volatile("ldp q0, q1, [%0]" ::"r"(region + 2 * PAGE - 16) : "v0", "v1", "memory"));
    FAULT("kernel address", OPAQUE(*(volatile char *)0xffff800000000000ull));
    FAULT("execute data", ((void (*)(void))region)());
    FAULT("execute nothing", ((void (*)(void))0x40ull)());
    FAULT("execute odd address", __asm__ volatile("br %0" ::"r"((char *)on_fault + 2)));
    FAULT("udf", __asm__ volatile(".inst 0x00000000"));
    FAULT("unallocated", __asm__ volatile(".inst 0x00ffffff"));
    FAULT("mrs of an EL1 register", __asm__ volatile("mrs x0, vbar_el1" ::: "x0"));
    FAULT("msr daifset", __asm__ volatile("msr daifset, #2"));
    FAULT("hvc", __asm__ volatile("hvc #0"));
    FAULT("brk", __asm__ volatile("brk #7"));
    FAULT("exclusive, unaligned", __asm__ volatile("ldxr x0, [%0]" ::"r"(region + 4) : "x0"));
    FAULT("acquire, unaligned", __asm__ volatile("ldar x0, [%0]" ::"r"(region + 6) : "x0"));
    FAULT("raise", raise(SIGFPE));
    FAULT("integer division by zero", __asm__ volatile("udiv x0, x1, xzr" ::: "x0"));
}

/* The handler steps over the instruction and leaves a value in a register. */
static void on_skip(int number, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    (void)number;
    (void)info;
    user->uc_mcontext.pc += 4;
    user->uc_mcontext.regs[19] = 0x1234;
    double clobber[4] = {9, 9, 9, 9};
    __asm__ volatile("ld1 {v8.2d, v9.2d}, [%0]\n msr fpcr, %1" ::"r"(clobber), "r"(0x3ull << 22) : "v8", "v9", "memory");
}

static void resume_after(void) {
    struct sigaction action = {.sa_sigaction = on_skip, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, NULL);
    uint64_t general = 0, nzcv, fpcr;
    double vector;
    __asm__ volatile("mov x19, #1\n fmov d8, #2.5\n cmp xzr, xzr\n udf #0\n mrs %1, nzcv\n mrs %3, fpcr\n mov %0, x19\n fmov %d2, d8"
                     : "=r"(general), "=r"(nzcv), "=w"(vector), "=r"(fpcr)::"x19", "d8", "d9", "cc");
    printf("resumed: x19 %#" PRIx64 " d8 %g nzcv %#" PRIx64 " fpcr %#" PRIx64 "\n", general, vector, nzcv, fpcr);
}

static volatile unsigned depth, deepest, handled;

static void on_nested(int number) {
    depth++;
    deepest = depth > deepest ? depth : deepest;
    handled++;
    if (number == SIGUSR1 && handled < 4) {
        raise(SIGUSR2);
    }
    depth--;
}

static void asynchronous(void) {
    struct sigaction action = {.sa_handler = on_nested};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR1);
    printf("handled %u, nested %u\n", handled, deepest);
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
    sigpending(&pending);
    printf("blocked %u pending %d\n", handled, sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("unblocked %u\n", handled);
}

static char alternate[32768];
static volatile int on_alternate;

static void on_overflow(int number) {
    char here;
    (void)number;
    on_alternate = (size_t)(OPAQUE(&here) - alternate) < sizeof alternate;
    siglongjmp(recover, 1);
}

__attribute__((noinline)) static unsigned overflow(unsigned level) {
    volatile char room[1024];
    room[0] = (char)level;
    return level == ~0u ? 0 : overflow(level + 1) + (unsigned)room[0];
}

static void stack_overflow(void) {
    sigaltstack(&(stack_t){.ss_sp = alternate, .ss_size = sizeof alternate}, NULL);
    struct sigaction action = {.sa_handler = on_overflow, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    if (sigsetjmp(recover, 1) == 0) {
        printf("%u\n", overflow(OPAQUE(0u)));
    }
    printf("stack overflow handled on the alternate stack: %d\n", on_alternate);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    region = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(region + PAGE, PAGE, PROT_READ);
    mprotect(region + 2 * PAGE, PAGE, PROT_NONE);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
    for (unsigned k = 0; k < 5; k++) {
        sigaction(numbers[k], &action, NULL);
    }
    faults();
    resume_after();
    asynchronous();
    stack_overflow();
    return 0;
}
