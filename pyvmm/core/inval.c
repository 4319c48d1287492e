/*
 * Invalidations between PEs, and from the host to PEs.
 *
 * A poster puts the work into the PE's queue and sets REQ_INVAL.  It may wait until the PE has served it; a PE that is not
 * in guest code needs no waiting, for it serves its queue before it runs an instruction.  The order that makes this safe:
 * the PE sets in_guest, then looks at request; the poster sets request, then looks at in_guest (all sequentially
 * consistent), so at least one of them sees the other.
 */
#include "inval.h"

#include <sched.h>

#include "code.h"
#include "tlb.h"

static void apply(struct cpu *cpu, const struct inval *what) {
    switch (what->kind) {
    case INVAL_VA: tlb_flush_va(cpu, what->addr, what->size); break;
    case INVAL_ASID: tlb_flush_asid(cpu, (uint16_t)what->addr); break;
    case INVAL_CODE_ALL: code_drop_all(cpu); break;
    case INVAL_CODE_PAGE: code_drop_page(cpu, (const uint8_t *)what->addr); break;
    case INVAL_WRITES: tlb_flush_writes(cpu, (const uint8_t *)what->addr); break;
    case INVAL_ALL:
    case INVAL_IPA:
    case INVAL_PA: tlb_flush_all(cpu); break;
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

/* A full queue becomes "everything". */
static uint64_t post(struct cpu *cpu, struct inval what) {
    pthread_mutex_lock(&cpu->inval_lock);
    if (cpu->num_inval == INVAL_QUEUE) {
        cpu->inval[0] = (struct inval){.kind = INVAL_ALL};
        cpu->inval[1] = (struct inval){.kind = INVAL_CODE_ALL};
        cpu->num_inval = 2;
    }
    cpu->inval[cpu->num_inval++] = what;
    uint64_t ticket = atomic_fetch_add(&cpu->inval_posted, 1) + 1;
    cpu_request(cpu, REQ_INVAL);
    pthread_mutex_unlock(&cpu->inval_lock);
    return ticket;
}

static bool served(struct cpu *cpu, uint64_t ticket) {
    return !atomic_load(&cpu->in_guest) || atomic_load(&cpu->inval_done) >= ticket;
}

void cpu_post_inval(struct cpu *from, struct inval what, bool others_only) {
    struct machine *machine = from->machine;
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        if (k != from->index || !others_only) {
            from->inval_want[k] = post(machine->pe[k], what);
            from->inval_waiting |= k == from->index ? 0 : 1ull << k;
        }
    }
}

void cpu_wait_invalidations(struct cpu *cpu) {
    while (cpu->inval_waiting) {
        unsigned k = (unsigned)__builtin_ctzll(cpu->inval_waiting);
        while (!served(cpu->machine->pe[k], cpu->inval_want[k])) {
            if (atomic_load(&cpu->request) & REQ_INVAL) {
                cpu_serve_invalidations(cpu); /* the other one may be waiting for us */
            }
            sched_yield();
        }
        cpu->inval_waiting &= cpu->inval_waiting - 1;
    }
}

void machine_post_inval(struct machine *machine, struct inval what) {
    uint64_t tickets[64];
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        tickets[k] = post(machine->pe[k], what);
    }
    for (uint32_t k = 0; k < machine->num_pes; k++) {
        while (!served(machine->pe[k], tickets[k])) {
            sched_yield();
        }
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

void machine_tlbi_all(struct machine *machine) {
    machine_post_inval(machine, (struct inval){.kind = INVAL_ALL});
}

/* A granule that no TLB ever held needs no flush. */
void machine_tlbi_pa(struct machine *machine, uint64_t pa, uint64_t size) {
    bool held = false;
    for (uint64_t at = pa & PAGE_MASK; at < pa + size; at += GRANULE_SIZE) {
        uint64_t offset = at - machine->dram_base;
        held |= offset < machine->dram_size &&
                atomic_fetch_and(&machine->marks[offset >> GRANULE_SHIFT], (uint8_t)~MARK_CACHED) & MARK_CACHED;
    }
    if (held) {
        machine_post_inval(machine, (struct inval){.kind = INVAL_PA, .addr = pa, .size = size});
    }
}

void machine_tlbi_ipa(struct machine *machine, uint64_t vmid, uint64_t ipa, uint64_t size) {
    (void)vmid; /* a PE caches translations of the context that it ran last, whoever's that is */
    machine_post_inval(machine, (struct inval){.kind = INVAL_IPA, .addr = ipa, .size = size});
}

void machine_tlbi_vmid(struct machine *machine, uint64_t vmid) {
    (void)vmid;
    machine_post_inval(machine, (struct inval){.kind = INVAL_ALL});
}
