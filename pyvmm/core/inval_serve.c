/*
 * Performing the invalidations posted to this PE (inval.c), and waiting for those that it has posted.
 */
#include "inval_serve.h"

#include <sched.h>

#include "code.h"
#include "inval.h"
#include "tlb.h"

static void apply(struct cpu *cpu, const struct inval *what) {
    if ((what->kind == INVAL_VA || what->kind == INVAL_ASID) && what->regime != cpu->regime) {
        tlb_flush_regime(cpu, what->regime); /* its registers say how to find less, and are not here */
        return;
    }
    switch (what->kind) {
    case INVAL_VA: tlb_flush_va(cpu, what->addr, what->size); break;
    case INVAL_ASID: tlb_flush_asid(cpu, (uint16_t)what->addr); break;
    case INVAL_CODE_ALL: code_drop_all(cpu); break;
    case INVAL_CODE_PAGE: code_drop_page(cpu, (const uint8_t *)what->addr); break;
    case INVAL_WRITES: tlb_flush_writes(cpu, (const uint8_t *)what->addr); break;
    case INVAL_ALL:
        if (what->is_one) {
            tlb_flush_regime(cpu, what->regime);
            break;
        } /* fall through */
    case INVAL_IPA:
    case INVAL_PA: tlb_flush_regimes(cpu); break;
    }
}

void cpu_serve_invalidations(struct cpu *cpu) {
    struct inval work[INVAL_QUEUE];
    pthread_mutex_lock(&cpu->inval_lock);
    uint32_t num = cpu->num_inval;
    for (uint32_t k = 0; k < num; k++) {
        work[k] = cpu->inval[k];
    }
    cpu->num_inval = 0;
    uint64_t posted = atomic_load(&cpu->inval_posted);
    atomic_fetch_and(&cpu->request, ~(uint32_t)REQ_INVAL);
    pthread_mutex_unlock(&cpu->inval_lock);
    for (uint32_t k = 0; k < num; k++) {
        apply(cpu, &work[k]);
    }
    atomic_store(&cpu->inval_done, posted);
}

void cpu_wait_invalidations(struct cpu *cpu) {
    while (cpu->inval_waiting) {
        unsigned k = (unsigned)__builtin_ctzll(cpu->inval_waiting);
        while (!inval_is_served(cpu->machine->pe[k], cpu->inval_want[k])) {
            if (atomic_load(&cpu->request) & REQ_INVAL) {
                cpu_serve_invalidations(cpu); /* the other one may be waiting for us */
            }
            sched_yield();
        }
        cpu->inval_waiting &= cpu->inval_waiting - 1;
    }
}

void cpu_enter_guest(struct cpu *cpu) {
    atomic_store(&cpu->in_guest, 1);
    if (atomic_load(&cpu->request) & REQ_INVAL) {
        cpu_serve_invalidations(cpu);
    }
}

void cpu_leave_guest(struct cpu *cpu) {
    atomic_store(&cpu->in_guest, 0);
}
