/*
 * WFI: sleep until an event, without the GIL and without using the host's CPU.
 */
#include "wait.h"

#include <time.h>

#include "gic_cpuif.h"
#include "inval_serve.h"
#include "timer.h"

#define NS_PER_SECOND 1000000000ll
#define VIRTUAL_NAP_NS 1000000ll /* virtual clock with several PEs: check again whether all sleep */

static struct timespec deadline(int64_t ns) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t total = at.tv_nsec + ns % NS_PER_SECOND;
    at.tv_sec += ns / NS_PER_SECOND + total / NS_PER_SECOND;
    at.tv_nsec = total % NS_PER_SECOND;
    return at;
}

static bool all_sleep(const struct cpu *cpu) {
    for (uint32_t k = 0; k < cpu->machine->num_pes; k++) {
        if (k != cpu->index && atomic_load(&cpu->machine->pe[k]->in_guest)) {
            return false;
        }
    }
    return true;
}

/* Sleep until a request or for `ns`. */
static void nap(struct cpu *cpu, int64_t ns) {
    struct timespec until = deadline(ns < 3600 * NS_PER_SECOND ? ns : 3600 * NS_PER_SECOND);
    pthread_mutex_lock(&cpu->sleep_lock);
    while (!atomic_load(&cpu->request)) {
        if (pthread_cond_timedwait(&cpu->sleep_cond, &cpu->sleep_lock, &until)) {
            break;
        }
    }
    pthread_mutex_unlock(&cpu->sleep_lock);
}

void cpu_sleep(struct cpu *cpu) {
    while (!irq_pending(cpu)) { /* even a masked one ends WFI */
        int64_t left = timer_poll(cpu);
        if (left <= 0 || atomic_load(&cpu->request)) {
            break;
        }
        if (cpu->machine->clock == CLOCK_EXACT) { /* the caller decides what runs meanwhile */
            cpu->leave_irq |= IRQ_IDLE;
            cpu->exit->far = (uint64_t)left;
            cpu_request(cpu, REQ_LEAVE);
            break;
        }
        cpu_leave_guest(cpu);
        if (!cpu->machine->clock) {
            nap(cpu, left);
        } else if (left != INT64_MAX && all_sleep(cpu)) {
            atomic_fetch_add(&cpu->machine->virtual_time, (uint64_t)left); /* skip idle time: jump to the timer */
        } else {
            nap(cpu, VIRTUAL_NAP_NS);
        }
        cpu_enter_guest(cpu);
    }
}

void cpu_wake(struct cpu *cpu) {
    pthread_mutex_lock(&cpu->sleep_lock);
    pthread_cond_signal(&cpu->sleep_cond);
    pthread_mutex_unlock(&cpu->sleep_lock);
}
