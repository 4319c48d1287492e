/* Clocks go forward, sleeps last at least as long as asked, timers fire. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static int64_t now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000ll + at.tv_nsec;
}

static bool is_monotonic(clockid_t clock) {
    int64_t last = now(clock);
    for (unsigned k = 0; k < 2000; k++) {
        int64_t at = now(clock);
        if (at < last) {
            return false;
        }
        last = at;
    }
    return true;
}

static bool counter_advances(void) {
    uint64_t last, at, frequency;
    __asm__ volatile("isb\n mrs %0, cntvct_el0\n mrs %1, cntfrq_el0" : "=r"(last), "=r"(frequency));
    for (unsigned k = 0; k < 2000; k++) {
        __asm__ volatile("isb\n mrs %0, cntvct_el0" : "=r"(at));
        if (at < last) {
            return false;
        }
        last = at;
    }
    return frequency >= 1000000;
}

static volatile sig_atomic_t ticks;

static void on_tick(int number) {
    (void)number;
    ticks++;
}

int main(void) {
    printf("monotonic %d\n", is_monotonic(CLOCK_MONOTONIC));
    printf("raw %d\n", is_monotonic(CLOCK_MONOTONIC_RAW));
    printf("cpu time %d\n", is_monotonic(CLOCK_PROCESS_CPUTIME_ID));
    printf("counter %d\n", counter_advances());
    int64_t before = now(CLOCK_MONOTONIC);
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    printf("slept %d\n", now(CLOCK_MONOTONIC) - before >= 20000000);
    signal(SIGALRM, on_tick);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 5000}, {0, 5000}}, NULL);
    for (volatile unsigned long k = 0; ticks < 3 && now(CLOCK_MONOTONIC) - before < 20000000000; k++) {
    }
    printf("ticks %d\n", ticks >= 3);
    return 0;
}
