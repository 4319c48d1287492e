/*
 * The parts of Linux that the agent uses, without a C library: system calls by number, structures from the kernel's
 * headers.
 *
 * A call returns the kernel's result: -errno for an error.
 */
#ifndef LINUX_H
#define LINUX_H

#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/netlink.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/reboot.h>
#include <linux/signalfd.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <linux/wait.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline long syscall6(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#elif defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
#error "the agent supports arm64, and for its tests x86-64"
#endif
}

#define SYSCALL(name, a, b, c, d, e) \
    syscall6(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* Declared by the kernel's headers only together with a C library. */
enum { TCSBRK = 0x5409, TIOCSCTTY = 0x540e, TIOCSPGRP = 0x5410, TIOCSWINSZ = 0x5414, TIOCGPTPEER = 0x5441 };
enum { TIOCSPTLCK = 0x40045431, AF_INET = 2, AF_NETLINK = 16, SOCK_DGRAM = 2, IFF_UP = 1 };
struct ifreq {
    char ifr_name[16];
    short ifr_flags;
    char unused[22];
};

/* A signal set has 64 bits, signal n in bit n - 1. */
#define SIGNAL_BIT(number) (1ull << ((number) - 1))
#define SIGNAL_SET_SIZE 8

static inline int sys_open(const char *path, int flags) {
    return (int)SYSCALL(openat, AT_FDCWD, path, flags | O_CLOEXEC, 0, 0);
}
static inline int sys_close(int fd) { return (int)SYSCALL(close, fd, 0, 0, 0, 0); }
static inline long sys_read(int fd, void *data, size_t size) { return SYSCALL(read, fd, data, size, 0, 0); }
static inline long sys_write(int fd, const void *data, size_t size) { return SYSCALL(write, fd, data, size, 0, 0); }
static inline int sys_pipe(int fds[2]) { return (int)SYSCALL(pipe2, fds, O_CLOEXEC, 0, 0, 0); }
/* Like dup2(): fd stays open across an execve(). */
static inline int sys_dup_to(int from, int fd) {
    return from == fd ? (int)SYSCALL(fcntl, fd, F_SETFD, 0, 0, 0) : (int)SYSCALL(dup3, from, fd, 0, 0, 0);
}
static inline int sys_set_nonblocking(int fd) { return (int)SYSCALL(fcntl, fd, F_SETFL, O_NONBLOCK, 0, 0); }
static inline int sys_ioctl(int fd, unsigned request, const void *data) {
    return (int)SYSCALL(ioctl, fd, request, data, 0, 0);
}
static inline long sys_getdents(int fd, void *data, size_t size) { return SYSCALL(getdents64, fd, data, size, 0, 0); }
static inline int sys_mkdir(const char *path) { return (int)SYSCALL(mkdirat, AT_FDCWD, path, 0755, 0, 0); }
static inline int sys_rmdir(const char *path) { return (int)SYSCALL(unlinkat, AT_FDCWD, path, AT_REMOVEDIR, 0, 0); }
static inline int sys_symlink(const char *target, const char *path) {
    return (int)SYSCALL(symlinkat, target, AT_FDCWD, path, 0, 0);
}
static inline int sys_chdir(const char *path) { return (int)SYSCALL(chdir, path, 0, 0, 0, 0); }
static inline int sys_mount(const char *kind, const char *where, unsigned long flags, const char *options) {
    return (int)SYSCALL(mount, kind, where, kind, flags, options);
}
static inline int sys_fork(void) { return (int)SYSCALL(clone, SIGCHLD, 0, 0, 0, 0); }
static inline int sys_execve(const char *path, char *const *argv, char *const *envp) {
    return (int)SYSCALL(execve, path, argv, envp, 0, 0);
}
static inline int sys_wait(int pid, int *status, int flags) { return (int)SYSCALL(wait4, pid, status, flags, 0, 0); }
static inline int sys_kill(int pid, int number) { return (int)SYSCALL(kill, pid, number, 0, 0, 0); }
static inline int sys_getpid(void) { return (int)SYSCALL(getpid, 0, 0, 0, 0, 0); }
static inline int sys_setsid(void) { return (int)SYSCALL(setsid, 0, 0, 0, 0, 0); }
static inline void sys_die_with_parent(void) { SYSCALL(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }
static inline int sys_poll(struct pollfd *fds, unsigned num_fds) { return (int)SYSCALL(ppoll, fds, num_fds, 0, 0, 0); }
static inline void sys_sleep(int seconds) {
    struct __kernel_timespec time = {.tv_sec = seconds};
    SYSCALL(nanosleep, &time, 0, 0, 0, 0);
}
static inline void sys_set_blocked_signals(uint64_t set) {
    SYSCALL(rt_sigprocmask, SIG_SETMASK, &set, 0, SIGNAL_SET_SIZE, 0);
}
/* A shell that starts a program in the background makes it ignore some signals, and its children too. */
static inline void sys_set_default(int number) {
    static const uint64_t action[4]; /* struct sigaction: SIG_DFL is 0 */
    SYSCALL(rt_sigaction, number, action, 0, SIGNAL_SET_SIZE, 0);
}
/* A descriptor that is readable while one of these blocked signals is pending. */
static inline int sys_signalfd(uint64_t set) {
    return (int)SYSCALL(signalfd4, -1, &set, SIGNAL_SET_SIZE, SFD_CLOEXEC | SFD_NONBLOCK, 0);
}
static inline _Noreturn void sys_exit(int status) {
    for (;;)
        SYSCALL(exit_group, status, 0, 0, 0, 0);
}

/* ---- wait status ---- */

static inline int signal_of(int status) { return status & 0x7f; }
static inline int exit_code_of(int status) { return status >> 8 & 0xff; }

/* ---- text ---- */

static inline size_t text_size(const char *text) {
    size_t size = 0;
    while (text[size])
        size++;
    return size;
}

static inline bool text_starts(const char *text, const char *start) {
    while (*start)
        if (*text++ != *start++)
            return false;
    return true;
}

static inline bool text_equal(const char *a, const char *b) { return text_starts(a, b) && text_size(a) == text_size(b); }

/* Appends to the text in buffer[size], as far as there is room. */
static inline void text_append(char *buffer, size_t size, const char *text) {
    size_t at = text_size(buffer);
    while (*text && at + 1 < size)
        buffer[at++] = *text++;
    buffer[at] = 0;
}

static inline void text_append_number(char *buffer, size_t size, unsigned number) {
    char digits[11] = "";
    size_t at = sizeof digits - 1;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    text_append(buffer, size, digits + at);
}

#endif
