/*
 * A debugger and its debuggee: single steps, hardware breakpoints and watchpoints through ptrace.
 *
 * Hardware breakpoints and watchpoints of the kernel, so the answer needs one: see record.py.
 */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#ifndef NT_ARM_HW_BREAK
#define NT_ARM_HW_BREAK 0x402
#define NT_ARM_HW_WATCH 0x403
#endif

struct registers {
    uint64_t x[31], sp, pc, pstate;
};

struct debug_registers {
    uint32_t info, pad;
    struct {
        uint64_t address;
        uint32_t control, pad;
    } slot[16];
};

enum { ENABLE = 1, USER = 2 << 1, LOAD = 1 << 3, STORE = 2 << 3 };

uint64_t buffer[8] __attribute__((aligned(64)));
extern const char debuggee[], stepped[], waiting[], loads[], stores[], finish[];

/* What is debugged; every label is an instruction. */
__asm__(".text\n"
        ".global debuggee, stepped, waiting, loads, stores, finish\n"
        "debuggee: brk #0\n"
        "stepped: mov x9, #3\n"
        "0: sub x9, x9, #1\n"
        "cbnz x9, 0b\n"
        "adrp x10, buffer\n"
        "add x10, x10, :lo12:buffer\n"
        "mov x8, #172\n" /* getpid */
        "svc #0\n"
        "b 1f\n"
        "udf #0\n"
        "1: bl 2f\n"
        "b 3f\n"
        "2: ret\n"
        "3: fmov d0, #1.0\n"
        "waiting: nop\n"
        "loads: ldrb w11, [x10]\n"
        "ldrb w11, [x10, #1]\n"
        "ldrh w11, [x10, #2]\n"
        "ldr w11, [x10, #4]\n"
        "ldr x11, [x10, #8]\n"
        "ldp x11, x12, [x10, #16]\n"
        "stores: strb w11, [x10]\n"
        "strb w11, [x10, #1]\n"
        "strh w11, [x10, #2]\n"
        "str w11, [x10, #4]\n"
        "str x11, [x10, #8]\n"
        "stp x11, x12, [x10, #16]\n"
        ".arch_extension lse\n"
        "ldadd x11, x12, [x10]\n"
        "finish: mov x0, #7\n"
        "mov x8, #93\n" /* exit */
        "svc #0\n");

static struct registers registers_of(pid_t child) {
    struct registers r;
    struct iovec io = {&r, sizeof r};
    ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &io);
    return r;
}

static void set_pc(pid_t child, const char *pc) {
    struct registers r = registers_of(child);
    struct iovec io = {&r, sizeof r};
    r.pc = (uintptr_t)pc;
    ptrace(PTRACE_SETREGSET, child, NT_PRSTATUS, &io);
}

/* Resume and wait; @return the PC as an offset from `from`, or -1 if it exited */
static long go(pid_t child, int request, const char *from, siginfo_t *info) {
    int status;
    ptrace(request, child, 0, 0);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) {
        printf("ended: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
        return -1;
    }
    ptrace(PTRACE_GETSIGINFO, child, 0, info);
    return (long)(registers_of(child).pc - (uintptr_t)from);
}

static void set_debug(pid_t child, int set, unsigned n, uint64_t address, uint32_t control) {
    struct debug_registers d = {0};
    struct iovec io = {&d, 8 + 16 * (n + 1)};
    d.slot[n].address = address;
    d.slot[n].control = control;
    if (ptrace(PTRACE_SETREGSET, child, set, &io)) {
        printf("not set: %d\n", errno);
    }
}

static pid_t begin(void) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        ((void (*)(void))debuggee)();
    }
    siginfo_t info;
    int status;
    waitpid(child, &status, 0);
    ptrace(PTRACE_GETSIGINFO, child, 0, &info);
    printf("brk: signal %d code %d\n", WSTOPSIG(status), info.si_code);
    set_pc(child, stepped);
    return child;
}

static void steps(void) {
    pid_t child = begin();
    siginfo_t info;
    long at;
    printf("steps:");
    do {
        at = go(child, PTRACE_SINGLESTEP, stepped, &info);
        printf(" %ld", at / 4);
    } while (at >= 0 && at != waiting - stepped);
    printf("\nsignal %d code %d\n", info.si_signo, info.si_code);
    go(child, PTRACE_CONT, stepped, &info);
}

static void breakpoints(void) {
    pid_t child = begin();
    siginfo_t info;
    set_debug(child, NT_ARM_HW_BREAK, 0, (uintptr_t)stepped + 4, ENABLE | USER | 0xf << 5);
    for (unsigned turn = 0; turn < 3; turn++) {
        long at = go(child, PTRACE_CONT, stepped, &info);
        printf("breakpoint %ld, x9 %d, code %d\n", at / 4, (int)registers_of(child).x[9], info.si_code);
        set_debug(child, NT_ARM_HW_BREAK, 0, 0, 0);
        printf("over it %ld\n", go(child, PTRACE_SINGLESTEP, stepped, &info) / 4);
        set_debug(child, NT_ARM_HW_BREAK, 0, (uintptr_t)stepped + 4, ENABLE | USER | 0xf << 5);
    }
    set_debug(child, NT_ARM_HW_BREAK, 1, (uintptr_t)waiting, ENABLE | USER | 0xf << 5);
    printf("breakpoint %ld\n", go(child, PTRACE_CONT, stepped, &info) / 4);
    set_debug(child, NT_ARM_HW_BREAK, 1, 0, 0);
    go(child, PTRACE_CONT, stepped, &info);
}

/* All stops at a watchpoint, as instruction and byte of the buffer. */
static void watch(const char *name, uint64_t address, uint32_t bytes, uint32_t access) {
    pid_t child = begin();
    siginfo_t info;
    uint32_t control = ENABLE | USER | access | bytes << 5;
    printf("%s:", name);
    for (;;) {
        set_debug(child, NT_ARM_HW_WATCH, 0, address, control);
        long at = go(child, PTRACE_CONT, loads, &info);
        if (at < 0) {
            return;
        }
        printf(" %ld@%ld", at / 4, (long)((uintptr_t)info.si_addr - (uintptr_t)buffer));
        set_debug(child, NT_ARM_HW_WATCH, 0, 0, 0);
        go(child, PTRACE_SINGLESTEP, loads, &info);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    steps();
    breakpoints();
    uint64_t base = (uintptr_t)buffer;
    watch("reads of all", base, 0xff, LOAD);
    watch("writes of all", base, 0xff, STORE);
    watch("byte 0", base, 0x01, LOAD | STORE);
    watch("byte 3", base, 0x08, LOAD | STORE);
    watch("half 6", base, 0xc0, LOAD | STORE);
    watch("word 4", base, 0xf0, STORE);
    watch("second", base + 8, 0xff, LOAD | STORE);
    watch("fourth", base + 24, 0xff, LOAD | STORE);
    watch("nothing", base + 32, 0xff, LOAD | STORE);
    return 0;
}
